"""§1.3: one signature for many events, made and verified by a peer that shares no code with the subject."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance import wire
from tests.conformance.conftest import MakeBond
from tests.conformance.foreign_peer import ForeignPeer
from tests.conformance.subject import Bond
from tests.conformance.wire import Message, to_base64

SIZE = 7


@pytest.fixture
def trees(make_bond: MakeBond, peer: ForeignPeer) -> Bond:
    """A connection with a peer that lists the feature."""
    peer.features = ["ed25519", "tree"]
    bond = make_bond(peer)
    if "tree" not in bond.link.remote.document["features"]:
        pytest.skip("the instance does not list tree")
    return bond


def test_events_published_together_come_under_one_signature_to_who_lists_the_feature(trees: Bond) -> None:
    trees.listen()

    published = trees.subject.publish_many(f"{trees.topic}.created", SIZE)

    trees.wait_for_delivery(published[-1], "delivered")
    events = trees.link.events
    assert [event["proof"]["index"] for event in events] == list(range(SIZE))
    assert len({event["signature"] for event in events}) == 1
    assert len({wire.root_of(event) for event in events}) == 1


def test_a_lone_event_is_signed_by_itself(trees: Bond) -> None:
    trees.listen()

    trees.wait_for_delivery(trees.publish(), "delivered")

    [event] = trees.link.events
    assert "proof" not in event


@pytest.mark.parametrize("size", [2, 3, 8, 100])
def test_events_under_one_signature_are_stored_and_acknowledged(trees: Bond, size: int) -> None:
    trees.offer()
    events = trees.peer.events_together(f"{trees.topic}.x", size)

    answer = trees.peer.send_batch(trees.link, trees.peer.batch(trees.link, enumerate(events, 1)))

    assert answer.status == 200
    assert {one["status"] for one in answer.value["acks"]} == {"stored"}
    stored = trees.subject.get(f"/events/messages/{events[-1]['messageId']}")
    assert (stored["signature"], stored["payload"]) == (events[-1]["signature"], {"n": size - 1})


def test_an_event_that_comes_again_signed_by_itself_is_the_same(trees: Bond) -> None:
    trees.offer()
    event, _ = trees.peer.events_together(f"{trees.topic}.x", 2)
    bare = {name: value for name, value in event.items() if name not in {"proof", "signature"}}
    trees.peer.send_batch(trees.link, trees.peer.batch(trees.link, [(1, event)]))

    answer = trees.peer.send_batch(
        trees.link, trees.peer.batch(trees.link, [(1, trees.peer.key.sign("event", bare))])
    )

    assert [one["status"] for one in answer.value["acks"]] == ["duplicate"]


def _proof(**changes: Any) -> Callable[[Message, Message], Message]:
    return lambda event, other: {**event, "proof": {**event["proof"], **changes}}


#: What is wrong -> the event, made of a good one and one of another tree, and the code that answers it.
LIES: dict[str, tuple[Callable[[Message, Message], Message], str]] = {
    "another payload": (lambda event, other: {**event, "payload": {"n": 9}}, "authentication_failed"),
    "a signature of another tree": (
        lambda event, other: {**event, "signature": other["signature"]},
        "authentication_failed",
    ),
    "a proof of another tree": (
        lambda event, other: {**event, "proof": other["proof"]},
        "authentication_failed",
    ),
    "no proof": (
        lambda event, other: {name: value for name, value in event.items() if name != "proof"},
        "authentication_failed",
    ),
    "another index": (_proof(index=1), "authentication_failed"),
    # (Size 8 would do: nothing that is signed tells a tree of seven from its beginning in one of eight.)
    "another size": (_proof(size=4), "invalid_request"),
    "a path of zeros": (_proof(path=[to_base64(bytes(32))] * 3), "authentication_failed"),
    "a short path": (_proof(path=[to_base64(bytes(32))] * 2), "invalid_request"),
    "a path of 9,000": (_proof(path=[to_base64(bytes(32))] * 9_000), "invalid_request"),
    "an index beyond the size": (_proof(index=7), "invalid_request"),
    "a size beyond 1,024": (_proof(size=1025, path=[to_base64(bytes(32))] * 11), "invalid_request"),
    "a hash of 33 bytes": (_proof(path=[to_base64(bytes(33))] * 3), "invalid_request"),
    "no object": (lambda event, other: {**event, "proof": [1]}, "invalid_request"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_proof_that_lies_is_refused_and_the_rest_of_the_batch_is_not(trees: Bond, lie: str) -> None:
    trees.offer()
    good = trees.peer.events_together(f"{trees.topic}.x", SIZE)
    others = trees.peer.events_together(f"{trees.topic}.x", SIZE)
    change, code = LIES[lie]
    lying = change(good[0], others[0])

    answer = trees.peer.send_batch(trees.link, trees.peer.batch(trees.link, enumerate([lying, good[1]], 1)))

    first, second = answer.value["acks"]
    assert (first["status"], first["error"]["code"]) == ("rejected", code)
    assert second["status"] == "stored"
    assert trees.subject.call("GET", f"/events/messages/{lying['messageId']}").status == 404
