"""tree.json: events that share one signature, and proofs that lie."""

import base64
from collections.abc import Iterator
from typing import Any

from app.protocol import signing
from app.protocol.members import encode_base64
from app.protocol.signing import Kind
from app.protocol.tree import Tree
from docs.vectors.cast import NOW, SENDER, Pair, uuid

#: Sizes with every kind of shape: a pair, odd ones, a full tree and its neighbours.
SIZES = (2, 3, 5, 7, 8, 9)


def make_tree(pairs: dict[str, Pair]) -> Any:
    """tree.json."""
    trees = [_make(pairs, key, size) for key, size in [*(("rsa", size) for size in SIZES), ("ed25519", 6)]]
    return {"trees": trees, "refused": list(_refused(trees[3]["events"], trees[2]["events"]))}


def _make(pairs: dict[str, Pair], key: str, size: int) -> dict[str, Any]:
    signer = pairs[key].signer()
    events = [
        {
            "messageId": uuid(f"tree of {size}, event {n}"),
            "instanceId": SENDER,
            "eventType": "task.created",
            "payload": {"n": n},
            "timestamp": NOW - 1000,
            "keyId": signer.key_id,
        }
        for n in range(size)
    ]
    bodies = [signing.body_of(Kind.EVENT, event) for event in events]
    signed = signer.sign_together(bodies)
    root = Tree([signing.event_leaf(body) for body in bodies]).root
    return {
        "key": key,
        "leaves": [encode_base64(signing.event_leaf(body)) for body in bodies],
        "root": encode_base64(root),
        "signingInput": base64.b64encode(f"tidings/1\nevent-tree\n{encode_base64(root)}".encode()).decode(),
        "events": [
            {**event, "proof": _proof(one), "signature": one.signature}
            for event, one in zip(events, signed, strict=True)
        ],
    }


def _proof(signed: signing.EventSignature) -> dict[str, Any]:
    assert signed.proof is not None
    path = [encode_base64(one) for one in signed.proof.path]
    return {"index": signed.proof.index, "size": signed.proof.size, "path": path}


def _refused(events: list[dict[str, Any]], others: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each with the code that answers it. `events` are seven; the last but one has a full path."""
    event, other = events[4], others[4]
    proof = event["proof"]

    def case(name: str, code: str, **changes: Any) -> dict[str, Any]:
        return {"name": name, "code": code, "event": {**event, **changes}}

    def with_proof(name: str, code: str, **changes: Any) -> dict[str, Any]:
        return case(name, code, proof={**proof, **changes})

    wrong, malformed = "authentication_failed", "invalid_request"
    yield case("another payload", wrong, payload={"n": 99})
    yield case("the root of another tree", wrong, signature=other["signature"])
    yield case("the proof of another tree", wrong, proof=other["proof"])
    yield with_proof("another index with a path of the same length", wrong, index=5)
    yield with_proof(
        "two hashes changed places", wrong, path=[proof["path"][1], proof["path"][0], *proof["path"][2:]]
    )
    yield with_proof("one hash is another one", wrong, path=[encode_base64(bytes(32)), *proof["path"][1:]])
    yield with_proof("a shorter path", malformed, path=proof["path"][:-1])
    yield with_proof("a longer path", malformed, path=[*proof["path"], proof["path"][0]])
    yield with_proof("an index that is not below size", malformed, index=7)
    yield with_proof("a tree of one", malformed, index=0, size=1, path=[])
    yield with_proof("a tree of 1,025", malformed, size=1025)
    yield with_proof("a hash of 31 bytes", malformed, path=[encode_base64(bytes(31)), *proof["path"][1:]])
    yield case("no object", malformed, proof=[proof])
    yield case("null", malformed, proof=None)
