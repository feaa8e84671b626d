"""§2: the subject's own keys change, as a peer sees it that shares no code with it."""

from collections.abc import Callable

import pytest

from tests.conformance import wire
from tests.conformance.foreign_peer import EVENTS, Received, problem
from tests.conformance.subject import Bond, wait_for
from tests.conformance.wire import Message

#: run_key("rotate", "--no-wait"): `flask key ...` of the subject.
RunKey = Callable[..., str]


@pytest.fixture
def run_key(bond: Bond) -> RunKey:
    run_flask = bond.subject.run_flask
    if run_flask is None:
        pytest.skip("the keys of a named instance are left alone")
    return lambda *args: run_flask("key", *args)


def key_in_use(bond: Bond) -> str:
    return next(key_id for key_id, record in bond.link.remote.keys.items() if record["status"] == "active")


def records(request: Received) -> dict[str, Message]:
    return {record["keyId"]: record for record in request.payload["keys"]}


def vouched(bond: Bond, by: Message, record: Message) -> bool:
    said = {name: record[name] for name in ("keyId", "algorithm", "fingerprint", "notBefore")}
    said["instanceId"] = bond.link.remote.instance_id
    return record["vouch"]["by"] == by["keyId"] and wire.verifies(
        by, record["vouch"]["signature"], wire.signing_input("key", said)
    )


def publish_by_another_key(bond: Bond, old: str) -> Message:
    """Publish until one that noticed the change signs: each process of the subject notices for itself."""

    def signed() -> Message | None:
        published = bond.publish()
        stored = bond.subject.get(f"/events/messages/{published['messageId']}")
        return published if stored["keyId"] != old else None

    return wait_for(signed, "an event is signed by the new key")


def arrivals(bond: Bond) -> dict[str, Message]:
    """What has come to the peer: {messageId: event}."""
    return {event["messageId"]: event for request in bond.peer.seen(EVENTS) for event in request.events}


def test_a_key_is_announced_with_a_vouch_before_it_signs(bond: Bond, run_key: RunKey) -> None:
    bond.listen()
    old = key_in_use(bond)

    run_key("rotate", "--announce")
    announced = bond.peer.take("keys.changed")
    run_key("rotate", "--activate")
    activated = bond.peer.take("keys.changed")
    published = publish_by_another_key(bond, old)
    bond.wait_for_delivery(published, "delivered")

    [(new, record)] = records(announced).items()
    assert (announced.value["keyId"], record["status"]) == (old, "next")
    assert vouched(bond, bond.link.remote.keys[old], record)
    assert activated.value["keyId"] == new
    assert {key: said["status"] for key, said in records(activated).items()} == {
        old: "retired",
        new: "active",
    }
    assert records(activated)[old]["notAfter"] >= records(activated)[old]["notBefore"]
    assert arrivals(bond)[published["messageId"]]["keyId"] == new


def test_what_the_new_key_signs_waits_for_the_peer_to_know_it(bond: Bond, run_key: RunKey) -> None:
    bond.listen()
    bond.offer()
    old = key_in_use(bond)
    bond.peer.always_answer("keys.changed", problem("internal_error"))
    run_key("rotate", "--no-wait")
    bond.peer.take("keys.changed")

    published = publish_by_another_key(bond, old)
    ack = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.x")).value
    meanwhile = arrivals(bond)
    bond.peer.answer_as_usual()
    bond.act("retry-now")

    bond.wait_for_delivery(published, "delivered")
    signers = [message.value["keyId"] for message in bond.peer.seen("keys.changed")]
    assert (ack["keyId"], ack["acks"][0]["status"]) == (old, "stored")
    assert {event["keyId"] for event in meanwhile.values()} <= {old}
    assert signers[0] == old
    assert arrivals(bond)[published["messageId"]]["keyId"] == signers[-1] != old


def test_a_revoked_key_has_signed_nothing_that_arrives_later(bond: Bond, run_key: RunKey) -> None:
    bond.listen()
    old = key_in_use(bond)
    bond.act("pause", direction="outgoing")
    published = bond.publish()

    run_key("revoke", old)
    bond.act("unpause", direction="outgoing")
    event = bond.take_batch().events[0]

    bond.wait_for_delivery(published, "delivered")
    assert event["messageId"] == published["messageId"]
    assert event["keyId"] == key_in_use(bond) != old
    assert bond.link.remote.keys[old]["status"] == "revoked"
    served = bond.peer.get(bond.subject.base_url, f"{wire.FEDERATION}/keys/{old}")
    assert (served.status, served.value["status"]) == (200, "revoked")
