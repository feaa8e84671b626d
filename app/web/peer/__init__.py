"""What peers call: the public endpoints of the protocol's §7, and the documents of §2."""
