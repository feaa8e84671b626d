"""Coming in: what peers send, checked, stored once, counted and acknowledged."""
