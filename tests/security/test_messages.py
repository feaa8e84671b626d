"""Attacks on messages: what was not said, not said so, not said now, or not said here."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.access import tokens, workspaces
from app.access.tokens import Scope
from app.federation import connections
from app.models import ControlReceived, Delivery, Stream
from tests.conformance import wire
from tests.conformance.foreign_peer import (
    CONNECTION,
    EVENT,
    EVENT_ACK,
    EVENTS,
    SUBSCRIPTION,
    ForeignPeer,
    Link,
    exchange,
    problem,
    reply,
)
from tests.conformance.wire import FEDERATION, MISSING, Message, Transport, new_id, now_ms
from tests.security.conftest import SEEN, Bond, MakeBond, Victim, refusal, some_key

UNAUTHENTICATED = (401, "authentication_failed")


def claims(bond: Bond, **transport: Any) -> Transport:
    """A transport signature in the name of the bond's peer."""
    return Transport(instance_id=bond.peer.instance_id, key_id=bond.peer.key.key_id, **transport)


def deliver_in_vain(bond: Bond) -> Delivery:
    """A delivery that was sent once and whose answer was lost."""
    message_id = bond.victim.publish()
    bond.peer.answer_with(EVENTS, problem("internal_error"))
    bond.victim.drain(bond.connection_id)
    bond.peer.take(lambda one: one.path == EVENTS and message_id.encode() in one.raw)
    return delivery(bond)


def delivery(bond: Bond) -> Delivery:
    """The newest delivery over the bond."""
    return bond.victim.rows(Delivery, Delivery.connection_id == bond.connection_id)[-1]


def entry_of(event: Message, **changes: Any) -> Message:
    """What an ack says of an event that was stored."""
    said = {
        "correlationId": event["messageId"],
        "received": True,
        "status": "stored",
        "digest": wire.digest("event", event),
    }
    return said | changes


def sent_event(bond: Bond) -> Message:
    """The event that was sent last."""
    return bond.peer.seen(EVENTS)[-1].events[-1]


# --- forged, altered, truncated ---


@pytest.mark.parametrize("forges_name", [True, False])
def test_a_forged_event_is_refused(bond: Bond, stranger: ForeignPeer, forges_name: bool) -> None:
    event = stranger.event("task.created", {}, instanceId=bond.peer.instance_id, keyId=bond.peer.key.key_id)
    transport = claims(bond) if forges_name else None

    with bond.victim.unchanged():
        answer = stranger.send_event(bond.link.remote, event, bond.link, transport)

    assert refusal(answer) == UNAUTHENTICATED


@pytest.mark.parametrize("path", [EVENT, EVENTS, EVENT_ACK, CONNECTION, SUBSCRIPTION])
def test_a_forged_request_of_any_kind_is_refused_before_its_body_is_read(
    bond: Bond, stranger: ForeignPeer, path: str
) -> None:
    with bond.victim.unchanged():
        answer = stranger.post(bond.base_url, path, b"{not even JSON", claims(bond))

    assert refusal(answer) == UNAUTHENTICATED


def test_a_body_that_was_altered_on_the_way_is_refused(bond: Bond) -> None:
    event = bond.peer.event("task.created", {"amount": 1})
    altered = json.dumps({**event, "payload": {"amount": 1000}}).encode()

    with bond.victim.unchanged():
        answer = bond.peer.post(
            bond.base_url, EVENT, altered, Transport(digest_of=json.dumps(event).encode())
        )

    assert refusal(answer) == UNAUTHENTICATED


@pytest.mark.parametrize(
    "change",
    [
        {"payload": {"amount": 1000}},
        {"messageId": new_id()},
        {"eventType": "task.deleted"},
        {"timestamp": now_ms() - 1},
        {"extra": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_message_that_was_altered_after_it_was_signed_is_refused(bond: Bond, change: Message) -> None:
    event = {**bond.peer.event("task.created", {"amount": 1}), **change}

    with bond.victim.unchanged():
        answer = bond.peer.send_event(bond.link.remote, event, bond.link)

    assert refusal(answer) == UNAUTHENTICATED


@pytest.mark.parametrize("digest_is_of_the_rest", [False, True])
def test_a_truncated_body_is_refused(bond: Bond, digest_is_of_the_rest: bool) -> None:
    whole = json.dumps(bond.peer.event("task.created", {"amount": 1})).encode()
    rest = whole[:-20]

    with bond.victim.unchanged():
        answer = bond.peer.post(
            bond.base_url, EVENT, rest, Transport(digest_of=rest if digest_is_of_the_rest else whole)
        )

    assert refusal(answer) == ((400, "invalid_request") if digest_is_of_the_rest else UNAUTHENTICATED)


# --- again, too late, too early ---


def test_a_replayed_request_is_refused(bond: Bond) -> None:
    event = bond.peer.event("task.created")
    same = Transport(nonce="r" * 32, created=now_ms() // 1000)
    first = bond.peer.send_event(bond.link.remote, event, bond.link, same)

    with bond.victim.unchanged():
        again = bond.peer.send_event(bond.link.remote, event, bond.link, same)

    assert first.status == 200
    assert refusal(again) == UNAUTHENTICATED


def test_an_event_that_is_sent_again_is_not_stored_again(bond: Bond) -> None:
    event = bond.peer.event("task.created")
    first = bond.peer.send_event(bond.link.remote, event, bond.link)

    with bond.victim.unchanged(SEEN):
        again = bond.peer.send_event(bond.link.remote, event, bond.link)

    assert (first.value["status"], again.value["status"]) == ("stored", "duplicate")


@pytest.mark.parametrize("age_s", [302, 86_400])
def test_a_stale_request_is_refused(bond: Bond, age_s: int) -> None:
    event = bond.peer.event("task.created")

    with bond.victim.unchanged():
        answer = bond.peer.send_event(bond.link.remote, event, bond.link, Transport(age_s=age_s))

    assert refusal(answer) == (401, "clock_skew")


def test_a_stale_event_is_refused(bond: Bond) -> None:
    event = bond.peer.event("task.created", timestamp=now_ms() - 8 * 86_400_000 - 1000)

    with bond.victim.unchanged(SEEN):
        answer = bond.peer.send_event(bond.link.remote, event, bond.link)

    assert refusal(answer) == (410, "event_expired")


def test_an_early_request_is_refused(bond: Bond) -> None:
    event = bond.peer.event("task.created")

    with bond.victim.unchanged():
        answer = bond.peer.send_event(bond.link.remote, event, bond.link, Transport(age_s=-310))

    assert refusal(answer) == (401, "clock_skew")


def test_an_early_event_is_refused(bond: Bond) -> None:
    event = bond.peer.event("task.created", timestamp=now_ms() + 310_000)

    with bond.victim.unchanged(SEEN):
        answer = bond.peer.send_event(bond.link.remote, event, bond.link)

    assert refusal(answer) == (400, "invalid_request")
    assert answer.pointers == ["/timestamp"]


# --- elsewhere ---


@pytest.mark.parametrize(
    "signed_for, sent_to", [(EVENTS, EVENT), (EVENT, EVENTS), (EVENT, EVENT + "?connectionId=x")]
)
def test_a_request_that_was_signed_for_another_path_is_refused(
    bond: Bond, signed_for: str, sent_to: str
) -> None:
    event = bond.peer.event("task.created")

    with bond.victim.unchanged():
        answer = bond.peer.post(
            bond.base_url, sent_to, event, Transport(target_uri=bond.base_url + signed_for)
        )

    assert refusal(answer) == UNAUTHENTICATED


@pytest.mark.parametrize("other", ["https://other.example", "http://127.0.0.1"])
def test_a_request_that_was_signed_for_another_instance_is_refused(bond: Bond, other: str) -> None:
    event = bond.peer.event("task.created")

    with bond.victim.unchanged():
        answer = bond.peer.post(bond.base_url, EVENT, event, Transport(target_uri=other + EVENT))

    assert refusal(answer) == UNAUTHENTICATED


def test_a_host_header_does_not_make_us_another_instance(bond: Bond) -> None:
    named = bond.base_url.replace("127.0.0.1", "localhost")
    event = bond.peer.event("task.created")

    with bond.victim.unchanged():
        answer = bond.peer.post(named, EVENT, event)

    assert refusal(answer) == UNAUTHENTICATED


def at_another_connection(bond: Bond, other: Link, what: str) -> tuple[str, Message]:
    """Path and body of a message of the bond's peer that names the connection of another peer."""
    control = {
        "messageId": new_id(),
        "instanceId": bond.peer.instance_id,
        "connectionId": other.connection_id,
        "controlSequence": 9_000,
        "timestamp": now_ms(),
    }
    sign = bond.peer.key.sign
    if what == "event":
        return f"{EVENT}?connectionId={other.connection_id}", bond.peer.event("task.created")
    if what == "batch":
        return EVENTS, bond.peer.batch(other, [(1, bond.peer.event("task.created"))])
    if what == "ack":
        ack = {**entry_of(bond.peer.event("task.created")), "messageId": new_id(), "timestamp": now_ms()}
        named = {"instanceId": bond.peer.instance_id, "connectionId": other.connection_id}
        return EVENT_ACK, sign("ack", ack | named)
    if what == "disconnect":
        return CONNECTION, sign("control", {**control, "type": "connection.disconnect", "payload": {}})
    payload = {"subscriptionId": next(iter(other.mine))}
    return SUBSCRIPTION, sign("control", {**control, "type": "subscription.cancel", "payload": payload})


@pytest.mark.parametrize("what", ["event", "batch", "ack", "disconnect", "cancel"])
def test_a_connection_of_another_peer_cannot_be_used(bond: Bond, other_bond: Bond, what: str) -> None:
    path, body = at_another_connection(bond, other_bond.link, what)

    with bond.victim.unchanged():
        answer = bond.peer.post(bond.base_url, path, body)

    assert refusal(answer) == (403, "access_denied")


def test_an_event_goes_to_no_other_workspace_than_that_of_its_connection(
    make_bond: MakeBond, victim: Victim
) -> None:
    first = make_bond()
    slug = f"w-{new_id()[:8]}"
    victim.do(workspaces.create, slug)
    link = first.peer.request_connection(victim.base_url, toWorkspace=slug)
    victim.settle()
    second = victim.connection(link)
    victim.do(connections.accept, second.id)
    victim.settle()

    with victim.unchanged(SEEN):
        answer = first.peer.send_event(link.remote, first.peer.event("task.created"), link)

    assert link.status == "active"
    assert refusal(answer) == (403, "not_subscribed")


def test_a_token_of_another_workspace_sees_and_changes_nothing(bond: Bond, victim: Victim) -> None:
    message_id = victim.publish()
    connection = bond.reload()
    other = victim.do(workspaces.create, f"w-{new_id()[:8]}")
    _, secret = victim.do(tokens.create, other.id, "other", (Scope.ADMIN,))
    headers = [("Authorization", f"Bearer {secret}"), ("Content-Type", "application/json")]
    tries = [
        ("GET", f"/connections/{connection.public_id}", None),
        ("POST", f"/connections/{connection.public_id}/disconnect", b"{}"),
        ("GET", f"/events/messages/{message_id}", None),
        ("POST", f"/events/messages/{message_id}/retry", b"{}"),
    ]

    with victim.unchanged("token.last_used_at"):
        answers = [
            exchange(victim.base_url, how, FEDERATION + path, headers, body) for how, path, body in tries
        ]

    assert {refusal(answer) for answer in answers} == {(404, "not_found")}


@pytest.mark.parametrize("kind", ["ack", "ack-batch", "control", "control-ack", "instance", "key"])
def test_a_signature_of_another_kind_of_message_is_refused(bond: Bond, kind: str) -> None:
    event = bond.peer.event("task.created")
    signed = bond.peer.key.sign(kind, wire.with_members(event, {"signature": MISSING}))

    with bond.victim.unchanged():
        answer = bond.peer.send_event(bond.link.remote, signed, bond.link)

    assert refusal(answer) == UNAUTHENTICATED


# --- without a signature ---


@pytest.mark.parametrize("header", ["Signature", "Signature-Input", "Content-Digest"])
def test_a_request_without_its_signature_is_refused(bond: Bond, header: str) -> None:
    event = bond.peer.event("task.created")

    with bond.victim.unchanged():
        answer = bond.peer.send_event(
            bond.link.remote, event, bond.link, Transport(without=frozenset({header}))
        )

    assert refusal(answer) == UNAUTHENTICATED


@pytest.mark.parametrize("signature", [MISSING, None, "", "AAAA", True])
def test_a_message_without_its_signature_is_refused(bond: Bond, signature: Any) -> None:
    event = wire.with_members(bond.peer.event("task.created"), {"signature": signature})

    with bond.victim.unchanged():
        answer = bond.peer.send_event(bond.link.remote, event, bond.link)

    assert answer.status in (400, 401)
    assert answer.code in ("invalid_request", "authentication_failed")


# --- batches, acks, numbers ---


def test_a_forged_event_in_a_batch_is_refused_alone(make_bond: MakeBond, stranger: ForeignPeer) -> None:
    bond = make_bond()
    forged = stranger.event("task.created", {}, instanceId=bond.peer.instance_id, keyId=bond.peer.key.key_id)
    others = stranger.event("task.created", {})
    good = [bond.peer.event("task.created") for _ in range(2)]
    stored = {event.message_id for event in bond.victim.incoming()}

    answer = bond.peer.publish(bond.link, good[0], forged, others, good[1])

    codes = [entry.get("error", {}).get("code") for entry in answer.value["acks"]]
    assert codes == [None, "authentication_failed", "invalid_issuer", None]
    new = {event.message_id for event in bond.victim.incoming()} - stored
    assert new == {event["messageId"] for event in good}


def by_another_key(bond: Bond, ack: Message) -> Message:
    return some_key(key_id=bond.peer.key.key_id).sign("ack-batch", unsigned(ack))


def for_another_digest(bond: Bond, ack: Message) -> Message:
    acks = [{**entry, "digest": wire.sha256_base64(b"another")} for entry in ack["acks"]]
    return bond.peer.key.sign("ack-batch", unsigned(ack) | {"acks": acks})


def for_another_batch(bond: Bond, ack: Message) -> Message:
    return bond.peer.key.sign("ack-batch", unsigned(ack) | {"correlationId": new_id()})


def of_another_instance(bond: Bond, ack: Message) -> Message:
    return bond.peer.key.sign("ack-batch", unsigned(ack) | {"instanceId": new_id()})


def without_a_signature(bond: Bond, ack: Message) -> Message:
    return unsigned(ack)


def unsigned(message: Message) -> Message:
    return wire.with_members(message, {"signature": MISSING})


@pytest.mark.parametrize(
    "forge", [by_another_key, for_another_batch, of_another_instance, without_a_signature]
)
def test_a_forged_ack_in_an_answer_delivers_nothing(
    make_bond: MakeBond, forge: Callable[[Bond, Message], Message]
) -> None:
    bond = make_bond()
    bond.peer.answer_with(EVENTS, lambda _, usual: reply(forge(bond, usual().value)))
    bond.victim.publish()

    bond.victim.drain(bond.connection_id)

    assert len(bond.peer.seen(EVENTS)) == 1
    assert delivery(bond).state == "pending"


def test_a_forged_ack_that_is_posted_delivers_nothing(make_bond: MakeBond, stranger: ForeignPeer) -> None:
    bond = make_bond()
    deliver_in_vain(bond)
    ack = bond.peer.event_ack(bond.link, entry_of(sent_event(bond)))
    forged = stranger.key.sign("ack", unsigned(ack))

    with bond.victim.unchanged():
        by_stranger = stranger.post(bond.base_url, EVENT_ACK, ack)
        by_forger = stranger.post(bond.base_url, EVENT_ACK, forged, claims(bond))
        by_proxy = bond.peer.post(bond.base_url, EVENT_ACK, forged)

    assert {refusal(answer) for answer in (by_stranger, by_forger, by_proxy)} == {UNAUTHENTICATED}
    assert delivery(bond).state == "pending"


WAIT = tuple(
    f"connection.{column}"
    for column in (
        "failures",
        "network_failures",
        "retry_at",
        "wait_code",
        "wait_detail",
        "breaker_opened_at",
    )
)


def test_an_ack_for_another_digest_delivers_nothing(make_bond: MakeBond) -> None:
    bond = make_bond()
    bond.peer.answer_with(EVENTS, lambda _, usual: reply(for_another_digest(bond, usual().value)))
    bond.victim.publish()
    bond.victim.drain(bond.connection_id)
    other = bond.peer.event_ack(bond.link, entry_of(sent_event(bond), digest=wire.sha256_base64(b"another")))

    # That the peer is there again ends the wait for it, whatever it says.
    with bond.victim.unchanged(SEEN, *WAIT, "control_message"):
        answer = bond.peer.post(bond.base_url, EVENT_ACK, other)

    assert answer.status == 204
    assert delivery(bond).state == "pending"


def test_an_ack_by_another_peer_delivers_nothing(make_bond: MakeBond, other_bond: Bond) -> None:
    bond = make_bond()
    deliver_in_vain(bond)
    ack = other_bond.peer.event_ack(other_bond.link, entry_of(sent_event(bond)))

    answer = other_bond.peer.post(bond.base_url, EVENT_ACK, ack)

    assert answer.status == 204
    assert delivery(bond).state == "pending"


def test_a_replayed_control_has_no_second_effect(make_bond: MakeBond) -> None:
    bond = make_bond()
    suspend = bond.peer.control_message(bond.link, "connection.suspend", {})
    bond.peer.send_control(bond.link, suspend)
    bond.peer.control(bond.link, "connection.resume")

    with bond.victim.unchanged(SEEN):
        again = bond.peer.send_control(bond.link, suspend)

    assert (again.status, again.value["status"]) == (200, "suspended")
    assert bond.reload().status == "active"


def test_a_used_control_number_is_refused(make_bond: MakeBond) -> None:
    bond = make_bond()
    last = bond.link.control_sequence
    message = bond.peer.control_message(bond.link, "connection.disconnect", {}, controlSequence=last)

    with bond.victim.unchanged(SEEN, "control_received"):
        answer = bond.peer.send_control(bond.link, message)

    assert refusal(answer) == (409, "sequence_conflict")
    [kept] = bond.victim.rows(ControlReceived, ControlReceived.message_id == message["messageId"])
    assert kept.status_code == 409


def test_a_forged_control_uses_up_no_number(make_bond: MakeBond, stranger: ForeignPeer) -> None:
    bond = make_bond()
    forged = stranger.key.sign(
        "control",
        unsigned(bond.peer.control_message(bond.link, "connection.disconnect", {}, controlSequence=2**52)),
    )

    with bond.victim.unchanged():
        by_forger = stranger.post(bond.base_url, CONNECTION, forged, claims(bond))
        by_proxy = bond.peer.post(bond.base_url, CONNECTION, forged)
    after = bond.peer.control(bond.link, "verification", {"state": "x"})

    assert {refusal(by_forger), refusal(by_proxy)} == {UNAUTHENTICATED}
    assert after.status == 200


def test_a_jump_in_the_sequence_stores_nothing(make_bond: MakeBond) -> None:
    bond = make_bond()
    bond.peer.publish(bond.link, bond.peer.event("task.created"))
    bond.link.head += 10_001

    with bond.victim.unchanged(SEEN, "stream.head_sequence", "stream.hole_since", "stream.due_at"):
        answer = bond.peer.publish(bond.link, bond.peer.event("task.created"))

    assert refusal(answer) == (429, "rate_limited")


def test_an_epoch_is_not_reset_by_a_stranger(bond: Bond, other_bond: Bond, stranger: ForeignPeer) -> None:
    batch = bond.peer.batch(bond.link, [(1, bond.peer.event("task.created"))], streamEpoch=new_id())
    beat = {"streamEpoch": new_id(), "headSequence": 9, "oldestSequence": 1}
    heartbeat = bond.peer.control_message(bond.link, "heartbeat", beat, controlSequence=9_999)

    with bond.victim.unchanged():
        answers = [
            stranger.post(bond.base_url, EVENTS, batch),
            stranger.post(bond.base_url, EVENTS, batch, claims(bond)),
            stranger.post(bond.base_url, CONNECTION, heartbeat, claims(bond)),
        ]
        by_another_peer = other_bond.peer.post(bond.base_url, EVENTS, batch)

    assert {refusal(answer) for answer in answers} == {UNAUTHENTICATED}
    assert refusal(by_another_peer) == (403, "access_denied")


def test_epochs_are_not_begun_faster_than_one_in_ten_seconds(make_bond: MakeBond) -> None:
    bond = make_bond()
    bond.peer.publish(bond.link, bond.peer.event("task.created"))
    bond.link.epoch = new_id()

    with bond.victim.unchanged(SEEN):
        answer = bond.peer.publish(bond.link, bond.peer.event("task.created"))

    assert refusal(answer) == (429, "rate_limited")
    assert len(bond.victim.rows(Stream, Stream.epoch == bond.link.epoch)) == 0
