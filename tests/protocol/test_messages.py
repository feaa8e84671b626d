"""Events, batches, acks and documents: what is read, what is refused where, and who may have signed."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol import messages
from app.protocol.canonical import canonical, loads
from app.protocol.errors import (
    AuthenticationFailed,
    EventExpired,
    InvalidRequest,
    KeyUntrusted,
    NotSubscribed,
    TooLarge,
    UnsupportedVersion,
)
from app.protocol.keys import KeyStatus
from app.protocol.messages import AckEntry, AckStatus, Limits
from app.protocol.signing import Kind, digest, signing_input, with_signature
from tests.protocol import builders, vectors
from tests.protocol.builders import ABSENT, NOW


def pointer_of(refused: pytest.ExceptionInfo[InvalidRequest]) -> str:
    [error] = refused.value.errors
    return error.pointer


BAD_MEMBERS = [
    ("messageId", ABSENT),
    ("messageId", None),
    ("messageId", "00000000-0000-4000-8000-00000000000A"),
    ("messageId", "00000000-0000-4000-8000-000000000001\n"),
    ("messageId", "{00000000-0000-4000-8000-000000000001}"),
    ("instanceId", ABSENT),
    ("instanceId", 1),
    ("eventType", ABSENT),
    ("eventType", None),
    ("eventType", "Task"),
    ("eventType", "task.*"),
    ("eventType", ["task"]),
    ("payload", ABSENT),
    ("payload", []),
    ("payload", None),
    ("timestamp", ABSENT),
    ("timestamp", True),
    ("timestamp", -1),
    ("timestamp", 1.5),
    ("timestamp", 1e21),
    ("timestamp", "1"),
    ("keyId", ""),
    ("keyId", "k" * 65),
    ("keyId", "k/1"),
    ("signature", ABSENT),
    ("signature", ""),
    ("signature", "AB=="),
    ("signature", "AAA"),
    ("signature", "AA=A"),
    ("signature", "AAAA\n"),
    ("signature", {}),
    ("subject", None),
    ("subject", ""),
    ("subject", "x" * 1025),
    ("subject", 1),
    ("dataSchema", None),
    ("dataSchema", "x" * 1025),
    ("traceparent", "x" * 56),
    ("traceparent", []),
    ("specVersion", None),
    ("specVersion", 1.0),
    ("proof", []),
]


@pytest.mark.parametrize("name, value", BAD_MEMBERS, ids=str)
def test_bad_member_of_an_event_is_named(ed25519_signer, name, value):
    message = builders.event(ed25519_signer) | {name: value}

    with pytest.raises(InvalidRequest) as refused:
        messages.parse_event(builders.without_absent(message), "/events/0/event")

    assert pointer_of(refused) == f"/events/0/event/{name}"


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_event_that_is_no_object_is_refused(value):
    with pytest.raises(InvalidRequest):
        messages.parse_event(value)


def test_event_of_another_version_is_told_apart(ed25519_signer):
    with pytest.raises(UnsupportedVersion):
        messages.parse_event(builders.event(ed25519_signer, specVersion="2.0"))


def test_limits_count_code_points_and_integers_may_have_a_fraction_of_zero(ed25519_signer):
    message = builders.event(ed25519_signer, subject="😀" * 1024, traceparent="x" * 55, timestamp=NOW + 0.0)

    event = messages.parse_event(message)

    assert (event.subject, event.timestamp, type(event.timestamp)) == ("😀" * 1024, NOW, int)


def test_unknown_members_are_kept_and_covered(ed25519_signer, ed25519_record):
    message = builders.event(ed25519_signer, extra={"anything": [None]})

    event = messages.verify_event(messages.parse_event(message), ed25519_record)

    assert loads(event.to_wire()) == message
    altered = messages.parse_event(message | {"extra": {"anything": [0]}})
    with pytest.raises(AuthenticationFailed):
        messages.verify_event(altered, ed25519_record)


def test_event_knows_its_digest_and_its_size_on_the_wire(signer):
    message = builders.event(signer, subject="s")

    event = messages.parse_event(message)

    assert event.digest == digest(signing_input(Kind.EVENT, message))
    assert event.wire_size == len(canonical(message)) == len(event.to_wire())


def test_event_is_verified_by_its_own_key_alone(signer, rsa_record, ed25519_record):
    event = messages.parse_event(builders.event(signer))

    assert messages.verify_event(event, rsa_record) is event
    for record in (ed25519_record, replace(ed25519_record, key_id=rsa_record.key_id), None):
        with pytest.raises(AuthenticationFailed):
            messages.verify_event(event, record)


def test_key_that_may_not_sign_is_answered_as_the_caller_says(ed25519_signer, ed25519_record):
    event = messages.parse_event(builders.event(ed25519_signer))
    revoked = replace(ed25519_record, status=KeyStatus.REVOKED)
    retired = replace(ed25519_record, status=KeyStatus.RETIRED, not_after=NOW - 1)

    for record in (revoked, retired, None):
        with pytest.raises(KeyUntrusted):
            messages.verify_event(event, record, barred=KeyUntrusted)
        with pytest.raises(AuthenticationFailed):
            messages.verify_event(event, record)
    assert messages.verify_event(event, replace(retired, not_after=NOW))


def test_wrong_signature_is_never_a_matter_of_trust(ed25519_signer, ed25519_record):
    event = messages.parse_event(builders.event(ed25519_signer) | {"payload": {"n": 2}})

    with pytest.raises(AuthenticationFailed) as refused:
        messages.verify_event(event, ed25519_record, barred=KeyUntrusted)

    assert refused.value.to_wire()["detail"] == "Authentication failed"


def test_time_of_an_event_is_checked_against_the_clock(ed25519_signer):
    event = messages.parse_event(builders.event(ed25519_signer))
    eight_days = 8 * 86_400_000

    messages.check_event_time(event, NOW - 300_000)
    messages.check_event_time(event, NOW + eight_days)
    messages.check_event_time(event, NOW + eight_days + 1, was_asked_for=True)
    with pytest.raises(InvalidRequest) as refused:
        messages.check_event_time(event, NOW - 300_001)
    assert pointer_of(refused) == "/timestamp"
    with pytest.raises(EventExpired):
        messages.check_event_time(event, NOW + eight_days + 1)


def test_event_signed_anew_is_the_same_event(signer, ed25519_signer):
    one = messages.parse_event(builders.event(signer))
    anew = messages.parse_event(builders.event(ed25519_signer))
    other = messages.parse_event(builders.event(ed25519_signer, payload={"n": 2}))

    assert one.body != anew.body
    assert messages.is_same_event(one.body, one.body)
    assert messages.is_same_event(one.body, anew.body)
    assert not messages.is_same_event(one.body, other.body)


def test_own_event_is_what_a_receiver_reads(signer, rsa_record):
    members = {
        "message_id": builders.MESSAGE,
        "instance_id": signer.instance_id,
        "event_type": "task.created",
        "payload": {"price": 1.5, "name": "grüße"},
        "timestamp": NOW,
        "key_id": signer.key_id,
        "subject": "s",
        "data_schema": "d",
        "traceparent": "t",
    }

    body = messages.event_body(**members)
    wire = with_signature(body, signer.sign_body(Kind.EVENT, body))

    event = messages.verify_event(messages.parse_event(loads(wire)), rsa_record)
    assert {name: getattr(event, name) for name in members} == members
    assert messages.event_size(body, event.signature) == event.wire_size


@pytest.mark.parametrize(
    "name, value, pointer",
    [
        ("event_type", "Task", "/eventType"),
        ("subject", "", "/subject"),
        ("data_schema", "x" * 1025, "/dataSchema"),
        ("traceparent", "x" * 56, "/traceparent"),
        ("payload", {"a": [0] * 10_000}, ""),
    ],
)
def test_own_event_that_a_receiver_would_refuse_is_refused(name, value, pointer):
    members = {"event_type": "task.created", "payload": {}, name: value}

    with pytest.raises(InvalidRequest) as refused:
        messages.event_body(
            message_id=builders.MESSAGE, instance_id=builders.OTHER, timestamp=NOW, key_id="k", **members
        )

    assert pointer_of(refused) == pointer


# Batches


def test_batch_is_read_with_its_events(ed25519_signer):
    first, second = builders.event(ed25519_signer), builders.event(ed25519_signer, messageId=builders.OTHER)
    value = builders.batch(first, second)
    value["events"][1] |= {"sequence": 7, "replayId": builders.EPOCH}

    batch = messages.parse_event_batch(value, max_events=2)

    assert (batch.batch_id, batch.connection_id, batch.stream_epoch) == (
        builders.OTHER,
        builders.CONNECTION,
        builders.EPOCH,
    )
    assert [(entry.sequence, entry.message_id, entry.replay_id) for entry in batch.entries] == [
        (1, builders.MESSAGE, None),
        (7, builders.OTHER, builders.EPOCH),
    ]
    assert [entry.event.payload for entry in batch.entries] == [{"n": 1}, {"n": 1}]
    assert [entry.digest for entry in batch.entries] == [
        digest(signing_input(Kind.EVENT, event)) for event in (first, second)
    ]


def test_bad_event_in_a_good_envelope_is_the_problem_of_its_entry(ed25519_signer):
    good = builders.event(ed25519_signer)
    deep: dict = {}
    for _ in range(32):
        deep = {"a": deep}
    bad = [
        good | {"timestamp": True},
        good | {"specVersion": "2.0"},
        good | {"payload": deep},
        good | {"payload": {"a": [0] * 10_000}},
        good | {"signature": None},
    ]

    batch = messages.parse_event_batch(builders.batch(good, *bad, good), max_events=7)

    codes = [entry.problem.code if entry.problem else "good" for entry in batch.entries]
    expected = ["invalid_request", "unsupported_version", *["invalid_request"] * 3]
    assert codes == ["good", *expected, "good"]
    assert [entry.event is None for entry in batch.entries] == [code != "good" for code in codes]
    assert batch.entries[1].digest == digest(signing_input(Kind.EVENT, bad[0]))
    assert batch.entries[1].problem.errors[0].pointer == "/events/1/event/timestamp"


@pytest.mark.parametrize(
    "members, pointer",
    [
        ({"events": []}, "/events"),
        ({"events": {}}, "/events"),
        ({"events": ABSENT}, "/events"),
        ({"events": [1]}, "/events/0"),
        ({"events": [{"sequence": 1}]}, "/events/0/event"),
        ({"events": [{"sequence": 1, "event": []}]}, "/events/0/event"),
        ({"events": [{"sequence": 1, "event": {"messageId": "x"}}]}, "/events/0/event/messageId"),
        ({"events": [{"sequence": 0, "event": {"messageId": builders.OTHER}}]}, "/events/0/sequence"),
        ({"events": [{"sequence": True, "event": {"messageId": builders.OTHER}}]}, "/events/0/sequence"),
        (
            {"events": [{"sequence": 1, "replayId": None, "event": {"messageId": builders.OTHER}}]},
            "/events/0/replayId",
        ),
        (
            {"events": [{"sequence": n, "event": {"messageId": builders.OTHER}} for n in (2, 2)]},
            "/events/1/sequence",
        ),
        (
            {"events": [{"sequence": n, "event": {"messageId": builders.OTHER}} for n in (2, 1)]},
            "/events/1/sequence",
        ),
        ({"batchId": ABSENT}, "/batchId"),
        ({"connectionId": "x"}, "/connectionId"),
        ({"streamEpoch": None}, "/streamEpoch"),
        ({"extra": [0] * 10_000}, ""),
    ],
    ids=str,
)
def test_bad_envelope_is_refused_as_a_whole(ed25519_signer, members, pointer):
    with pytest.raises(InvalidRequest) as refused:
        messages.parse_event_batch(builders.batch(builders.event(ed25519_signer), **members), max_events=100)

    assert pointer_of(refused) == pointer


def test_batch_over_the_limit_is_too_large(ed25519_signer):
    event = builders.event(ed25519_signer)

    with pytest.raises(TooLarge):
        messages.parse_event_batch(builders.batch(event, event, event), max_events=2)


def test_values_are_counted_by_event_and_not_by_batch(ed25519_signer):
    wide = builders.event(ed25519_signer, payload={"a": [0] * 9_900})

    batch = messages.parse_event_batch(builders.batch(*[wide] * 5), max_events=100)

    assert [entry.problem for entry in batch.entries] == [None] * 5


# Acks


@pytest.mark.parametrize(
    "members, pointer",
    [
        ({"received": False}, "/received"),
        ({"received": 1}, "/received"),
        ({"status": "lost"}, "/status"),
        ({"status": None}, "/status"),
        ({"status": "rejected"}, "/received"),
        ({"status": "rejected", "received": False}, "/error"),
        ({"error": None}, "/error"),
        (
            {"status": "rejected", "received": False, "error": {"code": "x", "detail": "x"}},
            "/error/retryable",
        ),
        (
            {
                "status": "rejected",
                "received": False,
                "error": {"code": "x", "detail": "", "retryable": True},
            },
            "/error/detail",
        ),
        ({"digest": "AAAA"}, "/digest"),
        ({"digest": ABSENT}, "/digest"),
        ({"correlationId": ABSENT}, "/correlationId"),
        ({"connectionId": 1}, "/connectionId"),
        ({"timestamp": ABSENT}, "/timestamp"),
    ],
    ids=str,
)
def test_bad_member_of_an_ack_is_named(ed25519_signer, members, pointer):
    with pytest.raises(InvalidRequest) as refused:
        messages.parse_event_ack(builders.ack(ed25519_signer, **members))

    assert pointer_of(refused) == pointer


@pytest.mark.parametrize(
    "members, pointer",
    [
        ({"acks": ABSENT}, "/acks"),
        ({"acks": [1]}, "/acks/0"),
        ({"acks": [{"sequence": 0, "received": True, "status": "stored"}]}, "/acks/0/sequence"),
        ({"contiguous": -1}, "/contiguous"),
        ({"streamEpoch": "x"}, "/streamEpoch"),
    ],
    ids=str,
)
def test_bad_member_of_an_ack_batch_is_named(ed25519_signer, members, pointer):
    with pytest.raises(InvalidRequest) as refused:
        messages.parse_ack_batch(builders.ack_batch(ed25519_signer, **members))

    assert pointer_of(refused) == pointer


def test_own_acks_are_what_the_sender_reads(signer, rsa_record):
    error = messages.ack_error(NotSubscribed("task.created"))
    entries = [
        AckEntry(1, builders.MESSAGE, AckStatus.STORED, builders.DIGEST),
        AckEntry(2, builders.OTHER, AckStatus.REJECTED, builders.DIGEST, error),
    ]

    ack_wire = messages.sign_event_ack(
        signer,
        message_id=builders.MESSAGE,
        correlation_id=builders.OTHER,
        connection_id=builders.CONNECTION,
        timestamp=NOW,
        status=AckStatus.REJECTED,
        digest=builders.DIGEST,
        error=error,
    )
    batch_wire = messages.sign_ack_batch(
        signer,
        message_id=builders.MESSAGE,
        batch_id=builders.OTHER,
        connection_id=builders.CONNECTION,
        timestamp=NOW,
        stream_epoch=builders.EPOCH,
        contiguous=1,
        acks=entries,
    )

    ack = messages.verify_event_ack(messages.parse_event_ack(loads(ack_wire)), rsa_record)
    batch = messages.verify_ack_batch(messages.parse_ack_batch(loads(batch_wire)), rsa_record)
    assert (ack.status, ack.received, ack.error, ack.digest) == (
        AckStatus.REJECTED,
        False,
        error,
        builders.DIGEST,
    )
    assert list(batch.acks) == entries
    assert [entry.received for entry in batch.acks] == [True, False]
    assert (batch.contiguous, batch.correlation_id, batch.stream_epoch) == (1, builders.OTHER, builders.EPOCH)
    assert (ack.to_wire(), batch.to_wire()) == (ack_wire, batch_wire)


def test_forged_acks_are_refused(ed25519_signer, ed25519_record, rsa_record):
    ack = messages.parse_event_ack(builders.ack(ed25519_signer) | {"correlationId": builders.MESSAGE})
    batch = messages.parse_ack_batch(builders.ack_batch(ed25519_signer) | {"contiguous": 9})

    for record in (ed25519_record, rsa_record, None):
        with pytest.raises(AuthenticationFailed):
            messages.verify_event_ack(ack, record)
        with pytest.raises(AuthenticationFailed):
            messages.verify_ack_batch(batch, record)


def test_posted_acks_are_told_apart(ed25519_signer):
    assert isinstance(messages.parse_any_ack(builders.ack(ed25519_signer)), messages.EventAck)
    assert isinstance(messages.parse_any_ack(builders.ack_batch(ed25519_signer)), messages.EventAckBatch)


def test_signature_of_one_kind_is_none_of_another(ed25519_signer, ed25519_record):
    message = builders.ack(ed25519_signer)
    as_event = ed25519_signer.sign(Kind.EVENT, message)

    with pytest.raises(AuthenticationFailed):
        messages.verify_event_ack(messages.parse_event_ack(as_event), ed25519_record)


# The instance document

DOCUMENT = vectors.read("shared", "instance.json")


@pytest.mark.parametrize(
    "members, pointer",
    [
        ({"protocol": "other"}, "/protocol"),
        ({"versions": ["1.0"] * 11}, "/versions"),
        ({"versions": [1]}, "/versions/0"),
        ({"name": "x" * 201}, "/name"),
        ({"name": ""}, "/name"),
        ({"software": {"name": "x"}}, "/software/version"),
        ({"features": ["ed25519", "Tree"]}, "/features/1"),
        ({"features": ["f"] * 33}, "/features"),
        ({"keys": []}, "/keys"),
        ({"keys": DOCUMENT["keys"] * 5}, "/keys"),
        ({"keys": [DOCUMENT["keys"][0]] * 2}, "/keys"),
        ({"keys": DOCUMENT["keys"][1:]}, "/keys"),
        ({"limits": DOCUMENT["limits"] | {"maxRequestBytes": 65536 + 1023}}, "/limits/maxRequestBytes"),
        ({"limits": DOCUMENT["limits"] | {"maxBatchEvents": 0}}, "/limits/maxBatchEvents"),
        ({"validUntil": None}, "/validUntil"),
        ({"baseUrl": "https://a.example/"}, "/baseUrl"),
        ({"baseUrl": "https://A.example"}, "/baseUrl"),
        ({"baseUrl": "https://a.example:443"}, "/baseUrl"),
        ({"baseUrl": "http://a.example:80"}, "/baseUrl"),
        ({"baseUrl": "https://a.example:99999"}, "/baseUrl"),
        ({"baseUrl": "https://u@a.example"}, "/baseUrl"),
        ({"baseUrl": "ftp://a.example"}, "/baseUrl"),
        ({"baseUrl": "https://"}, "/baseUrl"),
    ],
    ids=str,
)
def test_bad_member_of_a_document_is_named(members, pointer):
    with pytest.raises(InvalidRequest) as refused:
        messages.parse_instance_document(DOCUMENT | members)

    assert pointer_of(refused) == pointer


@pytest.mark.parametrize(
    "base_url",
    ["https://a.example", "http://127.0.0.1:5000", "https://[2001:db8::1]:8443", "http://a.example:443"],
)
def test_base_url_is_an_origin(base_url):
    assert messages.parse_instance_document(DOCUMENT | {"baseUrl": base_url}).base_url == base_url


def test_own_document_is_what_a_peer_reads(signer, rsa_record):
    wire = messages.sign_document(
        signer,
        name="Own",
        base_url="http://127.0.0.1:5000",
        software=("tidings", "0.1.0"),
        now_ms=NOW,
        keys=[rsa_record],
        features=["ed25519"],
        limits=Limits(),
    )

    document = messages.parse_instance_document(loads(wire))
    verified = messages.verify_document(document, base_url="http://127.0.0.1:5000", now_ms=NOW)

    assert (verified.name, verified.software_name, verified.limits) == ("Own", "tidings", Limits())
    assert verified.keys == (rsa_record,)
    assert verified.find_key(rsa_record.key_id) == rsa_record
    assert verified.to_wire() == wire


def test_document_from_elsewhere_or_another_time_is_refused():
    document = messages.parse_instance_document(DOCUMENT)
    day = 86_400_000
    valid_until = document.valid_until

    for base_url, now_ms, pointer in (
        ("https://b.example", NOW, "/baseUrl"),
        ("https://a.example", valid_until + 1, "/validUntil"),
        ("https://a.example", valid_until - day - 300_001, "/validUntil"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            messages.verify_document(document, base_url=base_url, now_ms=now_ms)
        assert pointer_of(refused) == pointer
    assert messages.verify_document(
        document, base_url="https://a.example", now_ms=valid_until - day - 300_000
    )


def test_document_is_signed_by_a_key_that_may(rsa_record, ed25519_record):
    document = messages.parse_instance_document(DOCUMENT)
    altered = messages.parse_instance_document(DOCUMENT | {"name": "Somebody else"})

    def verify(document, pinned):
        return messages.verify_document(document, base_url="https://a.example", now_ms=NOW, pinned=pinned)

    assert verify(document, [ed25519_record, rsa_record])
    for pinned in ([ed25519_record], [replace(rsa_record, status=KeyStatus.REVOKED)]):
        with pytest.raises(KeyUntrusted):
            verify(document, pinned)
    for pinned in (None, [rsa_record]):
        with pytest.raises(AuthenticationFailed):
            verify(altered, pinned)


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3), st.lists, max_leaves=4)
)
def test_any_json_in_any_place_is_refused_and_never_an_accident(value):
    whole = vectors.read("shared", "messages.json")["messages"]
    message = next(case["message"] for case in whole if case["kind"] == "ack-batch")

    for name in message:
        for parse, changed in (
            (messages.parse_ack_batch, message | {name: value}),
            (lambda batch: messages.parse_event_batch(batch, max_events=10), message | {"events": value}),
        ):
            # Any other exception than the refusal fails the test.
            with contextlib.suppress(InvalidRequest):
                assert parse(changed)
