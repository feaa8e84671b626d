"""§6, §8: the subject as a sender, watched by a peer that answers well, badly and not at all."""

import threading
from typing import Any

import pytest

from tests.conformance import wire
from tests.conformance.conftest import MakeBond
from tests.conformance.foreign_peer import EVENT_ACK, EVENTS, Received, Reply, exchange, problem, reply
from tests.conformance.subject import Bond, wait_for
from tests.conformance.wire import MISSING, Key, Message, new_id, now_ms

# --- all is well ---


def test_an_event_arrives_signed_and_its_receipt_is_kept(bond: Bond) -> None:
    bond.listen()

    published = bond.subject.publish(
        f"{bond.topic}.created", {"title": "grüße 😀 €", "n": 1.0}, subject="s/1"
    )

    batch = bond.take_batch()
    [event] = batch.events
    assert (event["messageId"], event["eventType"]) == (published["messageId"], f"{bond.topic}.created")
    assert (event["payload"], event["subject"]) == ({"title": "grüße 😀 €", "n": 1}, "s/1")
    assert event["instanceId"] == bond.link.remote.instance_id
    assert abs(event["timestamp"] - now_ms()) < 60_000
    delivered = bond.wait_for_delivery(published, "delivered")
    assert delivered["sequence"] == 1
    assert delivered["event"]["status"] == "delivered"


def test_a_burst_arrives_once_in_order_and_within_the_limits(bond: Bond) -> None:
    bond.listen()

    published = bond.subject.publish_many(f"{bond.topic}.created", 250)

    bond.wait_for_delivery(published[-1], "delivered")
    assert [event["payload"]["n"] for event in bond.link.events] == list(range(250))
    numbers = [n for one in bond.peer.seen(EVENTS) for n in one.sequences]
    assert numbers == list(range(1, 251))
    assert all(len(one.events) <= 100 for one in bond.peer.seen(EVENTS))
    [stream] = bond.link.streams.values()
    assert stream.contiguous == 250
    assert bond.stream("outgoing")["headSequence"] == 250


def test_the_epoch_and_the_numbers_are_those_of_the_grant(bond: Bond) -> None:
    bond.listen()
    bond.wait_for_delivery(bond.publish(), "delivered")

    _, answer = bond.peer.subscribe(bond.link, f"{bond.topic}.**")

    batch = bond.take_batch()
    assert answer.value["payload"]["streamEpoch"] == batch.value["streamEpoch"]
    assert answer.value["payload"]["nextSequence"] == 2


def test_a_traceparent_travels_with_the_event(bond: Bond) -> None:
    bond.listen()
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    body = wire.encode({"eventType": f"{bond.topic}.created", "payload": {}})
    headers = [
        ("Authorization", f"Bearer {bond.subject.token}"),
        ("Content-Type", "application/json"),
        ("traceparent", trace),
    ]
    answer = exchange(bond.subject.base_url, "POST", f"{wire.FEDERATION}/events/publish", headers, body)

    assert answer.status == 202
    assert bond.take_batch().events[0]["traceparent"] == trace


def test_the_smallest_limits_of_a_peer_are_kept(make_bond: MakeBond) -> None:
    bond = make_bond(limits={"maxBatchEvents": 3, "maxEventBytes": 2_000, "maxRequestBytes": 4_000})
    bond.listen()

    published = bond.subject.publish_many(f"{bond.topic}.created", 20)

    bond.wait_for_delivery(published[-1], "delivered")
    assert all(len(one.raw) <= 4_000 for one in bond.peer.seen(EVENTS))
    assert [event["payload"]["n"] for event in bond.link.events] == list(range(20))


def test_an_event_too_large_for_the_peer_is_a_dead_letter(make_bond: MakeBond) -> None:
    bond = make_bond(limits={"maxEventBytes": 2_000})
    bond.listen()

    large = bond.publish(payload={"pad": "x" * 3_000})
    small = bond.publish()

    dead = bond.wait_for_delivery(large, "dead")
    bond.wait_for_delivery(small, "delivered")
    assert "too_large" in str(dead["error"])
    assert [event["messageId"] for event in bond.link.events] == [small["messageId"]]


def test_a_duplicate_counts_as_delivered(bond: Bond) -> None:
    bond.listen()

    def already(request: Received, usual: Any) -> Reply:
        bond.link.stored.update({event["messageId"]: "" for event in request.events})
        return usual()

    bond.peer.answer_with(EVENTS, already)

    published = bond.publish()

    assert bond.take_batch().reply.value["acks"][0]["status"] == "duplicate"
    bond.wait_for_delivery(published, "delivered")


# --- the request fails: it goes again, as it was ---


@pytest.mark.parametrize(
    "answer",
    [
        problem("internal_error"),
        Reply(502, b"<html>Bad gateway</html>", (("Content-Type", "text/html"),)),
        Reply(200, b"<html>Hello</html>", (("Content-Type", "text/html"),)),
        Reply(200, b"{}"),
        Reply(204, headers=()),
        Reply(202, headers=()),
        Reply(302, b"", (("Location", "/api/v1/federation/incoming/event"),)),
        Reply(308, b"", (("Location", "/elsewhere"),)),
        Reply(400, b"not a problem"),
        Reply(200, b"x" * (1024 * 1024 + 1)),
        problem("no_such_code", status=599),
    ],
    ids=lambda answer: f"{answer.status}-{len(answer.body)}",
)
def test_a_request_that_failed_goes_again_with_the_same_events(bond: Bond, answer: Reply) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, answer)

    published = bond.publish()

    first = bond.take_batch()
    waiting = bond.wait_for_failure(published)
    assert waiting["status"] == "pending"
    assert waiting["nextAttemptAt"] is not None
    bond.act("retry-now")
    second = bond.take_batch()
    assert second.value["events"] == first.value["events"]
    assert second.value["streamEpoch"] == first.value["streamEpoch"]
    assert second.value["batchId"] != first.value["batchId"]
    delivered = bond.wait_for_delivery(published, "delivered")
    assert [one["number"] for one in delivered["attempts"]][-1:] == [2] or len(delivered["attempts"]) >= 1


def test_an_answer_that_never_comes_is_a_failure(bond: Bond) -> None:
    bond.listen()
    bond.peer.always_answer(EVENTS, Reply(closes=True))
    published = bond.publish()
    waiting = bond.wait_for_failure(published)

    bond.peer.answer_as_usual()
    bond.act("retry-now")

    assert waiting["status"] == "pending"
    bond.wait_for_delivery(published, "delivered")
    assert {tuple(one.sequences) for one in bond.peer.seen(EVENTS)} == {(1,)}


def test_after_a_failure_the_order_is_kept(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("internal_error"))
    first = bond.publish(payload={"n": 0})
    bond.take_batch()
    bond.wait_for_failure(first)

    later = [bond.publish(payload={"n": n}) for n in range(1, 6)]
    bond.act("retry-now")

    bond.wait_for_delivery(later[-1], "delivered")
    assert [event["payload"]["n"] for event in bond.link.events] == list(range(6))


def test_the_first_retry_comes_by_itself(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("internal_error"))
    published = bond.publish()
    first = bond.take_batch()

    second = bond.take_batch()

    waited_s = header_time(second) - header_time(first)
    assert 3 <= waited_s <= 9
    bond.wait_for_delivery(published, "delivered")


def header_time(request: Received) -> int:
    """When the request was signed, in seconds."""
    return int(dict(request.headers)["Signature-Input"].split("created=")[1].split(";")[0])


@pytest.mark.parametrize(
    "answer",
    [problem("overloaded", retry_after="2"), problem("rate_limited", retry_after="2")],
    ids=["503", "429"],
)
def test_a_retry_after_is_obeyed_and_is_no_failure(bond: Bond, answer: Reply) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, answer)
    published = bond.publish()
    first = bond.take_batch()

    second = bond.take_batch(timeout_s=8)

    assert 1 <= header_time(second) - header_time(first) <= 4
    bond.wait_for_delivery(published, "delivered")


def test_a_peer_that_is_down_gets_its_events_when_it_is_back(bond: Bond) -> None:
    bond.listen()
    bond.peer.stop()
    published = bond.publish()
    bond.wait_for_failure(published)

    bond.peer.start()
    bond.act("retry-now")

    bond.wait_for_delivery(published, "delivered")


def test_a_verified_request_of_the_peer_ends_the_wait(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("internal_error"))
    published = bond.publish()
    first = bond.take_batch()
    bond.wait_for_failure(published)

    bond.peer.control(bond.link, "verification", {"state": "I am back"})

    assert header_time(bond.take_batch()) - header_time(first) <= 3
    bond.wait_for_delivery(published, "delivered")


def test_a_peer_that_hangs_delays_nobody_else(make_bond: MakeBond) -> None:
    slow, quick = make_bond(), make_bond()
    slow.listen()
    quick.listen()
    slow.peer.answer_with(EVENTS, Reply(hangs=True))
    hanging = slow.publish()
    slow.take_batch()

    published = quick.publish()

    quick.wait_for_delivery(published, "delivered")
    assert slow.subject.delivery(hanging["messageId"], slow.local_id)["status"] in {"sending", "pending"}
    slow.peer.release()


# --- acks that do not count ---


def ack(bond: Bond, request: Received, **members: Any) -> Message:
    """An ack batch that says that all is stored; `members` replace."""
    acks = [
        {
            "sequence": entry["sequence"],
            "correlationId": entry["event"]["messageId"],
            "received": True,
            "status": "stored",
            "digest": wire.digest("event", entry["event"]),
        }
        for entry in request.value["events"]
    ]
    return bond.peer.ack_batch(bond.link, request.value, members.pop("acks", acks), **members)


def without_signature(message: Message) -> Message:
    return {name: value for name, value in message.items() if name not in {"signature", "keyId"}}


def by_another_key(bond: Bond, request: Received) -> Message:
    return Key.rsa(key_id=bond.peer.key.key_id).sign("ack-batch", without_signature(ack(bond, request)))


def by_an_unknown_key(bond: Bond, request: Received) -> Message:
    return Key.rsa().sign("ack-batch", without_signature(ack(bond, request)))


def of_another_kind(bond: Bond, request: Received) -> Message:
    return bond.peer.key.sign("ack", without_signature(ack(bond, request)))


def unsigned(bond: Bond, request: Received) -> Message:
    return without_signature(ack(bond, request))


def of_another_instance(bond: Bond, request: Received) -> Message:
    return ack(bond, request, instanceId=new_id())


def of_the_sender_itself(bond: Bond, request: Received) -> Message:
    return ack(bond, request, instanceId=bond.link.remote.instance_id)


def of_another_connection(bond: Bond, request: Received) -> Message:
    return ack(bond, request, connectionId=new_id())


def of_another_batch(bond: Bond, request: Received) -> Message:
    return ack(bond, request, correlationId=new_id())


def of_another_epoch(bond: Bond, request: Received) -> Message:
    return ack(bond, request, streamEpoch=new_id())


def with_another_digest(bond: Bond, request: Received) -> Message:
    acks = [{**one, "digest": wire.sha256_base64(b"other")} for one in ack(bond, request)["acks"]]
    return ack(bond, request, acks=acks)


def with_an_entry_missing(bond: Bond, request: Received) -> Message:
    return ack(bond, request, acks=ack(bond, request)["acks"][1:])


def with_an_entry_twice(bond: Bond, request: Received) -> Message:
    return ack(bond, request, acks=ack(bond, request)["acks"] * 2)


def out_of_order(bond: Bond, request: Received) -> Message:
    return ack(bond, request, acks=ack(bond, request)["acks"][::-1])


def with_entries_swapped(bond: Bond, request: Received) -> Message:
    first, second = ack(bond, request)["acks"]
    return ack(
        bond,
        request,
        acks=[{**second, "sequence": first["sequence"]}, {**first, "sequence": second["sequence"]}],
    )


def stored_but_not_received(bond: Bond, request: Received) -> Message:
    acks = [{**one, "received": False} for one in ack(bond, request)["acks"]]
    return ack(bond, request, acks=acks)


def rejected_without_error(bond: Bond, request: Received) -> Message:
    acks = [{**one, "received": False, "status": "rejected"} for one in ack(bond, request)["acks"]]
    return ack(bond, request, acks=acks)


def without_a_timestamp(bond: Bond, request: Received) -> Message:
    return ack(bond, request, timestamp=MISSING)


@pytest.mark.parametrize(
    "make",
    [
        by_another_key,
        by_an_unknown_key,
        of_another_kind,
        unsigned,
        of_another_instance,
        of_the_sender_itself,
        of_another_connection,
        of_another_batch,
        of_another_epoch,
        with_another_digest,
        with_an_entry_missing,
        with_an_entry_twice,
        out_of_order,
        with_entries_swapped,
        stored_but_not_received,
        rejected_without_error,
        without_a_timestamp,
    ],
)
def test_an_ack_that_does_not_hold_is_no_delivery(bond: Bond, make: Any) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, lambda request, usual: reply(make(bond, request)))

    published = bond.subject.publish_many(f"{bond.topic}.created", 2)

    assert bond.take_batch().sequences == [1, 2]
    waiting = [bond.wait_for_failure(one) for one in published]
    assert [one["status"] for one in waiting] == ["pending", "pending"]
    bond.act("retry-now")
    assert bond.take_batch().sequences == [1, 2]
    bond.wait_for_delivery(published[1], "delivered")


def test_members_that_are_not_known_do_no_harm_to_an_ack(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, lambda request, usual: reply(ack(bond, request, more={"a": 1})))

    bond.wait_for_delivery(bond.publish(), "delivered")

    assert len(bond.peer.seen(EVENTS)) == 1


# --- the whole request is refused ---


@pytest.mark.parametrize(
    "code", ["too_large", "invalid_request", "unsupported_media_type", "payload_invalid"]
)
def test_a_refused_batch_is_halved(bond: Bond, code: str) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem(code))

    published = bond.subject.publish_many(f"{bond.topic}.created", 4)

    bond.wait_for_delivery(published[-1], "delivered")
    assert [one.sequences for one in bond.peer.seen(EVENTS)][:2] == [[1, 2, 3, 4], [1, 2]]
    assert [event["payload"]["n"] for event in bond.link.events] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "answer",
    [
        problem("too_large"),
        problem("payload_invalid"),
        problem("event_expired"),
        problem("not_subscribed"),
        problem("invalid_request"),
        problem("no_such_code", status=418),
    ],
    ids=lambda answer: answer.value["code"],
)
def test_a_single_event_that_is_refused_is_a_dead_letter_and_a_gap(bond: Bond, answer: Reply) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, answer)

    published = bond.publish()

    dead = bond.wait_for_delivery(published, "dead")
    assert answer.value["code"] in str(dead["error"])
    told = bond.peer.take("gap").payload
    assert (told["fromSequence"], told["toSequence"], told["reason"]) == (1, 1, "refused")
    bond.wait_for_delivery(bond.publish(), "delivered")
    assert [one.sequences for one in bond.peer.seen(EVENTS)] == [[1], [2]]


def test_two_single_events_refused_as_malformed_in_a_row_hold_the_queue(bond: Bond) -> None:
    bond.listen()
    bond.peer.always_answer(EVENTS, problem("invalid_request"))
    first = bond.publish()
    bond.wait_for_delivery(first, "dead")

    second = bond.publish()

    held = bond.wait_for_delivery(second, "held")
    assert held["status"] == "held"
    bond.peer.answer_as_usual()
    bond.act("retry-now")
    bond.wait_for_delivery(second, "delivered")


@pytest.mark.parametrize(
    "code",
    [
        "authentication_failed",
        "key_untrusted",
        "invalid_issuer",
        "access_denied",
        "blocked",
        "connection_closed",
        "invalid_state",
        "message_id_conflict",
        "not_found",
        "method_not_allowed",
    ],
)
def test_what_is_held_waits_for_a_person(bond: Bond, code: str) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem(code))

    published = bond.publish()

    held = bond.wait_for_delivery(published, "held")
    assert held["event"]["status"] == "pending"
    assert bond.details()["status"] == "active"
    bond.act("retry-now")
    bond.wait_for_delivery(published, "delivered")
    assert [one.sequences for one in bond.peer.seen(EVENTS)] == [[1], [1]]


def test_a_sequence_conflict_starts_a_new_epoch_and_renumbers(bond: Bond) -> None:
    bond.listen()
    bond.wait_for_delivery(bond.publish(), "delivered")
    before = bond.take_batch()
    bond.peer.answer_with(EVENTS, problem("sequence_conflict"))

    published = bond.subject.publish_many(f"{bond.topic}.created", 2)

    bond.wait_for_delivery(published[-1], "delivered")
    refused, again = bond.take_batch(), bond.take_batch()
    assert (refused.sequences, again.sequences) == ([2, 3], [1, 2])
    assert refused.value["streamEpoch"] == before.value["streamEpoch"]
    assert again.value["streamEpoch"] != before.value["streamEpoch"]
    assert again.events == refused.events
    assert bond.stream("outgoing")["streamEpoch"] == again.value["streamEpoch"]


def test_a_clock_skew_is_tried_again(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("clock_skew", serverTime=now_ms() + 400_000))

    published = bond.publish()
    bond.take_batch()
    bond.wait_for_failure(published)

    bond.act("retry-now")
    bond.wait_for_delivery(published, "delivered")


def test_a_peer_that_says_suspended_without_having_told_is_tried_again(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("connection_suspended"))
    published = bond.publish()
    bond.take_batch()
    found = bond.wait_for_failure(published)

    bond.act("retry-now")

    assert found["status"] in {"held", "pending"}
    assert bond.details()["status"] == "active"
    bond.wait_for_delivery(published, "delivered")


# --- one entry is refused ---


def refusing(bond: Bond, sequence: int, code: str, retryable: bool) -> Any:
    def answer(request: Received, usual: Any) -> Reply:
        acks = ack(bond, request)["acks"]
        for one in acks:
            if one["sequence"] == sequence:
                error = {"code": code, "detail": "not this one", "retryable": retryable}
                one.update({"received": False, "status": "rejected", "error": error})
        return reply(ack(bond, request, acks=acks))

    return answer


@pytest.mark.parametrize(
    "code", ["payload_invalid", "invalid_request", "message_id_conflict", "too_large", "no_such_code"]
)
def test_an_entry_refused_for_good_is_a_dead_letter_and_blocks_nothing(bond: Bond, code: str) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, refusing(bond, 2, code, False))

    published = bond.subject.publish_many(f"{bond.topic}.created", 3)

    dead = bond.wait_for_delivery(published[1], "dead")
    bond.wait_for_delivery(published[0], "delivered")
    bond.wait_for_delivery(published[2], "delivered")
    assert code in str(dead["error"])
    following = bond.publish()
    bond.wait_for_delivery(following, "delivered")
    assert [one.sequences for one in bond.peer.seen(EVENTS)] == [[1, 2, 3], [4]]


@pytest.mark.parametrize("code", ["internal_error", "key_untrusted", "overloaded"])
def test_an_entry_refused_for_now_goes_again_under_its_number(bond: Bond, code: str) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, refusing(bond, 1, code, True))
    published = bond.subject.publish_many(f"{bond.topic}.created", 2)
    bond.wait_for_delivery(published[1], "delivered")

    later = bond.publish()
    bond.wait_for_delivery(later, "delivered")
    waiting = bond.subject.delivery(published[0]["messageId"], bond.local_id)
    bond.subject.post(f"/events/messages/{published[0]['messageId']}/retry")

    assert waiting["status"] in {"pending", "delivered"}
    bond.wait_for_delivery(published[0], "delivered")
    requests = [one.sequences for one in bond.peer.seen(EVENTS)]
    assert requests[0] == [1, 2]
    assert sorted(n for one in requests[1:] for n in one) == [1, 3]


def test_an_entry_in_sequence_conflict_starts_a_new_epoch(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, refusing(bond, 1, "sequence_conflict", False))

    published = bond.subject.publish_many(f"{bond.topic}.created", 2)

    bond.wait_for_delivery(published[0], "delivered")
    bond.wait_for_delivery(published[1], "delivered")
    first, second = bond.peer.seen(EVENTS)[:2]
    assert second.value["streamEpoch"] != first.value["streamEpoch"]
    assert second.value["events"] == [{"sequence": 1, "event": first.events[0]}]


def test_an_entry_that_is_not_subscribed_is_a_dead_letter(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, refusing(bond, 1, "not_subscribed", False))

    published = bond.publish()

    dead = bond.wait_for_delivery(published, "dead")
    assert "not_subscribed" in str(dead["error"])


# --- late acks ---


@pytest.mark.parametrize("kind", ["ack", "ack-batch"])
def test_a_late_ack_turns_even_a_dead_letter_into_delivered(bond: Bond, kind: str) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("payload_invalid"))
    published = bond.publish()
    request = bond.take_batch()
    bond.wait_for_delivery(published, "dead")
    [entry] = ack(bond, request)["acks"]
    late = bond.peer.event_ack(bond.link, entry) if kind == "ack" else ack(bond, request)

    answers = [bond.peer.post(bond.subject.base_url, EVENT_ACK, late) for _ in range(2)]

    assert [(answer.status, answer.body) for answer in answers] == [(204, b"")] * 2
    bond.wait_for_delivery(published, "delivered")


@pytest.mark.parametrize("change", [{"digest": wire.sha256_base64(b"other")}, {"connectionId": new_id()}])
def test_a_late_ack_for_something_else_delivers_nothing(bond: Bond, change: Message) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("payload_invalid"))
    published = bond.publish()
    request = bond.take_batch()
    bond.wait_for_delivery(published, "dead")
    [entry] = ack(bond, request)["acks"]

    answer = bond.peer.post(bond.subject.base_url, EVENT_ACK, bond.peer.event_ack(bond.link, entry, **change))

    assert answer.status in {204, 403}
    assert bond.subject.delivery(published["messageId"], bond.local_id)["status"] == "dead"


def test_a_forged_late_ack_is_refused(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("payload_invalid"))
    published = bond.publish()
    request = bond.take_batch()
    bond.wait_for_delivery(published, "dead")
    [entry] = ack(bond, request)["acks"]
    forged = {**bond.peer.event_ack(bond.link, entry), "added": "later"}

    answer = bond.peer.post(bond.subject.base_url, EVENT_ACK, forged)

    assert (answer.status, answer.code) == (401, "authentication_failed")
    assert bond.subject.delivery(published["messageId"], bond.local_id)["status"] == "dead"


def test_another_peer_cannot_acknowledge(bond: Bond, make_bond: MakeBond) -> None:
    other = make_bond()
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("payload_invalid"))
    published = bond.publish()
    request = bond.take_batch()
    bond.wait_for_delivery(published, "dead")
    [entry] = ack(bond, request)["acks"]

    answers = [
        other.peer.post(bond.subject.base_url, EVENT_ACK, other.peer.event_ack(link, entry))
        for link in (bond.link, other.link)
    ]

    assert [answer.status for answer in answers] == [403, 204]
    assert bond.subject.delivery(published["messageId"], bond.local_id)["status"] == "dead"


# --- by hand ---


def test_a_dead_letter_can_be_sent_again(bond: Bond) -> None:
    bond.listen()
    bond.peer.answer_with(EVENTS, problem("payload_invalid"))
    published = bond.publish()
    bond.wait_for_delivery(published, "dead")

    bond.subject.post(f"/events/messages/{published['messageId']}/retry")

    bond.wait_for_delivery(published, "delivered")
    events = [one.events[0] for one in bond.peer.seen(EVENTS)]
    assert events[0] == events[1]


def test_a_paused_connection_sends_nothing(bond: Bond) -> None:
    bond.listen()
    bond.act("pause")

    published = bond.publish()
    held = bond.subject.delivery(published["messageId"], bond.local_id)
    bond.act("unpause")

    assert held["status"] == "held"
    bond.wait_for_delivery(published, "delivered")


def test_one_request_is_in_flight_and_both_directions_are_independent(bond: Bond) -> None:
    bond.listen()
    bond.offer()
    may_answer = threading.Event()

    def slowly(request: Received, usual: Any) -> Reply:
        may_answer.wait(10)
        return usual()

    bond.peer.answer_with(EVENTS, slowly)
    first = bond.publish()
    wait_for(lambda: bond.peer.is_busy(bond.link), "a batch is in flight")

    second = bond.publish()
    incoming = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.x"))
    may_answer.set()

    assert incoming.value["acks"][0]["status"] == "stored"
    bond.wait_for_delivery(first, "delivered")
    bond.wait_for_delivery(second, "delivered")
    assert wait_for(lambda: len(bond.link.events) == 2, "both are stored")
