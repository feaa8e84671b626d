"""The cast of the test vectors: one clock, fixed ids, and the test keys.

Only if keys.json is missing are new keys made.
"""

import json
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from app.protocol import keys
from app.protocol.keys import Algorithm, KeyRecord, KeyStatus
from app.protocol.signing import Signer

HERE = Path(__file__).parent

#: 2026-11-24T12:00:00Z, in ms: the clock of all vectors.
NOW = 1_795_521_600_000
DAY = 86_400_000


def uuid(name: str) -> str:
    """A fixed UUID for a name."""
    return str(uuid5(NAMESPACE_URL, f"urn:tidings:vectors:{name}"))


SENDER, RECEIVER, CONNECTION, EPOCH = (uuid(name) for name in ("sender", "receiver", "connection", "epoch"))
SENDER_URL, RECEIVER_URL = "https://sender.example", "https://receiver.example:8443"

#: Name in keys.json, algorithm, status, notAfter, and the name of the key that vouches for it.
KEYS: list[tuple[str, Algorithm, KeyStatus, int | None, str | None]] = [
    ("rsa", Algorithm.RSA, KeyStatus.ACTIVE, None, None),
    ("ed25519", Algorithm.ED25519, KeyStatus.NEXT, None, "rsa"),
    ("retired", Algorithm.ED25519, KeyStatus.RETIRED, NOW - DAY, "rsa"),
    ("revoked", Algorithm.ED25519, KeyStatus.REVOKED, NOW - DAY, "rsa"),
]


class Pair:
    """A test key: the private half and its record."""

    def __init__(self, private_pem: str, record: KeyRecord) -> None:
        self.private_pem = private_pem
        self.private = keys.load_private_key(private_pem)
        self.record = record

    def signer(self, instance_id: str = SENDER) -> Signer:
        """Signs with this key."""
        return Signer(instance_id, self.record.key_id, self.private)


def load_pairs() -> dict[str, Pair]:
    """The test keys, from keys.json or new ones."""
    path = HERE / "keys.json"
    known = json.loads(path.read_text("utf-8"))["keys"] if path.exists() else {}
    pairs: dict[str, Pair] = {}
    for name, algorithm, status, not_after, by in KEYS:
        pem = known[name]["privateKeyPem"] if name in known else keys.generate(algorithm).private_key_pem
        private = keys.load_private_key(pem)
        record = KeyRecord(
            key_id=f"k-{private.fingerprint[:12]}",
            algorithm=algorithm,
            public_key_pem=private.public_key_pem,
            fingerprint=private.fingerprint,
            status=status,
            not_before=NOW - 30 * DAY,
            not_after=not_after,
            revoked_at=not_after if status is KeyStatus.REVOKED else None,
        )
        if by is not None:
            record = keys.vouch(SENDER, record, pairs[by].record.key_id, pairs[by].private)
        pairs[name] = Pair(pem, record)
    return pairs
