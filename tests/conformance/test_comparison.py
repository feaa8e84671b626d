"""§6.1: comparing what was sent and stored, asked by a peer that shares no code with the subject."""

from hashlib import sha256

import pytest

from tests.conformance import wire
from tests.conformance.subject import Bond
from tests.conformance.wire import Message, new_id, to_base64

NOBODYS = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def sent(bond: Bond) -> tuple[Bond, list[Message]]:
    """Three events that the subject stored under the numbers 1 to 3."""
    if "reconcile" not in bond.link.remote.document["features"]:
        pytest.skip("the instance does not list reconcile")
    bond.offer()
    events = [bond.peer.event(f"{bond.topic}.x") for _ in range(3)]
    bond.peer.send_batch(bond.link, bond.peer.batch(bond.link, enumerate(events, 1)))
    return bond, events


def entry_of(number: int, event: Message) -> Message:
    bare = {name: value for name, value in event.items() if name != "signature"}
    return {"sequence": number, "messageId": event["messageId"], "digest": wire.digest("event", bare)}


def root(entries: list[Message]) -> str:
    """RFC 6962 §2.1, as it is written there."""

    def tree(leaves: list[bytes]) -> bytes:
        if len(leaves) < 2:
            return sha256(b"\x00" + leaves[0]).digest() if leaves else sha256(b"").digest()
        half = 1
        while half * 2 < len(leaves):
            half *= 2
        return sha256(b"\x01" + tree(leaves[:half]) + tree(leaves[half:])).digest()

    texts = [
        f"tidings/1\nreconcile\n{one['sequence']}\n{one['messageId']}\n{one['digest']}" for one in entries
    ]
    return to_base64(tree([text.encode() for text in texts]))


def ask(bond: Bond, entries: list[Message], last: int = 10, **members: object) -> Message:
    """The range from 1 to `last`, of which we hold these entries; the payload of the answer."""
    span = {"fromSequence": 1, "toSequence": last, "count": len(entries), "root": root(entries)}
    question = {
        "reconciliationId": new_id(),
        "side": "publisher",
        "streamEpoch": bond.link.epoch,
        "ranges": [span],
        **members,
    }
    answer = bond.peer.control(bond.link, "reconcile", question)
    assert answer.status == 200, answer
    assert answer.value["payload"]["reconciliationId"] == question["reconciliationId"]
    [found] = answer.value["payload"]["ranges"]
    assert (found["fromSequence"], found["toSequence"]) == (1, last)
    return dict(found)


def test_equal_lists_have_equal_roots(sent: tuple[Bond, list[Message]]) -> None:
    bond, events = sent
    entries = [entry_of(number, event) for number, event in enumerate(events, 1)]

    answered = ask(bond, entries)

    assert (answered["count"], answered["root"]) == (3, root(entries))
    assert "entries" not in answered


def test_a_small_range_that_differs_is_listed(sent: tuple[Bond, list[Message]]) -> None:
    bond, events = sent
    entries = [entry_of(number, event) for number, event in enumerate(events, 1)]

    answered = ask(bond, entries[:2])

    assert answered["entries"] == entries


def test_a_large_range_that_differs_is_not_listed(sent: tuple[Bond, list[Message]]) -> None:
    bond, _ = sent

    answered = ask(bond, [], last=10_000)

    assert answered["count"] == 3
    assert "entries" not in answered


@pytest.mark.parametrize(
    "members", [{"streamEpoch": new_id()}, {"side": "subscriber"}], ids=["epoch", "side"]
)
def test_of_a_stream_that_it_does_not_know_it_holds_nothing(
    sent: tuple[Bond, list[Message]], members: dict[str, str]
) -> None:
    bond, events = sent

    answered = ask(bond, [entry_of(1, events[0])], **members)

    assert (answered["count"], answered["root"], answered["entries"]) == (0, root([]), [])


def test_more_numbers_than_a_message_may_ask_about_are_refused(sent: tuple[Bond, list[Message]]) -> None:
    bond, _ = sent
    span = {"fromSequence": 1, "toSequence": 10_001, "count": 0, "root": root([])}
    question = {"reconciliationId": new_id(), "side": "publisher", "streamEpoch": bond.link.epoch}

    answer = bond.peer.control(bond.link, "reconcile", {**question, "ranges": [span]})

    assert (answer.status, answer.code) == (400, "invalid_request")
    assert answer.value["errors"][0]["pointer"] == "/payload/ranges/0/toSequence"
