"""§4: what comes in, by the state of the connection: the cells of the table that move nothing."""

from typing import Any

import pytest

from tests.conformance.conftest import MakeBond, MakePeer
from tests.conformance.foreign_peer import EVENT_ACK, Answer, ForeignPeer, Link
from tests.conformance.subject import Subject
from tests.conformance.wire import Message, new_id, now_ms

Cell = tuple[int, str | None]

DENIED: Cell = (403, "access_denied")
WRONG: Cell = (409, "invalid_state")
HELD: Cell = (403, "connection_suspended")
CLOSED: Cell = (410, "connection_closed")
GONE: Cell = (410, "replay_gone")
OK: Cell = (200, None)

KINDS = [
    "connection.request",
    "connection.accept",
    "connection.reject",
    "connection.suspend",
    "connection.resume",
    "connection.disconnect",
    "verification",
    "heartbeat",
    "gap",
    "keys.changed",
    "subscription.cancel",
    "replay.complete",
    "subscription.request",
    "subscription.approve",
    "subscription.reject",
    "subscription.revoke",
    "replay.request",
    "event",
    "batch",
    "event ack",
]


def everything(cell: Cell, **cells: Cell) -> dict[str, Cell]:
    """A column: one answer to all, but for the named kinds (`_` for `.`)."""
    named = {kind.replace("_", ".", 1): found for kind, found in cells.items()}
    return {**dict.fromkeys(KINDS, cell), "event ack": (204, None), **named}


def without(column: dict[str, Cell], *moves: str) -> dict[str, Cell]:
    return {kind: cell for kind, cell in column.items() if kind not in moves}


ENDS = "connection.disconnect"
COLUMNS: dict[str, dict[str, Cell]] = {
    "unknown": without({**everything(DENIED), "event ack": DENIED}, "connection.request"),
    "requested": without(
        {**everything(WRONG), "keys.changed": OK}, "connection.accept", "connection.reject", ENDS
    ),
    "pending": without({**everything(WRONG), "keys.changed": OK}, ENDS),
    "active": without(
        {
            **everything(OK),
            "connection.request": WRONG,
            "connection.accept": WRONG,
            "connection.reject": WRONG,
            # Of an active subscription: only a revoke ends it.
            "subscription.reject": WRONG,
            "replay.request": GONE,
        },
        "connection.suspend",
        "subscription.cancel",
        "subscription.revoke",
        ENDS,
    ),
    "suspended": without(
        {
            **everything(HELD),
            "connection.request": WRONG,
            "connection.accept": WRONG,
            "connection.reject": WRONG,
            "connection.suspend": OK,
            "verification": OK,
            "heartbeat": OK,
            "gap": OK,
            "keys.changed": OK,
            "subscription.cancel": OK,
            "replay.complete": OK,
        },
        "connection.resume",
        ENDS,
    ),
    "ended": {**everything(CLOSED), "connection.request": WRONG, ENDS: OK},
}


def send(peer: ForeignPeer, link: Link, kind: str, subscriptions: dict[str, str], event_type: str) -> Answer:
    """Send one message of that kind, right in everything but its moment."""
    if kind == "event":
        return peer.send_event(link.remote, peer.event(event_type), link)
    if kind == "batch":
        return peer.send_batch(link, peer.batch(link, [(7, peer.event(event_type))]))
    if kind == "event ack":
        entry = {"correlationId": new_id(), "received": True, "status": "stored", "digest": "A" * 43 + "="}
        return peer.post(link.remote.base_url, EVENT_ACK, peer.event_ack(link, entry))
    return peer.control(link, kind, payload(peer, link, kind, subscriptions))


def payload(peer: ForeignPeer, link: Link, kind: str, subscriptions: dict[str, str]) -> Message:
    mine, theirs = subscriptions.get("mine", new_id()), subscriptions.get("theirs", new_id())
    here: dict[str, Any] = {
        "connection.request": {
            "baseUrl": peer.base_url,
            "workspace": {"slug": "foreign", "name": "Foreign"},
            "offer": {"versions": ["1.0"], "features": []},
        },
        "connection.accept": {
            "requestMessageId": link.request_id or new_id(),
            "version": "1.0",
            "features": [],
            "workspace": {"slug": "foreign", "name": "Foreign"},
        },
        "connection.reject": {"requestMessageId": link.request_id or new_id()},
        "verification": {"state": "here I am"},
        "heartbeat": {"streamEpoch": link.epoch, "headSequence": 0, "oldestSequence": 1},
        "gap": {"streamEpoch": link.epoch, "fromSequence": 1, "toSequence": 2, "reason": "refused"},
        "keys.changed": {"keys": [peer.key.record()]},
        "subscription.request": {
            "subscriptionId": mine,
            "eventType": subscriptions.get("pattern", "auto.table"),
            "leaseSeconds": 3600,
        },
        "subscription.approve": {
            "subscriptionId": theirs,
            "eventType": subscriptions.get("pattern", "auto.table"),
            "leaseExpiresAt": now_ms() + 3_600_000,
            "streamEpoch": link.epoch,
            "nextSequence": 1,
        },
        "subscription.cancel": {"subscriptionId": mine},
        "replay.request": {"replayId": new_id(), "streamEpoch": new_id(), "fromSequence": 1},
        "replay.complete": {"replayId": new_id(), "count": 0, "moreAvailable": False},
    }
    return here.get(kind, {"subscriptionId": theirs} if kind.startswith("subscription.") else {})


def column(peer: ForeignPeer, link: Link, state: str, subscriptions: dict[str, str]) -> dict[str, Cell]:
    """What the subject answers to each kind in this state."""
    event_type = subscriptions.get("event type", "auto.table")
    answers = {kind: send(peer, link, kind, subscriptions, event_type) for kind in COLUMNS[state]}
    return {kind: (answer.status, answer.code) for kind, answer in answers.items()}


@pytest.mark.parametrize("state", ["active", "suspended", "ended"])
def test_the_table_of_an_accepted_connection(make_bond: MakeBond, state: str) -> None:
    bond = make_bond()
    pattern = f"{bond.topic}.*"
    subscriptions = {
        "pattern": pattern,
        "event type": f"{bond.topic}.created",
        "mine": bond.listen(pattern).subscription_id,
        "theirs": bond.offer(pattern).subscription_id,
    }
    if state == "suspended":
        bond.peer.suspend(bond.link)
    elif state == "ended":
        bond.peer.disconnect(bond.link)

    answered = column(bond.peer, bond.link, state, subscriptions)

    assert answered == COLUMNS[state]


def test_the_table_of_a_connection_that_nobody_knows(make_bond: MakeBond) -> None:
    bond = make_bond()
    link = Link(new_id(), bond.link.remote, "active", {})

    answered = column(bond.peer, link, "unknown", {})

    assert answered == COLUMNS["unknown"]


def test_the_table_of_somebody_elses_connection(make_bond: MakeBond) -> None:
    mine, theirs = make_bond(), make_bond()
    link = Link(theirs.link.connection_id, mine.link.remote, "active", {})

    answered = column(mine.peer, link, "unknown", {})

    assert answered == COLUMNS["unknown"]


def test_the_table_of_a_connection_that_was_asked_for(subject: Subject, peer: ForeignPeer) -> None:
    subject.initiate(peer)
    link = peer.links[peer.take("connection.request").value["connectionId"]]

    answered = column(peer, link, "requested", {})

    assert answered == COLUMNS["requested"]


def test_the_table_of_a_connection_that_waits_for_an_operator(subject: Subject, peer: ForeignPeer) -> None:
    link = peer.request_connection(subject.base_url)
    subject.pending(link)

    answered = column(peer, link, "pending", {})

    assert answered == COLUMNS["pending"]


def test_the_table_of_a_rejected_connection(subject: Subject, peer: ForeignPeer) -> None:
    link = peer.request_connection(subject.base_url)
    subject.post(f"/connections/{subject.pending(link)['id']}/reject")
    peer.take("connection.reject")

    answered = column(peer, link, "ended", {})

    assert answered == COLUMNS["ended"]


def test_a_request_of_a_known_peer_is_verified_at_once(make_bond: MakeBond, make_peer: MakePeer) -> None:
    bond = make_bond()
    link, message = bond.peer.connection_request(bond.link.remote)
    forged = {**message, "payload": {**message["payload"], "note": "changed on the way"}}

    refused = bond.peer.send_control(link, forged)
    taken = bond.peer.send_control(link, message)

    assert (refused.status, refused.code) == (401, "authentication_failed")
    assert (taken.status, taken.value["status"]) == (202, "pending")
