"""§2: keys of the peer that change, are missed, or do not hold."""

import pytest

from tests.conformance.conftest import MakeBond, MakePeer
from tests.conformance.foreign_peer import EVENTS, Answer
from tests.conformance.subject import Bond, wait_for
from tests.conformance.wire import DOCUMENT_PATH, Key, Message, Transport, now_ms


def announce(bond: Bond, *keys: Key, **members: object) -> Answer:
    return bond.peer.control(bond.link, "keys.changed", {"keys": [key.record() for key in keys]}, **members)


def following(bond: Bond, key: Key | None = None) -> Key:
    """A next key that the active one vouches for, in the document too."""
    key = key or Key.rsa(status="next")
    key.status = "next"
    bond.peer.key.vouch_for(bond.peer.instance_id, key)
    bond.peer.keys.append(key)
    return key


def activate(bond: Bond, key: Key) -> Answer:
    """Retire the old key and make this one active, announced by it."""
    old = bond.peer.key
    old.status, old.not_after = "retired", now_ms()
    key.status = "active"
    bond.peer.key = key
    return announce(bond, old, key)


def verification(bond: Bond, transport: Transport | None = None) -> Answer:
    message = bond.peer.control_message(bond.link, "verification", {"state": "x"})
    return bond.peer.send_control(bond.link, message, transport)


def test_a_next_key_may_sign_everything_once_it_was_announced(bond: Bond) -> None:
    bond.offer()
    key = following(bond)

    announced = announce(bond, key)

    event = key.sign("event", unsigned(bond.peer.event(f"{bond.topic}.x")))
    answer = bond.peer.send_event(bond.link.remote, event, bond.link, Transport(key=key))
    assert (announced.status, announced.value["status"]) == (200, "active")
    assert (answer.status, answer.value.get("status")) == (200, "stored")


def unsigned(message: Message) -> Message:
    return {name: value for name, value in message.items() if name not in {"keyId", "signature"}}


def test_after_a_rotation_the_old_key_signs_only_what_is_older(bond: Bond) -> None:
    bond.offer()
    old, key = bond.peer.key, following(bond)
    before = bond.peer.event(f"{bond.topic}.x", timestamp=now_ms() - 1_000)
    announce(bond, key)

    activated = activate(bond, key)
    late = old.sign("event", unsigned(bond.peer.event(f"{bond.topic}.x", timestamp=now_ms() + 5_000)))
    answers = bond.peer.publish(bond.link, before, late)
    transport = verification(bond, Transport(key=old))

    assert activated.status == 200
    assert answers.value["acks"][0]["status"] == "stored"
    assert answers.value["acks"][1]["error"]["code"] == "key_untrusted"
    assert answers.value["acks"][1]["error"]["retryable"] is True
    assert (transport.status, transport.code) == (401, "authentication_failed")
    assert bond.details()["fingerprint"] == key.fingerprint


def test_a_rotation_to_ed25519_is_followed(bond: Bond, ed25519_key: Key) -> None:
    bond.offer()
    key = following(bond, ed25519_key)
    announce(bond, key)

    activated = activate(bond, key)

    answer = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.x"))
    assert activated.status == 200
    assert answer.value["acks"][0]["status"] == "stored"


def test_a_revoked_key_signs_nothing(bond: Bond) -> None:
    bond.offer()
    old, key = bond.peer.key, following(bond)
    event = bond.peer.event(f"{bond.topic}.x")
    announce(bond, key)
    old.status, old.revoked_at = "revoked", now_ms()
    key.status, bond.peer.key = "active", key

    announced = announce(bond, old, key)

    answer = bond.peer.publish(bond.link, event)
    assert announced.status == 200
    assert answer.value["acks"][0]["error"]["code"] == "key_untrusted"
    assert verification(bond, Transport(key=old)).code == "authentication_failed"


def without_vouch(bond: Bond) -> list[Key]:
    return [Key.rsa(status="next")]


def vouched_by_a_stranger(bond: Bond) -> list[Key]:
    key = Key.rsa(status="next")
    Key.rsa(key_id=bond.peer.key.key_id).vouch_for(bond.peer.instance_id, key)
    return [key]


def vouched_for_another_instance(bond: Bond) -> list[Key]:
    key = Key.rsa(status="next")
    bond.peer.key.vouch_for(bond.link.remote.instance_id, key)
    return [key]


def vouched_for_another_time(bond: Bond) -> list[Key]:
    key = following(bond)
    key.not_before += 1
    return [key]


def another_key_under_the_id(bond: Bond) -> list[Key]:
    key = Key.rsa(key_id=bond.peer.key.key_id)
    bond.peer.key.vouch_for(bond.peer.instance_id, key)
    return [key]


def retired_without_a_time(bond: Bond) -> list[Key]:
    key = following(bond)
    key.status = "retired"
    return [key]


@pytest.mark.parametrize(
    "make",
    [
        without_vouch,
        vouched_by_a_stranger,
        vouched_for_another_instance,
        vouched_for_another_time,
        another_key_under_the_id,
        retired_without_a_time,
    ],
)
def test_a_change_that_does_not_hold_is_refused(bond: Bond, make: object) -> None:
    assert callable(make)
    keys = make(bond)

    answer = announce(bond, *keys)

    assert (answer.status, answer.code) == (400, "invalid_request")
    assert verification(bond).status == 200


def test_a_key_never_returns_from_revoked(bond: Bond) -> None:
    key = following(bond)
    announce(bond, key)
    key.status, key.revoked_at = "revoked", now_ms()
    announce(bond, key)
    key.status, key.revoked_at = "next", None

    answer = announce(bond, key)

    assert (answer.status, answer.code) == (400, "invalid_request")


def test_a_record_that_is_left_out_is_kept(bond: Bond) -> None:
    first, second = following(bond), following(bond)
    announce(bond, first)
    announce(bond, second)

    answers = [verification(bond, Transport(key=key)) for key in (first, second, bond.peer.key)]

    assert [answer.status for answer in answers] == [200, 200, 200]


def test_a_missed_change_is_made_good_by_a_chain_of_vouches(bond: Bond) -> None:
    old, middle = bond.peer.key, following(bond)
    last = Key.rsa()
    middle.vouch_for(bond.peer.instance_id, last)
    bond.peer.keys.append(last)
    old.status, old.not_after = "retired", now_ms()
    middle.status, middle.not_after = "retired", now_ms()
    bond.peer.key = last

    answer = verification(bond)

    assert (answer.status, answer.code) == (200, None)
    assert bond.details()["keyReview"] is False


def test_an_event_by_a_key_that_vouches_lead_to_is_stored(bond: Bond) -> None:
    bond.offer()
    key = following(bond)
    event = key.sign("event", unsigned(bond.peer.event(f"{bond.topic}.x")))

    answer = bond.peer.publish(bond.link, event)

    assert [entry["status"] for entry in answer.value["acks"]] == ["stored"]


def test_an_ack_by_a_key_that_vouches_lead_to_counts(bond: Bond) -> None:
    bond.listen()
    old, key = bond.peer.key, following(bond)
    old.status, old.not_after = "retired", now_ms()
    key.status, bond.peer.key = "active", key

    bond.wait_for_delivery(bond.publish(), "delivered")

    assert len(bond.peer.seen(EVENTS)) == 1


def lose_keys(bond: Bond) -> Key:
    """Go on with a key that nothing vouches for."""
    old = bond.peer.key
    bond.peer.key = Key.rsa()
    bond.peer.keys = [bond.peer.key]
    return old


def test_an_unknown_key_without_a_chain_is_untrusted_and_shown_for_review(bond: Bond) -> None:
    bond.offer()
    bond.listen()
    old = lose_keys(bond)

    answer = verification(bond)

    assert (answer.status, answer.code, answer.value["retryable"]) == (401, "key_untrusted", True)
    assert bond.details()["keyReview"] is True
    with_old = bond.peer.post(
        bond.subject.base_url,
        EVENTS,
        bond.peer.batch(bond.link, [(1, old.sign("event", unsigned(bond.peer.event(f"{bond.topic}.x"))))]),
        Transport(key=old),
    )
    assert with_old.status in {401, 403}
    published = bond.publish()
    assert bond.subject.delivery(published["messageId"], bond.local_id)["status"] == "held"
    assert bond.stored() == []
    bond.act("suspend")
    bond.act("disconnect")
    bond.peer.take("connection.disconnect")
    assert bond.peer.seen("connection.suspend") == []


def test_a_key_that_an_operator_accepted_may_sign(bond: Bond) -> None:
    lose_keys(bond)
    verification(bond)

    bond.act("keys/accept")

    assert wait_for(lambda: verification(bond).status == 200, "the new key is taken")
    assert bond.details()["keyReview"] is False
    assert bond.details()["fingerprint"] == bond.peer.key.fingerprint


def test_a_disconnect_by_the_old_key_is_taken_under_review(bond: Bond) -> None:
    old = lose_keys(bond)
    verification(bond)
    unsigned_ = bond.peer.control_message(bond.link, "connection.disconnect", {})

    answer = bond.peer.send_control(bond.link, old.sign("control", unsigned(unsigned_)), Transport(key=old))

    assert (answer.status, answer.value.get("status")) == (200, "disconnected")


def test_a_forged_request_under_an_unknown_key_is_no_review(bond: Bond) -> None:
    answer = verification(bond, Transport(key=Key.rsa()))

    assert (answer.status, answer.code) == (401, "authentication_failed")
    assert bond.details()["keyReview"] is False


def test_a_document_of_another_origin_adds_no_key(bond: Bond, make_peer: MakePeer) -> None:
    key = Key.rsa()
    make_peer(instance_id=bond.peer.instance_id, key=key)

    answer = verification(bond, Transport(key=key))

    assert (answer.status, answer.code) == (401, "authentication_failed")


def test_the_document_is_read_at_most_once_in_ten_seconds_for_unknown_keys(bond: Bond) -> None:
    before = len(bond.peer.seen(DOCUMENT_PATH))

    answers = [verification(bond, Transport(key=Key.rsa())) for _ in range(4)]

    assert {answer.code for answer in answers} == {"authentication_failed"}
    assert len(bond.peer.seen(DOCUMENT_PATH)) - before <= 1


def test_an_unknown_message_key_is_untrusted_in_its_entry_alone(bond: Bond, make_bond: MakeBond) -> None:
    bond.offer()
    stranger = Key.rsa().sign("event", unsigned(bond.peer.event(f"{bond.topic}.x")))

    answer = bond.peer.publish(bond.link, stranger, bond.peer.event(f"{bond.topic}.x"))

    first, second = answer.value["acks"]
    assert (first["status"], first["error"]["code"], first["error"]["retryable"]) == (
        "rejected",
        "key_untrusted",
        True,
    )
    assert second["status"] == "stored"
    assert answer.value["contiguous"] == 0
