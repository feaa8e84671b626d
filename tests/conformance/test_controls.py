"""§3: control messages: stored answers, numbers, and how the subject sends its own."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conformance.foreign_peer import (
    CONNECTION,
    SUBSCRIPTION,
    Answer,
    Received,
    Reply,
    problem,
    reply,
)
from tests.conformance.subject import Bond, wait_for
from tests.conformance.wire import MISSING, Key, Message, new_id

# --- receiving ---


def test_a_verification_is_answered_with_its_state(standing: Bond) -> None:
    answer = standing.peer.control(standing.link, "verification", {"state": "ünïcode 😀"})

    assert (answer.status, answer.value["status"]) == (200, "active")
    assert answer.value["payload"] == {"state": "ünïcode 😀"}


def test_a_repeat_gets_the_stored_answer_whatever_the_state_is_now(bond: Bond) -> None:
    message = bond.peer.control_message(bond.link, "verification", {"state": "x"})
    first = bond.peer.send_control(bond.link, message)
    bond.peer.disconnect(bond.link)

    second = bond.peer.send_control(bond.link, message)

    assert (second.status, second.value) == (first.status, first.value)


def test_a_refusal_is_stored_too(bond: Bond) -> None:
    message = bond.peer.control_message(
        bond.link, "connection.reject", {"requestMessageId": bond.link.request_id}
    )
    first = bond.peer.send_control(bond.link, message)
    bond.peer.disconnect(bond.link)

    second = bond.peer.send_control(bond.link, message)

    assert (first.status, first.code) == (409, "invalid_state")
    assert (second.status, second.code) == (409, "invalid_state")


def test_another_message_under_a_used_id_is_a_conflict(bond: Bond) -> None:
    first = bond.peer.control_message(bond.link, "verification", {"state": "x"})
    bond.peer.send_control(bond.link, first)

    answer = bond.peer.control(bond.link, "verification", {"state": "y"}, messageId=first["messageId"])

    assert (answer.status, answer.code) == (409, "message_id_conflict")


@pytest.mark.parametrize("number", [1, 2])
def test_a_used_number_is_a_sequence_conflict_that_tells_the_last(bond: Bond, number: int) -> None:
    bond.peer.control(bond.link, "verification", {"state": "x"}, controlSequence=50)

    answer = bond.peer.control(bond.link, "verification", {"state": "x"}, controlSequence=number)

    assert (answer.status, answer.code) == (409, "sequence_conflict")
    assert answer.value["lastControlSequence"] == 50


def test_numbers_may_have_gaps(bond: Bond) -> None:
    answers = [
        bond.peer.control(bond.link, "verification", {"state": "x"}, controlSequence=number)
        for number in (10, 1_000, 2**53 - 1)
    ]

    assert [answer.status for answer in answers] == [200, 200, 200]


def test_the_number_advances_with_a_refusal(bond: Bond) -> None:
    refused = bond.peer.control(bond.link, "connection.accept", accept(bond), controlSequence=70)

    answer = bond.peer.control(bond.link, "verification", {"state": "x"}, controlSequence=70)

    assert (refused.status, refused.code) == (409, "invalid_state")
    assert answer.value["lastControlSequence"] == 70


def accept(bond: Bond) -> Message:
    return {
        "requestMessageId": bond.link.request_id,
        "version": "1.0",
        "features": [],
        "workspace": {"slug": "foreign", "name": "Foreign"},
    }


def test_the_number_does_not_advance_before_the_signature_verified(bond: Bond) -> None:
    message = bond.peer.control_message(bond.link, "verification", {"state": "x"}, controlSequence=90)
    forged = Key.rsa(key_id=bond.peer.key.key_id).sign("control", message)

    refused = bond.peer.send_control(bond.link, forged)
    taken = bond.peer.send_control(bond.link, message)

    assert (refused.status, refused.code) == (401, "authentication_failed")
    assert taken.status == 200


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"messageId": MISSING}, "/messageId"),
        ({"messageId": new_id().upper()}, "/messageId"),
        ({"type": "connection.improve"}, "/type"),
        ({"type": 7}, "/type"),
        ({"controlSequence": 0}, "/controlSequence"),
        ({"controlSequence": True}, "/controlSequence"),
        ({"controlSequence": "1"}, "/controlSequence"),
        ({"controlSequence": 1.5}, "/controlSequence"),
        ({"payload": []}, "/payload"),
        ({"payload": None}, "/payload"),
        ({"payload": {}}, "/payload/state"),
        ({"payload": {"state": None}}, "/payload/state"),
        ({"timestamp": -1}, "/timestamp"),
        ({"timestamp": MISSING}, "/timestamp"),
        ({"keyId": "spaces are wrong"}, "/keyId"),
    ],
)
def test_the_first_bad_member_of_a_control_is_named(standing: Bond, changes: Message, pointer: str) -> None:
    message = standing.peer.control_message(standing.link, "verification", {"state": "x"}, **changes)

    answer = standing.peer.post(standing.link.remote.base_url, CONNECTION, message)

    assert (answer.status, answer.code, answer.pointers[:1]) == (400, "invalid_request", [pointer])


def test_a_number_written_with_a_point_is_an_integer(bond: Bond) -> None:
    answer = bond.peer.control(bond.link, "verification", {"state": "x"}, controlSequence=60.0)

    assert answer.status == 200


def test_a_control_at_the_wrong_endpoint_is_refused(standing: Bond) -> None:
    verification = standing.peer.control_message(standing.link, "verification", {"state": "x"})
    cancel = standing.peer.control_message(standing.link, "subscription.cancel", {"subscriptionId": new_id()})

    answers = [
        standing.peer.post(standing.link.remote.base_url, path, message)
        for path, message in ((SUBSCRIPTION, verification), (CONNECTION, cancel))
    ]

    assert [(answer.status, answer.code) for answer in answers] == [(400, "invalid_request")] * 2


def test_the_same_control_sent_at_once_by_many_is_answered_alike(bond: Bond) -> None:
    message = bond.peer.control_message(bond.link, "connection.suspend", {})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: bond.peer.send_control(bond.link, message), range(6)))

    assert {answer.status for answer in answers} == {200}
    assert len({answer.value["messageId"] for answer in answers}) == 1


def test_a_heartbeat_of_nothing_sent_is_answered(standing: Bond) -> None:
    said = {"streamEpoch": standing.link.epoch, "headSequence": 0, "oldestSequence": 1}

    answer = standing.peer.control(standing.link, "heartbeat", said)

    assert (answer.status, answer.value["status"]) == (200, "active")


# --- sending ---


def test_a_control_that_meets_an_error_is_repeated_as_it_was(bond: Bond) -> None:
    bond.peer.grants.append("**")
    bond.peer.answer_with("subscription.request", problem("internal_error"))

    subscribe(bond)

    first = bond.peer.take("subscription.request")
    bond.act("retry-now")
    second = bond.peer.take("subscription.request")
    assert (first.reply.status, second.reply.status) == (500, 200)
    assert second.value == first.value
    assert wait_for(lambda: bond.subscriptions("incoming", status="active"), "the subscription is active")


def subscribe(bond: Bond) -> Answer:
    body = {"connectionId": bond.local_id, "eventType": f"{bond.topic}.*"}
    return bond.subject.call("POST", "/events/subscribe", body)


def by_another_key(bond: Bond, request: Received) -> Message:
    return Key.rsa(key_id=bond.peer.key.key_id).sign("control-ack", ack(bond, request))


def for_another_message(bond: Bond, request: Received) -> Message:
    return bond.peer.key.sign("control-ack", {**ack(bond, request), "correlationId": new_id()})


def of_another_instance(bond: Bond, request: Received) -> Message:
    return bond.peer.key.sign("control-ack", {**ack(bond, request), "instanceId": new_id()})


def of_another_connection(bond: Bond, request: Received) -> Message:
    return bond.peer.key.sign("control-ack", {**ack(bond, request), "connectionId": new_id()})


def of_another_kind(bond: Bond, request: Received) -> Message:
    return bond.peer.key.sign("ack", ack(bond, request))


def ack(bond: Bond, request: Received) -> Message:
    made = bond.peer.control_ack(bond.link, request.value, status="rejected")
    return {name: value for name, value in made.items() if name != "signature"}


@pytest.mark.parametrize(
    "make", [by_another_key, for_another_message, of_another_instance, of_another_connection, of_another_kind]
)
def test_a_control_ack_that_does_not_verify_is_no_answer(bond: Bond, make: Any) -> None:
    bond.peer.answer_with("subscription.request", lambda request, usual: reply(make(bond, request)))

    subscribe(bond)

    first = bond.peer.take("subscription.request")
    assert first.reply.status == 200
    assert {row["status"] for row in bond.subscriptions("incoming")} == {"pending"}


def test_after_a_sequence_conflict_the_subject_goes_on_from_the_last_number(bond: Bond) -> None:
    bond.peer.grants.append("**")
    bond.peer.answer_with("subscription.request", problem("sequence_conflict", lastControlSequence=400))
    bond.link.last_control_sequence = 400

    subscribe(bond)

    first, second = (bond.peer.take("subscription.request") for _ in range(2))
    assert second.value["controlSequence"] == 401
    assert second.value["messageId"] != first.value["messageId"]
    assert second.payload == first.payload


def test_a_refused_control_is_not_repeated(bond: Bond) -> None:
    bond.peer.answer_with("subscription.request", problem("invalid_request"))

    subscribe(bond)

    refused = bond.peer.take("subscription.request")
    bond.act("retry-now")
    bond.act("suspend")
    later = bond.peer.take("connection.suspend")
    assert later.value["controlSequence"] > refused.value["controlSequence"]
    assert bond.peer.seen("subscription.request") == [refused]


def test_one_control_is_in_flight_at_a_time(bond: Bond) -> None:
    arrived, may_answer = threading.Event(), threading.Event()

    def slowly(request: Received, usual: Any) -> Reply:
        arrived.set()
        may_answer.wait(10)
        return usual()

    bond.peer.answer_with("connection.suspend", slowly)
    with ThreadPoolExecutor(2) as pool:
        suspending = pool.submit(bond.act, "suspend")
        assert arrived.wait(15)
        disconnecting = pool.submit(bond.act, "disconnect")
        wait_for(lambda: bond.details()["status"] == "disconnected", "it is disconnected here")

        early = bond.peer.seen("connection.disconnect")
        may_answer.set()
        bond.peer.take("connection.disconnect")
        suspending.result()
        disconnecting.result()

    assert early == []
    assert [one.type for one in bond.peer.received if one.path == CONNECTION][-2:] == [
        "connection.suspend",
        "connection.disconnect",
    ]
