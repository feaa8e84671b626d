"""§1.1, §6, §7: events that the subject receives: shape, dedupe, the stream, gaps, single events."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance import wire
from tests.conformance.conftest import MakeBond
from tests.conformance.foreign_peer import EVENT, EVENT_ACK, EVENTS, ForeignPeer, check_entry
from tests.conformance.subject import Bond, Subject, wait_for
from tests.conformance.wire import MISSING, Key, Message, new_id, now_ms

EIGHT_DAYS_MS = 8 * 86_400_000


def statuses(answer: object) -> list[str]:
    """Each entry's status, or the code of its refusal."""
    acks = answer.value["acks"]  # type: ignore[attr-defined]
    return [entry["error"]["code"] if "error" in entry else entry["status"] for entry in acks]


# --- single events ---


@pytest.mark.parametrize("named", [True, False])
def test_a_single_event_is_stored_and_acknowledged(standing: Bond, named: bool) -> None:
    standing.offer()
    event = standing.peer.event(
        f"{standing.topic}.created", {"title": "grüße 😀"}, subject="s/1", extra={"more": [1]}
    )

    answer = standing.peer.send_event(standing.link.remote, event, standing.link if named else None)

    assert (answer.status, answer.value["status"]) == (200, "stored")
    standing.peer.check_ack("ack", answer, standing.link, event["messageId"])
    check_entry(answer.value, event)
    [stored] = standing.stored()
    assert (stored["messageId"], stored["payload"]) == (event["messageId"], event["payload"])
    assert (stored["direction"], stored["status"], stored["sequence"]) == ("incoming", "delivered", None)


def test_a_single_event_is_outside_the_stream(bond: Bond) -> None:
    bond.offer()
    bond.peer.send_event(bond.link.remote, bond.peer.event(f"{bond.topic}.created"), bond.link)

    answer = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.created"))

    assert answer.value["contiguous"] == 1


def test_a_repeated_event_is_a_duplicate_and_stored_once(standing: Bond) -> None:
    standing.offer()
    event = standing.peer.event(f"{standing.topic}.created")
    standing.peer.send_event(standing.link.remote, event, standing.link)

    answer = standing.peer.send_event(standing.link.remote, event, standing.link)

    assert (answer.status, answer.value["status"], answer.value["received"]) == (200, "duplicate", True)
    check_entry(answer.value, event)
    assert len(standing.stored()) == 1


def test_other_content_under_a_used_id_is_a_conflict(bond: Bond) -> None:
    bond.offer()
    event = bond.peer.event(f"{bond.topic}.created", {"n": 1})
    bond.peer.send_event(bond.link.remote, event, bond.link)
    other = bond.peer.event(f"{bond.topic}.created", {"n": 2}, messageId=event["messageId"])

    single = bond.peer.send_event(bond.link.remote, other, bond.link)
    batch = bond.peer.publish(bond.link, other)

    assert (single.status, single.code) == (409, "message_id_conflict")
    assert statuses(batch) == ["message_id_conflict"]
    assert [one["payload"] for one in bond.stored()] == [{"n": 1}]


def test_an_event_signed_again_by_the_next_key_is_a_duplicate(bond: Bond) -> None:
    bond.offer()
    following = Key.rsa(status="next")
    bond.peer.key.vouch_for(bond.peer.instance_id, following)
    bond.peer.control(bond.link, "keys.changed", {"keys": [following.record()]})
    event = bond.peer.event(f"{bond.topic}.created")
    bond.peer.send_event(bond.link.remote, event, bond.link)
    rest = {name: value for name, value in event.items() if name not in {"keyId", "signature"}}

    answer = bond.peer.send_event(bond.link.remote, following.sign("event", rest), bond.link)

    assert (answer.status, answer.value["status"]) == (200, "duplicate")


def test_without_an_open_connection_a_single_event_is_refused(bond: Bond) -> None:
    bond.peer.disconnect(bond.link)

    answer = bond.peer.send_event(bond.link.remote, bond.peer.event(f"{bond.topic}.created"))

    assert (answer.status, answer.code) == (410, "connection_closed")


def test_over_a_pending_connection_a_single_event_is_denied(subject: Subject, peer: ForeignPeer) -> None:
    link = peer.request_connection(subject.base_url)
    subject.pending(link)

    answer = peer.send_event(link.remote, peer.event("auto.x"))

    assert (answer.status, answer.code) == (403, "access_denied")


def test_with_several_open_connections_one_must_be_named(subject: Subject, make_bond: MakeBond) -> None:
    if subject.make_workspace is None:
        pytest.skip("no second workspace can be made from here")
    slug = f"w-{new_id()[:8]}"
    token = subject.make_workspace(slug)
    bond = make_bond()
    elsewhere = Subject(subject.base_url, token)
    link = bond.peer.request_connection(subject.base_url, toWorkspace=slug)
    elsewhere.post(f"/connections/{elsewhere.pending(link)['id']}/accept")
    bond.peer.take("connection.accept")
    wait_for(lambda: link.status == "active", "the second connection is active")

    answer = bond.peer.send_event(bond.link.remote, bond.peer.event(f"{bond.topic}.created"))

    assert (answer.status, answer.code, answer.pointers) == (400, "invalid_request", ["/connectionId"])
    assert subject.connection(link.connection_id) is None


@pytest.mark.parametrize("path", [f"{EVENT}?connectionId=1", f"{EVENT}?connectionId="])
def test_a_connection_id_that_is_none_is_named(standing: Bond, path: str) -> None:
    answer = standing.peer.post(
        standing.subject.base_url, path, standing.peer.event(f"{standing.topic}.created")
    )

    assert (answer.status, answer.code, answer.pointers) == (400, "invalid_request", ["/connectionId"])


# --- the shape of an event ---

SHAPES: dict[str, tuple[Message, str]] = {
    "no messageId": ({"messageId": MISSING}, "/messageId"),
    "messageId of no UUID": ({"messageId": "1"}, "/messageId"),
    "upper-case messageId": ({"messageId": new_id().upper()}, "/messageId"),
    "no payload": ({"payload": MISSING}, "/payload"),
    "payload is a list": ({"payload": []}, "/payload"),
    "payload is null": ({"payload": None}, "/payload"),
    "no eventType": ({"eventType": MISSING}, "/eventType"),
    "eventType is a pattern": ({"eventType": "auto.*"}, "/eventType"),
    "eventType in upper case": ({"eventType": "Auto.x"}, "/eventType"),
    "eventType of 9 segments": ({"eventType": "a.b.c.d.e.f.g.h.i"}, "/eventType"),
    "eventType of 256": ({"eventType": ".".join(["s" * 64] * 4)}, "/eventType"),
    "timestamp is a text": ({"timestamp": "now"}, "/timestamp"),
    "timestamp is true": ({"timestamp": True}, "/timestamp"),
    "timestamp is negative": ({"timestamp": -1}, "/timestamp"),
    "timestamp has a fraction": ({"timestamp": 1.5}, "/timestamp"),
    "subject of 1025": ({"subject": "s" * 1025}, "/subject"),
    "subject is empty": ({"subject": ""}, "/subject"),
    "subject is null": ({"subject": None}, "/subject"),
    "dataSchema of 1025": ({"dataSchema": "s" * 1025}, "/dataSchema"),
    "traceparent of 56": ({"traceparent": "t" * 56}, "/traceparent"),
    "keyId with a space": ({"keyId": "k 1"}, "/keyId"),
    "keyId of 65": ({"keyId": "k" * 65}, "/keyId"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_bad_member_of_an_event_is_named(standing: Bond, case: str) -> None:
    changes, pointer = SHAPES[case]
    standing.offer()

    answer = standing.peer.send_event(standing.link.remote, made(standing, changes), standing.link)

    assert (answer.status, answer.code) == (400, "invalid_request")
    assert [one.startswith(pointer) for one in answer.pointers[:1]] == [True]


def made(bond: Bond, changes: Message) -> Message:
    """An event with these members, `payload` too."""
    rest = {name: value for name, value in bond.peer.event(f"{bond.topic}.x").items() if name != "signature"}
    return bond.peer.key.sign("event", wire.with_members(rest, changes))


def test_the_longest_of_everything_is_taken(bond: Bond) -> None:
    bond.offer("auto.**")
    event_type = ".".join(["auto", *["s" * 50] * 4, "s" * 46])
    event = bond.peer.event(
        event_type,
        subject="😀" * 1024,
        dataSchema="d" * 1024,
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        specVersion="1.0",
        timestamp=float(now_ms()),
    )

    answer = bond.peer.send_event(bond.link.remote, event, bond.link)

    assert len(event_type) == 255
    assert (answer.status, answer.value.get("status")) == (200, "stored")


def test_another_spec_version_is_unsupported(standing: Bond) -> None:
    event = standing.peer.event(f"{standing.topic}.x", specVersion="2.0")

    answer = standing.peer.send_event(standing.link.remote, event, standing.link)

    assert (answer.status, answer.code) == (400, "unsupported_version")


TEXTS = {
    "a duplicate member": '{"a": 1, "a": 2}',
    "a duplicate member, escaped": '{"a": 1, "\\u0061": 2}',
    "NaN": '{"a": NaN}',
    "Infinity": '{"a": Infinity}',
    "a number that overflows": '{"a": 1e400}',
    "2^53": '{"a": 9007199254740992}',
    "-2^53": '{"a": -9007199254740992}',
    "1e16": '{"a": 1e16}',
    "a lone surrogate": '{"a": "\\ud800"}',
    "a lone surrogate in a name": '{"\\udfff": 1}',
    "U+0000": '{"a": "\\u0000"}',
    "a control character": '{"a": "\t"}',
    "a trailing comma": '{"a": 1,}',
    "a leading zero": '{"a": 01}',
    "depth 33": '{"a":' + "[" * 31 + "]" * 31 + "}",
    "10 001 values": '{"a": [' + ",".join(["1"] * 9_993) + "]}",
    "very deep": '{"a":' + "[" * 50_000 + "]" * 50_000 + "}",
}


@pytest.mark.parametrize("case", TEXTS)
def test_json_that_is_not_strict_is_refused(standing: Bond, case: str) -> None:
    raw = wire.encode(standing.peer.event(f"{standing.topic}.x", {"here": 0})).replace(
        b'{\n  "here": 0\n }', TEXTS[case].encode()
    )
    assert TEXTS[case].encode() in raw

    answer = standing.peer.post(standing.subject.base_url, EVENT, raw)

    assert (answer.status, answer.code) == (400, "invalid_request")


@pytest.mark.parametrize(
    "raw",
    [b"", b"null", b"[]", b"7", b'"text"', b"{}", b"{} {}", b"\xef\xbb\xbf{}", b'{"a": "\xff"}', b"{"],
    ids=str,
)
@pytest.mark.parametrize("path", [EVENT, EVENTS, EVENT_ACK])
def test_a_body_that_is_no_message_is_refused(standing: Bond, path: str, raw: bytes) -> None:
    answer = standing.peer.post(standing.subject.base_url, path, raw)

    assert (answer.status, answer.code) == (400, "invalid_request")


def test_the_strangest_legal_json_is_taken(bond: Bond) -> None:
    bond.offer()
    deep: object = 1
    for _ in range(30):
        deep = [deep]
    payload = {
        "deep": deep,
        "numbers": [1e300, 5e-324, 1.5, 1e21, 1e-7, 2**53 - 1, -(2**53) + 1, 0.1 + 0.2],
        "\ue000": "\uffff",
        "𝌆": "\u2028",
        "__proto__": {},
        "": [None, True, False],
    }

    answer = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.x", payload))

    assert statuses(answer) == ["stored"]
    assert bond.stored()[0]["payload"] == payload


def test_ten_thousand_values_are_taken(bond: Bond) -> None:
    bond.offer()
    # The event itself, its 7 members and the list beside these.
    payload = {"n": [1] * (10_000 - 9)}

    answer = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.x", payload))

    assert statuses(answer) == ["stored"]


def test_the_values_of_a_batch_are_counted_for_each_event(bond: Bond) -> None:
    bond.offer()
    events = [bond.peer.event(f"{bond.topic}.x", {"n": [1] * 4_000}) for _ in range(4)]

    answer = bond.peer.publish(bond.link, *events)

    assert statuses(answer) == ["stored"] * 4


# --- time and size ---


@pytest.mark.parametrize(
    ("offset_ms", "status", "code"),
    [
        (290_000, 200, None),
        (310_000, 400, "invalid_request"),
        (-EIGHT_DAYS_MS + 60_000, 200, None),
        (-EIGHT_DAYS_MS - 60_000, 410, "event_expired"),
    ],
)
def test_an_event_is_taken_within_its_time(bond: Bond, offset_ms: int, status: int, code: str | None) -> None:
    bond.offer()
    event = bond.peer.event(f"{bond.topic}.x", timestamp=now_ms() + offset_ms)

    single = bond.peer.send_event(bond.link.remote, event, bond.link)
    batch = bond.peer.publish(bond.link, event)

    assert (single.status, single.code) == (status, code)
    assert statuses(batch) == [code or "duplicate"]
    assert code != "invalid_request" or single.pointers == ["/timestamp"]


def padded(bond: Bond, size: int) -> Message:
    """An event whose canonical form with its signature has exactly that many bytes."""
    event = bond.peer.event(f"{bond.topic}.x", {"pad": ""})
    empty = len(wire.rfc8785.dumps(event))
    return bond.peer.event(
        f"{bond.topic}.x",
        {"pad": "x" * (size - empty)},
        timestamp=event["timestamp"],
        messageId=event["messageId"],
    )


def test_an_event_may_be_as_large_as_the_document_says(bond: Bond) -> None:
    bond.offer()
    limit = bond.link.remote.document["limits"]["maxEventBytes"]

    taken = bond.peer.send_event(bond.link.remote, padded(bond, limit), bond.link)
    refused = bond.peer.send_event(bond.link.remote, padded(bond, limit + 1), bond.link)
    batch = bond.peer.publish(bond.link, padded(bond, limit + 1), padded(bond, limit))

    assert taken.status == 200
    assert (refused.status, refused.code) == (413, "too_large")
    assert statuses(batch) == ["too_large", "stored"]


def test_a_batch_may_have_as_many_events_as_the_document_says(bond: Bond) -> None:
    bond.offer()
    limit = bond.link.remote.document["limits"]["maxBatchEvents"]
    events = [bond.peer.event(f"{bond.topic}.x", {"n": n}) for n in range(limit + 1)]

    too_many = bond.peer.send_batch(bond.link, bond.peer.batch(bond.link, enumerate(events, 1)))
    enough = bond.peer.publish(bond.link, *events[:limit])

    assert (too_many.status, too_many.code) == (413, "too_large")
    assert statuses(enough) == ["stored"] * limit


def test_a_body_larger_than_the_document_says_is_refused(standing: Bond) -> None:
    limit = standing.link.remote.document["limits"]["maxRequestBytes"]

    answer = standing.peer.post(standing.subject.base_url, EVENTS, b" " * (limit + 1))

    assert (answer.status, answer.code) == (413, "too_large")


# --- batches ---

ENVELOPES: dict[str, tuple[Message, str]] = {
    "no events": ({"events": []}, "/events"),
    "events missing": ({"events": MISSING}, "/events"),
    "events is an object": ({"events": {}}, "/events"),
    "no batchId": ({"batchId": MISSING}, "/batchId"),
    "batchId of no UUID": ({"batchId": "b"}, "/batchId"),
    "no streamEpoch": ({"streamEpoch": MISSING}, "/streamEpoch"),
    "streamEpoch is a number": ({"streamEpoch": 1}, "/streamEpoch"),
    "no connectionId": ({"connectionId": MISSING}, "/connectionId"),
    "an entry that is none": ({"events": [7]}, "/events/0"),
    "an entry without a sequence": ({"events": [{"event": {}}]}, "/events/0/sequence"),
}


@pytest.mark.parametrize("case", ENVELOPES)
def test_a_malformed_envelope_is_refused_as_a_whole(standing: Bond, case: str) -> None:
    changes, pointer = ENVELOPES[case]

    batch = standing.peer.batch(standing.link, [(1, standing.peer.event(f"{standing.topic}.x"))], **changes)
    answer = standing.peer.post(standing.subject.base_url, EVENTS, batch)

    assert (answer.status, answer.code) == (400, "invalid_request")
    assert [one.startswith(pointer) for one in answer.pointers[:1]] == [True]


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1), (0, 1), (-1, 1), (1, True)])
def test_sequences_ascend_from_one(standing: Bond, numbers: tuple[int, int]) -> None:
    standing.offer()
    events = [standing.peer.event(f"{standing.topic}.x", {"n": n}) for n in range(2)]

    answer = standing.peer.post(
        standing.subject.base_url,
        EVENTS,
        standing.peer.batch(standing.link, zip(numbers, events, strict=True)),
    )

    assert (answer.status, answer.code) == (400, "invalid_request")
    assert standing.stored() == []


def test_a_bad_event_in_a_good_envelope_is_a_rejected_entry(bond: Bond) -> None:
    bond.offer()
    good = [bond.peer.event(f"{bond.topic}.x", {"n": n}) for n in range(2)]
    altered = {**bond.peer.event(f"{bond.topic}.x"), "payload": {"altered": True}}
    shapeless = bond.peer.event(f"{bond.topic}.x", subject=None)

    answer = bond.peer.publish(bond.link, good[0], altered, shapeless, good[1])

    assert statuses(answer) == ["stored", "authentication_failed", "invalid_request", "stored"]
    assert [one["payload"] for one in bond.stored()] == [{"n": 0}, {"n": 1}]
    assert answer.value["contiguous"] == 4


def test_an_event_of_another_instance_is_a_rejected_entry(bond: Bond) -> None:
    bond.offer()

    answer = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.x", instanceId=new_id()))

    assert statuses(answer) == ["invalid_issuer"]


def test_an_entry_whose_message_id_cannot_be_read_refuses_the_batch(bond: Bond) -> None:
    bond.offer()
    batch = bond.peer.batch(
        bond.link, [(1, bond.peer.event(f"{bond.topic}.x")), (2, {"messageId": 7, "payload": {}})]
    )

    answer = bond.peer.post(bond.subject.base_url, EVENTS, batch)

    assert (answer.status, answer.code) == (400, "invalid_request")
    assert bond.stored() == []


def test_unknown_members_are_ignored_everywhere(bond: Bond) -> None:
    bond.offer()
    event = bond.peer.event(f"{bond.topic}.x", more={"a": None}, specVersion="1.0")
    batch = bond.peer.batch(bond.link, [(1, event)], more=[None])
    batch["events"][0]["more"] = True
    control = bond.peer.control(bond.link, "verification", {"state": "x", "more": 1}, more="so")

    answer = bond.peer.send_batch(bond.link, batch)

    assert statuses(answer) == ["stored"]
    assert control.status == 200


def test_a_sequence_written_with_a_point_is_an_integer(bond: Bond) -> None:
    bond.offer()

    answer = bond.peer.send_batch(
        bond.link, bond.peer.batch(bond.link, [(1.0, bond.peer.event(f"{bond.topic}.x"))])
    )

    assert statuses(answer) == ["stored"]
    assert answer.value["contiguous"] == 1


def test_a_replay_that_nobody_asked_for_excuses_no_age(bond: Bond) -> None:
    bond.offer()
    old = bond.peer.event(f"{bond.topic}.x", timestamp=now_ms() - EIGHT_DAYS_MS - 60_000)
    batch = bond.peer.batch(bond.link, [(1, bond.peer.event(f"{bond.topic}.x")), (2, old)])
    for entry in batch["events"]:
        entry["replayId"] = new_id()

    answer = bond.peer.send_batch(bond.link, batch)

    assert statuses(answer) == ["stored", "event_expired"]


def test_order_is_kept(bond: Bond) -> None:
    bond.offer()
    events = [bond.peer.event(f"{bond.topic}.x", {"n": n}) for n in range(30)]

    for start in range(0, 30, 10):
        bond.peer.publish(bond.link, *events[start : start + 10])

    assert [one["payload"]["n"] for one in bond.stored()] == list(range(30))
    assert [one["sequence"] for one in bond.stored()] == list(range(1, 31))


def test_the_same_batch_sent_at_once_by_many_is_stored_once(bond: Bond) -> None:
    bond.offer()
    events = [bond.peer.event(f"{bond.topic}.x", {"n": n}) for n in range(5)]
    batches = [bond.peer.batch(bond.link, enumerate(events, 1)) for _ in range(6)]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda batch: bond.peer.send_batch(bond.link, batch), batches))

    assert {answer.status for answer in answers} == {200}
    assert (
        sorted(name for answer in answers for name in statuses(answer)) == ["duplicate"] * 25 + ["stored"] * 5
    )
    assert [one["payload"]["n"] for one in bond.stored()] == [0, 1, 2, 3, 4]


# --- the stream ---


def send(bond: Bond, *numbers: int, event: Message | None = None, **members: object) -> object:
    """Send fresh events (or this one) under these numbers."""
    entries = [(n, event or bond.peer.event(f"{bond.topic}.x", {"n": n})) for n in numbers]
    return bond.peer.send_batch(bond.link, bond.peer.batch(bond.link, entries, **members))


def test_contiguous_waits_for_a_hole_and_passes_it_when_it_is_filled(bond: Bond) -> None:
    bond.offer()

    answers = [send(bond, *numbers) for numbers in ((1, 2), (5, 6), (4,), (3,))]

    assert [answer.value["contiguous"] for answer in answers] == [2, 2, 2, 6]
    assert bond.stream("incoming")["contiguous"] == 6


def test_a_hole_is_shown_as_missing(bond: Bond) -> None:
    bond.offer()

    send(bond, 1, 4)

    missing = bond.stream("incoming")["missing"]
    assert [(one["fromSequence"], one["toSequence"]) for one in missing] == [(2, 3)]


@pytest.mark.parametrize("reason", ["expired", "refused", "erased", "withdrawn"])
def test_a_gap_closes_its_numbers(bond: Bond, reason: str) -> None:
    bond.offer()
    send(bond, 1, 5)

    answer = gap(bond, 2, 4, reason=reason)

    assert (answer.status, answer.value["status"]) == (200, "active")
    assert bond.stream("incoming")["contiguous"] == 5


def gap(bond: Bond, first: int, last: int, **payload: object) -> object:
    said = {"streamEpoch": bond.link.epoch, "fromSequence": first, "toSequence": last, "reason": "refused"}
    return bond.peer.control(bond.link, "gap", wire.with_members(said, payload))


def test_an_event_inside_a_gap_is_stored(bond: Bond) -> None:
    bond.offer()
    gap(bond, 1, 3)

    answer = send(bond, 2)

    assert statuses(answer) == ["stored"]
    assert answer.value["contiguous"] == 3


@pytest.mark.parametrize(
    ("first", "last", "payload"),
    [
        (1, 1_000_001, {}),
        (3, 2, {}),
        (0, 1, {}),
        (1, 1, {"reason": "boredom"}),
        (1, 1, {"reason": MISSING}),
        (1, 1, {"streamEpoch": "e"}),
    ],
)
def test_a_gap_that_cannot_be_is_refused(
    standing: Bond, first: int, last: int, payload: dict[str, object]
) -> None:
    answer = gap(standing, first, last, **payload)

    assert (answer.status, answer.code) == (400, "invalid_request")


def test_a_gap_of_a_million_is_taken(bond: Bond) -> None:
    bond.offer()

    answer = gap(bond, 1, 1_000_000)

    assert answer.status == 200
    assert send(bond, 1_000_001).value["contiguous"] == 1_000_001


def test_a_duplicate_under_a_new_number_fills_it(bond: Bond) -> None:
    bond.offer()
    event = bond.peer.event(f"{bond.topic}.x")
    send(bond, 1, event=event)

    answer = send(bond, 2, event=event)

    assert statuses(answer) == ["duplicate"]
    assert answer.value["contiguous"] == 2
    assert len(bond.stored()) == 1


def test_another_event_under_a_used_number_is_a_sequence_conflict(bond: Bond) -> None:
    bond.offer()
    event = bond.peer.event(f"{bond.topic}.x")
    send(bond, 1, 2)
    send(bond, 3, event=event)
    send(bond, 4, event=event)

    answers = [send(bond, 1), send(bond, 4)]

    assert [statuses(answer) for answer in answers] == [["sequence_conflict"]] * 2
    assert answers[0].value["acks"][0]["error"]["retryable"] is False
    assert len(bond.stored()) == 3


def test_a_number_too_far_ahead_is_refused_as_a_whole(bond: Bond) -> None:
    bond.offer()
    send(bond, 1)

    far = send(bond, 2, 10_002)
    near = send(bond, 10_001)

    assert (far.status, far.code) == (429, "rate_limited")
    assert 1 <= int(far.headers["retry-after"]) <= 3600
    assert statuses(near) == ["stored"]
    assert near.value["contiguous"] == 1
    assert bond.stream("incoming")["headSequence"] >= 10_001


def test_a_new_epoch_starts_at_zero_but_not_at_once(bond: Bond) -> None:
    bond.offer()
    send(bond, 1, 2)
    epoch = new_id()

    early = send(bond, 1, streamEpoch=epoch)
    later = wait_for(
        lambda: (answer := send(bond, 1, streamEpoch=epoch)).status == 200 and answer, "it may start", 20
    )

    assert (early.status, early.code) == (429, "rate_limited")
    assert statuses(later) == ["stored"]
    assert later.value["contiguous"] == 1
    assert bond.stream("incoming")["streamEpoch"] == epoch


def test_the_head_of_a_heartbeat_is_noted(bond: Bond) -> None:
    bond.offer()
    send(bond, 1)

    answer = bond.peer.control(
        bond.link, "heartbeat", {"streamEpoch": bond.link.epoch, "headSequence": 3, "oldestSequence": 1}
    )

    assert answer.status == 200
    stream = bond.stream("incoming")
    assert stream["headSequence"] == 3
    assert [(one["fromSequence"], one["toSequence"]) for one in stream["missing"]] == [(2, 3)]


# --- acks and replays ---


def test_a_late_ack_of_nothing_is_ignored(standing: Bond) -> None:
    entry = {"correlationId": new_id(), "received": True, "status": "stored", "digest": "A" * 43 + "="}

    answer = standing.peer.post(
        standing.subject.base_url, EVENT_ACK, standing.peer.event_ack(standing.link, entry)
    )

    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"received": False}, ""),
        ({"status": "rejected"}, ""),
        ({"status": "maybe"}, "/status"),
        ({"digest": "short"}, "/digest"),
        ({"digest": MISSING}, "/digest"),
        ({"correlationId": MISSING}, "/correlationId"),
    ],
)
def test_an_ack_that_says_two_things_is_refused(standing: Bond, changes: Message, pointer: str) -> None:
    entry = {"correlationId": new_id(), "received": True, "status": "stored", "digest": "A" * 43 + "="}

    answer = standing.peer.post(
        standing.subject.base_url, EVENT_ACK, standing.peer.event_ack(standing.link, entry, **changes)
    )

    assert (answer.status, answer.code) == (400, "invalid_request")
    assert not pointer or answer.pointers == [pointer]


def test_a_replay_of_an_epoch_that_nobody_knows_is_gone(bond: Bond) -> None:
    bond.listen()
    bond.wait_for_delivery(bond.publish(), "delivered")

    answer = bond.peer.control(bond.link, "replay.request", {"replayId": new_id(), "streamEpoch": new_id()})

    assert (answer.status, answer.code) == (410, "replay_gone")
    assert answer.value["streamEpoch"] == bond.stream("outgoing")["streamEpoch"]
    assert answer.value["oldestSequence"] >= 1


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        ({}, "/payload/replayId"),
        ({"replayId": "r"}, "/payload/replayId"),
        ({"replayId": new_id(), "fromSequence": 0}, "/payload/fromSequence"),
        ({"replayId": new_id(), "since": "today"}, "/payload/since"),
        ({"replayId": new_id(), "eventTypes": "auto"}, "/payload/eventTypes"),
        ({"replayId": new_id(), "until": None}, "/payload/until"),
    ],
)
def test_a_malformed_replay_request_is_refused(standing: Bond, payload: Message, pointer: str) -> None:
    answer = standing.peer.control(standing.link, "replay.request", payload)

    assert (answer.status, answer.code) == (400, "invalid_request")
    assert [one.startswith(pointer) for one in answer.pointers[:1]] == [True]


def test_an_event_is_taken_over_the_connection_of_its_sender_alone(bond: Bond, make_bond: MakeBond) -> None:
    bond.offer("auto.**")
    other = make_bond()

    answer = other.peer.publish(other.link, bond.peer.event(f"{bond.topic}.x"))

    assert statuses(answer) == ["invalid_issuer"]
    assert bond.stored() == []


def test_a_peer_without_a_connection_is_not_known(subject: Subject, peer: ForeignPeer) -> None:
    answer = peer.post(subject.base_url, EVENT, peer.event("auto.x"))

    assert (answer.status, answer.code) == (401, "authentication_failed")
