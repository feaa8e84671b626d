"""Comparing with a peer what was sent with what was stored, and mending what differs."""
