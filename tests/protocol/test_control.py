"""Control messages: every type with its payload, repeats and numbers, and the answers."""

import pytest

from app.protocol import control
from app.protocol.canonical import loads
from app.protocol.control import ControlType
from app.protocol.errors import AuthenticationFailed, InvalidRequest, MessageIdConflict, SequenceConflict
from app.protocol.signing import Kind, with_signature
from docs.vectors import generate
from tests.protocol import builders
from tests.protocol.builders import ABSENT

ID = builders.OTHER
OFFER = {"versions": ["1.0"], "features": []}
REQUEST = {"baseUrl": "https://a.example", "workspace": {"slug": "w", "name": "W"}, "offer": OFFER}
ACCEPT = {
    "requestMessageId": ID,
    "version": "1.0",
    "features": [],
    "workspace": {"slug": "w", "name": "W"},
}
HEARTBEAT = {"streamEpoch": ID, "headSequence": 0, "oldestSequence": 1}
SUBSCRIBE = {"subscriptionId": ID, "eventType": "a.*", "leaseSeconds": 60}
GRANT = {"eventType": "a.*", "leaseExpiresAt": 1, "streamEpoch": ID, "nextSequence": 1}
RANGE = {"fromSequence": 1, "toSequence": 2, "count": 2, "root": "A" * 43 + "="}
COMPARE = {"reconciliationId": ID, "side": "publisher", "streamEpoch": ID, "ranges": [RANGE]}
GAP = {"streamEpoch": ID, "fromSequence": 1, "toSequence": 1, "reason": "expired"}


def test_every_type_has_a_payload_of_its_own(signer):
    payloads = generate.make_payloads(generate.load_pairs())

    assert set(payloads) == set(ControlType)
    for control_type, payload in payloads.items():
        message = builders.control(signer, control_type.value, payload.to_wire())
        assert control.parse_control(message).payload == payload


def test_every_type_is_taken_by_exactly_one_endpoint():
    assert set(ControlType) == control.CONNECTION_TYPES | control.SUBSCRIPTION_TYPES
    assert not control.CONNECTION_TYPES & control.SUBSCRIPTION_TYPES


def test_type_of_the_other_endpoint_is_refused(ed25519_signer):
    message = builders.control(ed25519_signer, "gap", GAP)

    with pytest.raises(InvalidRequest) as refused:
        control.parse_control(message, control.CONNECTION_TYPES)

    assert refused.value.errors[0].pointer == "/type"
    assert control.parse_control(message, control.SUBSCRIPTION_TYPES)


@pytest.mark.parametrize(
    "control_type, payload, pointer",
    [
        ("connection.request", REQUEST | {"baseUrl": "https://a.example/x"}, "/baseUrl"),
        ("connection.request", REQUEST | {"workspace": {"slug": "w"}}, "/workspace/name"),
        ("connection.request", REQUEST | {"workspace": {"slug": "W", "name": "W"}}, "/workspace/slug"),
        ("connection.request", REQUEST | {"workspace": "w"}, "/workspace"),
        ("connection.request", REQUEST | {"offer": {"versions": ["1.0"]}}, "/offer/features"),
        ("connection.request", REQUEST | {"offer": OFFER | {"versions": [""]}}, "/offer/versions/0"),
        ("connection.request", REQUEST | {"toWorkspace": None}, "/toWorkspace"),
        ("connection.request", REQUEST | {"note": "x" * 1001}, "/note"),
        ("connection.accept", ACCEPT | {"requestMessageId": "x"}, "/requestMessageId"),
        ("connection.accept", ACCEPT | {"version": 1}, "/version"),
        ("connection.reject", {}, "/requestMessageId"),
        ("connection.reject", {"requestMessageId": ID, "reason": ""}, "/reason"),
        ("connection.suspend", {"reason": None}, "/reason"),
        ("connection.resume", {"reason": 1}, "/reason"),
        ("connection.disconnect", {"reason": "x" * 1001}, "/reason"),
        ("verification", {}, "/state"),
        ("heartbeat", HEARTBEAT | {"oldestSequence": 0}, "/oldestSequence"),
        ("heartbeat", HEARTBEAT | {"headSequence": True}, "/headSequence"),
        ("keys.changed", {"keys": []}, "/keys"),
        ("keys.changed", {"keys": [1]}, "/keys/0"),
        ("subscription.request", SUBSCRIBE | {"leaseSeconds": 59}, "/leaseSeconds"),
        ("subscription.request", SUBSCRIBE | {"leaseSeconds": 31_536_001}, "/leaseSeconds"),
        ("subscription.request", SUBSCRIBE | {"eventType": "a*"}, "/eventType"),
        ("subscription.request", {"subscriptionId": ID, "leaseSeconds": 60}, "/eventType"),
        ("subscription.request", SUBSCRIBE | {"filter": None}, "/filter"),
        ("subscription.approve", GRANT, "/subscriptionId"),
        ("subscription.approve", GRANT | {"subscriptionId": ID, "nextSequence": 0}, "/nextSequence"),
        ("subscription.reject", {"subscriptionId": "x"}, "/subscriptionId"),
        ("subscription.revoke", {"subscriptionId": ID, "reason": None}, "/reason"),
        ("subscription.cancel", {}, "/subscriptionId"),
        ("replay.request", {"replayId": ID, "streamEpoch": None}, "/streamEpoch"),
        ("replay.request", {"replayId": ID, "fromSequence": 0}, "/fromSequence"),
        ("replay.request", {"replayId": ID, "fromSequence": 5, "toSequence": 4}, "/toSequence"),
        ("replay.request", {"replayId": ID, "since": 5, "until": 4}, "/until"),
        ("replay.request", {"replayId": ID, "eventTypes": ["a", "*"]}, "/eventTypes/1"),
        ("replay.complete", {"replayId": ID, "count": 1}, "/moreAvailable"),
        ("replay.complete", {"replayId": ID, "count": -1, "moreAvailable": True}, "/count"),
        ("gap", GAP | {"fromSequence": 2}, "/toSequence"),
        ("gap", GAP | {"toSequence": 1_000_001}, "/toSequence"),
        ("gap", GAP | {"reason": 1}, "/reason"),
        ("reconcile", COMPARE | {"side": "both"}, "/side"),
        ("reconcile", COMPARE | {"ranges": []}, "/ranges"),
        ("reconcile", COMPARE | {"ranges": [RANGE] * 65}, "/ranges"),
        ("reconcile", COMPARE | {"ranges": [RANGE, RANGE]}, "/ranges/1/fromSequence"),
        ("reconcile", COMPARE | {"ranges": [RANGE | {"fromSequence": 3}]}, "/ranges/0/toSequence"),
        ("reconcile", COMPARE | {"ranges": [RANGE | {"toSequence": 10_001}]}, "/ranges/0/toSequence"),
        ("reconcile", COMPARE | {"ranges": [RANGE | {"root": "AA=="}]}, "/ranges/0/root"),
    ],
    ids=str,
)
def test_bad_member_of_a_payload_is_named(ed25519_signer, control_type, payload, pointer):
    with pytest.raises(InvalidRequest) as refused:
        control.parse_control(builders.control(ed25519_signer, control_type, payload))

    assert refused.value.errors[0].pointer == f"/payload{pointer}"


@pytest.mark.parametrize(
    "members, pointer",
    [
        ({"type": "connection.unknown"}, "/type"),
        ({"type": ABSENT}, "/type"),
        ({"payload": ABSENT}, "/payload"),
        ({"payload": []}, "/payload"),
        ({"controlSequence": 0}, "/controlSequence"),
        ({"controlSequence": ABSENT}, "/controlSequence"),
        ({"connectionId": None}, "/connectionId"),
        ({"timestamp": "now"}, "/timestamp"),
    ],
    ids=str,
)
def test_bad_member_of_a_control_message_is_named(ed25519_signer, members, pointer):
    with pytest.raises(InvalidRequest) as refused:
        control.parse_control(builders.control(ed25519_signer, "verification", {"state": "x"}, **members))

    assert refused.value.errors[0].pointer == pointer


def test_lengths_at_their_limit_are_accepted(ed25519_signer):
    payload = REQUEST | {
        "offer": {"versions": ["1.0"] * 10, "features": [f"f{n}" for n in range(32)]},
        "note": "😀" * 1000,
        "workspace": {"slug": "a" * 64, "name": "n" * 200},
    }

    message = control.parse_control(builders.control(ed25519_signer, "connection.request", payload))

    assert message.payload_as(control.ConnectionRequest).to_wire() == payload


def test_payload_of_another_type_is_a_fault_of_the_caller(ed25519_signer):
    message = control.parse_control(builders.control(ed25519_signer, "verification", {"state": "x"}))

    assert message.payload_as(control.Verification).state == "x"
    with pytest.raises(TypeError):
        message.payload_as(control.Gap)


def test_own_control_message_is_what_the_peer_reads(signer, rsa_record):
    payload = control.SubscriptionRequest(ID, "task.**", 3600)

    body = control.control_body(
        message_id=builders.MESSAGE,
        instance_id=signer.instance_id,
        control_type=ControlType.SUBSCRIPTION_REQUEST,
        connection_id=builders.CONNECTION,
        control_sequence=9,
        payload=payload,
        timestamp=builders.NOW,
        key_id=signer.key_id,
    )
    wire = with_signature(body, signer.sign_body(Kind.CONTROL, body))

    message = control.verify_control(control.parse_control(loads(wire)), rsa_record)
    assert (message.payload, message.control_sequence, message.body) == (payload, 9, body)
    assert message.to_wire() == wire


def test_own_answer_is_what_the_peer_reads(signer, rsa_record, ed25519_record):
    wire = control.sign_control_ack(
        signer,
        message_id=builders.MESSAGE,
        correlation_id=ID,
        connection_id=builders.CONNECTION,
        status="active",
        timestamp=builders.NOW,
        payload=GRANT,
    )

    answer = control.parse_control_ack(loads(wire))
    assert control.verify_control_ack(answer, rsa_record).to_wire() == wire
    assert control.parse_grant(answer.payload).to_wire() == GRANT
    for record in (ed25519_record, None):
        with pytest.raises(AuthenticationFailed):
            control.verify_control_ack(answer, record)


def test_altered_control_message_is_refused(ed25519_signer, ed25519_record):
    message = builders.control(ed25519_signer, "verification", {"state": "x"}) | {"controlSequence": 2}

    with pytest.raises(AuthenticationFailed):
        control.verify_control(control.parse_control(message), ed25519_record)


def test_repeat_is_known_by_its_digest(ed25519_signer, ed25519_record):
    message = control.verify_control(
        control.parse_control(builders.control(ed25519_signer, "verification", {"state": "x"})),
        ed25519_record,
    )

    assert control.is_repeat(message, message.digest)
    assert not control.is_repeat(message, None)
    with pytest.raises(MessageIdConflict):
        control.is_repeat(message, builders.DIGEST)


def test_number_of_a_new_message_is_above_the_last():
    control.check_control_sequence(9, 7)
    for number in (7, 6):
        with pytest.raises(SequenceConflict) as refused:
            control.check_control_sequence(number, 7)
        assert refused.value.to_wire()["lastControlSequence"] == 7


def test_answers_are_200_or_202_where_they_are_only_receipts():
    assert control.answer_status(ControlType.CONNECTION_REQUEST, "pending") == 202
    assert control.answer_status(ControlType.REPLAY_REQUEST, "accepted") == 202
    assert control.answer_status(ControlType.SUBSCRIPTION_REQUEST, "pending") == 202
    assert control.answer_status(ControlType.SUBSCRIPTION_REQUEST, "active") == 200
    assert control.answer_status(ControlType.CONNECTION_DISCONNECT, "disconnected") == 200
