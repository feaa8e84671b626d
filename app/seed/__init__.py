"""Seed: made-up history for screenshots, tests and a look around, in a workspace of its own.

Rows are what real traffic would have left, signatures and receipts included. The peers do not exist: their
addresses end in `.example`, which no name server knows (RFC 6761 section 6.5), their private keys are thrown
away, so that nobody can speak for them, and their connections carry `is_seeded`, over which nothing is sent.
The same size gives the same history each time, ending now; keys and signatures alone are new.
"""
