"""The wire protocol `tidings/1`, pure: every result follows from the arguments, time and chance included.

    bytes ──canonical.loads──► JSON ──messages / control──► typed message ──verify──► Verified…
                                                                              ▲
    headers ──http_signature.read_signature──► TransportSignature ──verify────┘ keys

Nothing here knows a database, a network or a web framework, so a stranger can read these
files beside `docs/protocol.md`. Every refusal is a `Problem` of `errors`; the states and
the moves between them are tables in `states`.
"""
