"""The outside world: the one way out, and the calls to a peer that go through it.

    address    which hosts and addresses may be called at all
    wire       one connection to one vetted address, under a deadline and a cap
    adapter    the pool of kept-alive connections, which `requests` sends through
    client     a session of `requests`, with GET and POST
    peer_api   the calls that the protocol knows, signed where it wants them signed
    errors     everything that can go wrong on the way, as a tree

No other package opens a connection to somebody else's server.
"""
