"""§4: how connections begin, rest and end, from both sides."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.conformance import wire
from tests.conformance.conftest import MakeBond, MakePeer
from tests.conformance.foreign_peer import CONNECTION, Answer, ForeignPeer, Received, Reply, problem, reply
from tests.conformance.subject import Bond, Subject, wait_for
from tests.conformance.wire import DOCUMENT_PATH, MISSING, Key, Transport, new_id

SMALLEST = "00000000-0000-4000-8000-"
LARGEST = "ffffffff-ffff-4fff-bfff-"


# --- the subject asks ---


def test_a_request_says_who_asks_and_what_is_offered(subject: Subject, peer: ForeignPeer) -> None:
    details = subject.initiate(peer, toWorkspace="news", note="Hello")

    request = peer.take("connection.request")

    payload = request.payload
    assert payload["baseUrl"] == subject.base_url
    assert set(payload["workspace"]) >= {"slug", "name"}
    assert (payload["toWorkspace"], payload["note"]) == ("news", "Hello")
    assert "1.0" in payload["offer"]["versions"]
    assert isinstance(payload["offer"]["features"], list)
    assert request.value["controlSequence"] == 1
    assert details["wireConnectionId"] == request.value["connectionId"]
    assert (details["status"], details["direction"]) == ("requested", "outgoing")


def test_an_accept_makes_both_sides_active_and_sends_a_verification(
    subject: Subject, peer: ForeignPeer
) -> None:
    details = subject.initiate(peer)
    link = peer.links[peer.take("connection.request").value["connectionId"]]
    peer.wait_until(lambda: link.status == "pending", "the request is pending")

    answer = peer.accept(link)

    assert (answer.status, answer.value["status"]) == (200, "active")
    assert 1 <= len(peer.take("verification").payload["state"]) <= 128
    shown = subject.get(f"/connections/{details['id']}")
    assert (shown["status"], shown["version"]) == ("active", "1.0")
    assert shown["remoteWorkspace"] == "foreign" or shown["remoteWorkspace"]["slug"] == "foreign"
    ours = next(key for key in link.remote.keys.values() if key["status"] == "active")["fingerprint"]
    code = "".join(letter for letter in shown["pairingCode"] if letter.isdigit())
    assert code == wire.pairing_code(ours, peer.key.fingerprint)


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        ({"version": "9.9"}, "/payload/version"),
        ({"features": ["no-such-feature"]}, "/payload/features"),
        ({"requestMessageId": MISSING}, "/payload/requestMessageId"),
        ({"workspace": {"slug": "News", "name": "News"}}, "/payload/workspace/slug"),
        ({"workspace": {"slug": "news"}}, "/payload/workspace/name"),
    ],
)
def test_an_accept_of_something_else_than_offered_is_refused(
    subject: Subject, peer: ForeignPeer, payload: dict[str, object], pointer: str
) -> None:
    details = subject.initiate(peer)
    link = peer.links[peer.take("connection.request").value["connectionId"]]

    answer = peer.accept(link, **payload)

    assert (answer.status, answer.code) == (400, "invalid_request")
    assert [one.startswith(pointer) for one in answer.pointers] == [True]
    assert subject.get(f"/connections/{details['id']}")["status"] == "requested"


def test_an_accept_of_another_request_is_refused(subject: Subject, peer: ForeignPeer) -> None:
    details = subject.initiate(peer)
    link = peer.links[peer.take("connection.request").value["connectionId"]]

    answer = peer.accept(link, requestMessageId=new_id())

    assert answer.status in {400, 409}
    assert subject.get(f"/connections/{details['id']}")["status"] == "requested"


@pytest.mark.parametrize("verb", ["accept", "reject"])
def test_a_decision_that_overtakes_the_answer_to_the_request_stands(
    subject: Subject, peer: ForeignPeer, verb: str
) -> None:
    def decide_first(request: Received, usual: Callable[[], Reply]) -> Reply:
        answer = usual()
        link = peer.links[request.value["connectionId"]]
        said = {"requestMessageId": link.request_id}
        decided = peer.accept(link) if verb == "accept" else peer.control(link, "connection.reject", said)
        assert decided.status == 200, decided
        return answer

    peer.answer_with("connection.request", decide_first)

    details = subject.initiate(peer)

    peer.take("connection.request")
    status = {"accept": "active", "reject": "rejected"}[verb]
    assert wait_for(
        lambda: subject.get(f"/connections/{details['id']}")["status"] == status, "the decision stands"
    )
    if verb == "accept":
        peer.take("verification")
        assert subject.post(f"/connections/{details['id']}/verify")
        assert subject.get(f"/connections/{details['id']}")["status"] == "active"


def test_a_reject_ends_the_request_and_its_reason_is_shown(subject: Subject, peer: ForeignPeer) -> None:
    details = subject.initiate(peer)
    link = peer.links[peer.take("connection.request").value["connectionId"]]

    answer = peer.control(
        link, "connection.reject", {"requestMessageId": link.request_id, "reason": "Not you"}
    )

    shown = subject.get(f"/connections/{details['id']}")
    assert (answer.status, answer.value["status"]) == (200, "rejected")
    assert (shown["status"], shown["reason"]) == ("rejected", "Not you")


@pytest.mark.parametrize("asks", ["subject", "peer"])
def test_a_request_can_be_withdrawn_by_the_subject_before_accept(
    subject: Subject, peer: ForeignPeer, asks: str
) -> None:
    if asks == "subject":
        details = subject.initiate(peer)
        peer.take("connection.request")
    else:
        details = subject.pending(peer.request_connection(subject.base_url))

    answer = subject.post(f"/connections/{details['id']}/disconnect")

    assert answer["status"] == "disconnected"
    assert peer.take("connection.disconnect").reply.value["status"] == "disconnected"


@pytest.mark.parametrize("asks", ["subject", "peer"])
def test_a_request_can_be_withdrawn_by_the_peer_before_accept(
    subject: Subject, peer: ForeignPeer, asks: str
) -> None:
    if asks == "subject":
        subject.initiate(peer)
        link = peer.links[peer.take("connection.request").value["connectionId"]]
    else:
        link = peer.request_connection(subject.base_url)
        subject.pending(link)

    answer = peer.disconnect(link)

    assert (answer.status, answer.value["status"]) == (200, "disconnected")
    assert [one["status"] for one in subject.connections(peer)] == ["disconnected"]


def test_a_second_request_to_the_same_instance_is_a_conflict(bond: Bond) -> None:
    answer = bond.subject.call("POST", "/connections/initiate", {"remoteUrl": bond.peer.base_url})

    assert (answer.status, answer.code) == (409, "connection_exists")


def test_an_instance_does_not_connect_to_itself(subject: Subject) -> None:
    answer = subject.call("POST", "/connections/initiate", {"remoteUrl": subject.base_url})

    assert 400 <= answer.status < 600
    assert answer.status != 500
    assert [
        one for one in subject.get("/connections", limit=200)["data"] if one["remoteUrl"] == subject.base_url
    ] == []


# --- the peer asks ---


def test_a_strangers_request_is_shown_once_its_document_was_read(subject: Subject, peer: ForeignPeer) -> None:
    link = peer.request_connection(subject.base_url, note="Good day", toWorkspace="default")

    details = subject.pending(link)

    assert peer.seen(DOCUMENT_PATH)
    assert (details["direction"], details["note"]) == ("incoming", "Good day")
    assert details["remoteInstanceId"] == peer.instance_id
    assert details["fingerprint"] == peer.key.fingerprint


def test_what_an_operator_accepts_is_active_on_both_sides(subject: Subject, peer: ForeignPeer) -> None:
    link = peer.request_connection(subject.base_url)
    details = subject.pending(link)

    accepted = subject.post(f"/connections/{details['id']}/accept")

    message = peer.take("connection.accept")
    assert message.payload["requestMessageId"] == link.request_id
    assert message.payload["version"] == "1.0"
    assert set(message.payload["features"]) <= set(peer.features)
    assert message.reply.value["status"] == "active"
    peer.take("verification")
    assert accepted["status"] in {"active", "pending"}
    assert wait_for(lambda: subject.connection(link.connection_id)["status"] == "active", "it is active")


def test_what_an_operator_rejects_is_rejected_on_both_sides(subject: Subject, peer: ForeignPeer) -> None:
    link = peer.request_connection(subject.base_url)
    details = subject.pending(link)

    rejected = subject.post(f"/connections/{details['id']}/reject", reason="We are full")

    message = peer.take("connection.reject")
    assert message.payload == {"requestMessageId": link.request_id, "reason": "We are full"}
    assert rejected["status"] == "rejected"
    assert link.status == "rejected"


def test_only_the_asked_side_accepts(subject: Subject, peer: ForeignPeer) -> None:
    details = subject.initiate(peer)

    answer = subject.call("POST", f"/connections/{details['id']}/accept")

    assert (answer.status, answer.code) == (409, "invalid_state")


def test_the_policy_accepts_listed_origins(subject: Subject, make_peer: MakePeer) -> None:
    if subject.accepted_port is None:
        pytest.skip("FEDERATION_AUTO_ACCEPT of the instance is not known")
    peer = make_peer(port=subject.accepted_port)

    link = peer.request_connection(subject.base_url)

    peer.take("connection.accept")
    assert wait_for(lambda: subject.connection(link.connection_id)["status"] == "active", "it is active")


def test_a_request_is_answered_before_anything_is_fetched(subject: Subject, peer: ForeignPeer) -> None:
    peer.always_answer(DOCUMENT_PATH, Reply(hangs=True))
    link, message = peer.connection_request(peer.pin(subject.base_url))

    answer = peer.send_control(link, message)

    assert (answer.status, answer.value["status"]) == (202, "pending")


def wrong_message_signature(subject: Subject, peer: ForeignPeer) -> tuple[object, ...]:
    link, message = peer.connection_request(peer.pin(subject.base_url))
    return link, Key.rsa(key_id=peer.key.key_id).sign("control", message), None


def wrong_transport_signature(subject: Subject, peer: ForeignPeer) -> tuple[object, ...]:
    link, message = peer.connection_request(peer.pin(subject.base_url))
    return link, message, Transport(key=Key.rsa(key_id=peer.key.key_id))


def unknown_workspace(subject: Subject, peer: ForeignPeer) -> tuple[object, ...]:
    link, message = peer.connection_request(peer.pin(subject.base_url), toWorkspace="there-is-no-such-place")
    return link, message, None


def document_of_another_origin(subject: Subject, peer: ForeignPeer) -> tuple[object, ...]:
    peer.document_changes = {"baseUrl": "https://elsewhere.example"}
    link, message = peer.connection_request(peer.pin(subject.base_url))
    return link, message, None


def document_of_another_instance(subject: Subject, peer: ForeignPeer) -> tuple[object, ...]:
    peer.document_changes = {"instanceId": new_id()}
    link, message = peer.connection_request(peer.pin(subject.base_url))
    return link, message, None


def key_not_in_the_document(subject: Subject, peer: ForeignPeer) -> tuple[object, ...]:
    key = Key.rsa()
    link, message = peer.connection_request(peer.pin(subject.base_url))
    return link, key.sign("control", {**message, "keyId": key.key_id}), Transport(key=key)


def no_document(subject: Subject, peer: ForeignPeer) -> tuple[object, ...]:
    peer.always_answer(DOCUMENT_PATH, problem("not_found"))
    link, message = peer.connection_request(peer.pin(subject.base_url))
    return link, message, None


@pytest.mark.parametrize(
    "make",
    [
        wrong_message_signature,
        wrong_transport_signature,
        unknown_workspace,
        document_of_another_origin,
        document_of_another_instance,
        key_not_in_the_document,
        no_document,
    ],
)
def test_a_request_that_fails_its_check_is_dropped_without_a_word(
    subject: Subject, peer: ForeignPeer, make_peer: MakePeer, make: object
) -> None:
    assert callable(make)
    link, message, transport = make(subject, peer)

    answer = peer.send_control(link, message, transport)

    assert (answer.status, answer.value["status"]) == (202, "pending")
    if make is not unknown_workspace:
        peer.take(DOCUMENT_PATH)
    # A later request of somebody else is checked after this one.
    subject.pending(make_peer().request_connection(subject.base_url))
    assert subject.connection(link.connection_id) is None
    assert peer.seen(CONNECTION) == []


def test_a_request_that_claims_an_origin_that_is_not_allowed_is_dropped(
    subject: Subject, peer: ForeignPeer, make_peer: MakePeer
) -> None:
    link, message = peer.connection_request(peer.pin(subject.base_url), baseUrl="http://169.254.169.254")

    answer = peer.send_control(link, message)

    assert answer.status in {202, 400}
    subject.pending(make_peer().request_connection(subject.base_url))
    assert subject.connection(link.connection_id) is None


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        ({"baseUrl": "http://127.0.0.1:1/"}, "/payload/baseUrl"),
        ({"baseUrl": "HTTP://127.0.0.1:1"}, "/payload/baseUrl"),
        ({"baseUrl": "https://example.org:443"}, "/payload/baseUrl"),
        ({"baseUrl": "http://["}, "/payload/baseUrl"),
        ({"baseUrl": MISSING}, "/payload/baseUrl"),
        ({"workspace": MISSING}, "/payload/workspace"),
        ({"workspace": {"slug": "foreign", "name": "n" * 201}}, "/payload/workspace/name"),
        ({"offer": MISSING}, "/payload/offer"),
        ({"offer": {"versions": ["1.0"]}}, "/payload/offer/features"),
        ({"note": "n" * 1001}, "/payload/note"),
        ({"note": ""}, "/payload/note"),
        ({"note": None}, "/payload/note"),
    ],
)
def test_the_bad_member_of_a_request_is_named(
    subject: Subject, peer: ForeignPeer, payload: dict[str, object], pointer: str
) -> None:
    link, message = peer.connection_request(peer.pin(subject.base_url), **payload)

    answer = peer.send_control(link, message)

    assert (answer.status, answer.code, answer.pointers) == (400, "invalid_request", [pointer])


def test_lengths_are_counted_in_code_points(subject: Subject, peer: ForeignPeer) -> None:
    note = "😀" * 1000
    link = peer.request_connection(
        subject.base_url, note=note, workspace={"slug": "a-1", "name": "é" * 200}, more={"unknown": [1]}
    )

    assert subject.pending(link)["note"] == note


@pytest.mark.parametrize("when", ["before the check", "after the check"])
def test_a_repeated_request_gets_the_stored_answer(subject: Subject, peer: ForeignPeer, when: str) -> None:
    link, message = peer.connection_request(peer.pin(subject.base_url))
    first = peer.send_control(link, message)
    if when == "after the check":
        subject.pending(link)

    second = peer.send_control(link, message)

    assert (second.status, second.value) == (202, first.value)
    assert len(subject.connections(peer)) <= 1


def test_another_request_under_a_pending_connection_is_an_invalid_state(
    subject: Subject, peer: ForeignPeer
) -> None:
    link = peer.request_connection(subject.base_url)
    subject.pending(link)

    _, message = peer.connection_request(link.remote, connection_id=link.connection_id)
    answer = peer.send_control(link, {**message, "controlSequence": 2} | signed_again(peer, message, 2))

    assert (answer.status, answer.code) == (409, "invalid_state")


def signed_again(peer: ForeignPeer, message: dict[str, object], number: int) -> dict[str, object]:
    unsigned = {name: value for name, value in message.items() if name != "signature"}
    return peer.key.sign("control", {**unsigned, "controlSequence": number})


def test_two_origins_of_one_instance_are_shown_side_by_side(subject: Subject, make_peer: MakePeer) -> None:
    first = make_peer()
    second = make_peer(instance_id=first.instance_id)

    links = [peer.request_connection(subject.base_url) for peer in (first, second)]

    shown = [subject.pending(link) for link in links]
    assert {one["remoteInstanceId"] for one in shown} == {first.instance_id}
    assert {one["remoteUrl"] for one in shown} == {first.base_url, second.base_url}
    assert {one["fingerprint"] for one in shown} == {first.key.fingerprint, second.key.fingerprint}


def test_another_origin_cannot_speak_for_a_pinned_instance(bond: Bond, make_peer: MakePeer) -> None:
    impostor = make_peer(instance_id=bond.peer.instance_id)

    answer = impostor.post(
        bond.subject.base_url,
        CONNECTION,
        impostor.control_message(bond.link, "verification", {"state": "x"}),
    )

    assert (answer.status, answer.code) == (401, "authentication_failed")


def test_a_blocked_instance_is_told_so(subject: Subject, make_peer: MakePeer) -> None:
    if subject.blocked_id is None:
        pytest.skip("FEDERATION_BLOCKED of the instance is not known")
    peer = make_peer(instance_id=subject.blocked_id)
    link, message = peer.connection_request(peer.pin(subject.base_url))

    answer = peer.send_control(link, message)

    assert (answer.status, answer.code) == (403, "blocked")


# --- crossing requests ---


def test_crossing_the_request_of_the_smaller_peer_stands(subject: Subject, make_peer: MakePeer) -> None:
    peer = make_peer(instance_id=SMALLEST + new_id()[-12:])
    subject.initiate(peer)
    theirs = peer.links[peer.take("connection.request").value["connectionId"]]

    mine = peer.request_connection(subject.base_url)

    accepted = peer.take("connection.accept")
    assert accepted.value["connectionId"] == mine.connection_id
    assert wait_for(lambda: subject.connection(mine.connection_id)["status"] == "active", "mine is active")
    assert subject.connection(theirs.connection_id)["status"] == "expired"
    answer = peer.control(
        theirs, "connection.reject", {"requestMessageId": theirs.request_id, "reason": "crossed"}
    )
    assert answer.status in {200, 410}
    assert subject.connection(mine.connection_id)["status"] == "active"


def test_crossing_the_request_of_the_smaller_subject_stands(subject: Subject, make_peer: MakePeer) -> None:
    peer = make_peer(instance_id=LARGEST + new_id()[-12:])
    subject.initiate(peer)
    theirs = peer.links[peer.take("connection.request").value["connectionId"]]

    mine = peer.request_connection(subject.base_url)

    rejected = peer.take("connection.reject")
    assert rejected.value["connectionId"] == mine.connection_id
    assert rejected.payload == {"requestMessageId": mine.request_id, "reason": "crossed"}
    assert peer.accept(theirs).status == 200
    assert subject.connection(theirs.connection_id)["status"] == "active"


def test_a_crossed_rejection_that_comes_first_is_remembered(subject: Subject, make_peer: MakePeer) -> None:
    peer = make_peer(instance_id=SMALLEST + new_id()[-12:])
    subject.initiate(peer)
    theirs = peer.links[peer.take("connection.request").value["connectionId"]]
    peer.control(theirs, "connection.reject", {"requestMessageId": theirs.request_id, "reason": "crossed"})

    mine = peer.request_connection(subject.base_url)

    assert peer.take("connection.accept").value["connectionId"] == mine.connection_id


# --- replacement ---


def test_an_accepted_replacement_of_the_peer_ends_the_old_connection(bond: Bond) -> None:
    link = bond.peer.request_connection(bond.subject.base_url)
    details = bond.subject.pending(link)

    bond.subject.post(f"/connections/{details['id']}/accept")

    ended = bond.peer.take("connection.disconnect")
    bond.peer.take("connection.accept")
    assert ended.value["connectionId"] == bond.link.connection_id
    assert bond.wait_until(status="disconnected")
    assert wait_for(
        lambda: bond.subject.connection(link.connection_id)["status"] == "active", "new one is active"
    )


def test_a_replacement_by_a_peer_that_lost_its_keys_is_treated_as_a_strangers(
    bond: Bond, make_peer: MakePeer
) -> None:
    moved = make_peer(instance_id=bond.peer.instance_id)

    link = moved.request_connection(bond.subject.base_url)

    details = bond.subject.pending(link)
    assert details["fingerprint"] == moved.key.fingerprint
    assert bond.details()["fingerprint"] == bond.peer.key.fingerprint
    assert bond.details()["status"] == "active"


def test_a_peer_that_lost_its_keys_goes_on_over_a_replacement(bond: Bond) -> None:
    old = bond.peer.key
    bond.peer.key = Key.rsa()
    bond.peer.keys = [bond.peer.key]
    link = bond.peer.request_connection(bond.subject.base_url)
    details = bond.subject.pending(link)
    before = bond.details()

    bond.subject.post(f"/connections/{details['id']}/accept")

    bond.peer.take("connection.accept")
    assert (before["status"], before["fingerprint"]) == ("active", old.fingerprint)
    assert details["fingerprint"] == bond.peer.key.fingerprint
    assert bond.wait_until(status="disconnected")
    wait_for(lambda: bond.subject.connection(link.connection_id)["status"] == "active", "it is active")
    renewed = replace(bond, link=link, local_id=details["id"])
    renewed.offer()
    answer = bond.peer.publish(link, bond.peer.event(f"{bond.topic}.x"))
    assert answer.value["acks"][0]["status"] == "stored"


def test_the_subject_asks_for_a_replacement(bond: Bond) -> None:
    details = bond.subject.initiate(bond.peer, replace=True)

    request = bond.peer.take("connection.request")

    assert request.value["connectionId"] != bond.link.connection_id
    assert (details["status"], bond.details()["status"]) == ("requested", "active")


# --- suspension ---


def test_the_peer_suspends_and_only_it_may_resume(bond: Bond) -> None:
    suspended = bond.peer.suspend(bond.link)
    shown = bond.details()

    refused = bond.subject.call("POST", f"/connections/{bond.local_id}/resume")
    resumed = bond.peer.resume(bond.link)

    assert suspended.value["status"] == "suspended"
    assert (shown["status"], shown["suspendedBy"]) == ("suspended", "peer")
    assert (refused.status, refused.code) == (409, "invalid_state")
    assert resumed.value["status"] == "active"
    assert bond.details()["status"] == "active"


def test_the_subject_suspends_and_only_it_may_resume(bond: Bond) -> None:
    suspended = bond.act("suspend", reason="Holidays")
    told = bond.peer.take("connection.suspend")

    refused = bond.peer.control(bond.link, "connection.resume")
    resumed = bond.act("resume")

    assert (suspended["status"], suspended["suspendedBy"]) == ("suspended", "me")
    assert told.payload == {"reason": "Holidays"}
    assert (refused.status, refused.code) == (409, "invalid_state")
    assert resumed["status"] == "active"
    assert bond.peer.take("connection.resume").reply.value["status"] == "active"


def test_when_both_suspended_both_must_resume(bond: Bond) -> None:
    bond.act("suspend")
    bond.peer.take("connection.suspend")
    bond.peer.suspend(bond.link)
    both = bond.details()["suspendedBy"]

    half = bond.peer.resume(bond.link)
    rest = bond.details()
    bond.act("resume")

    assert both == "both"
    assert half.value["status"] == "suspended"
    assert (rest["status"], rest["suspendedBy"]) == ("suspended", "me")
    assert bond.details()["status"] == "active"


def test_a_resume_of_an_active_connection_changes_nothing(bond: Bond) -> None:
    answer = bond.peer.control(bond.link, "connection.resume")

    assert (answer.status, answer.value["status"]) == (200, "active")


@pytest.mark.parametrize("who", ["subject", "peer"])
def test_events_are_held_while_suspended_and_flow_after(bond: Bond, who: str) -> None:
    bond.listen()
    if who == "subject":
        bond.act("suspend")
        bond.peer.take("connection.suspend")
    else:
        bond.peer.suspend(bond.link)

    published = bond.publish()
    held = bond.subject.delivery(published["messageId"], bond.local_id)
    if who == "subject":
        bond.act("resume")
    else:
        bond.peer.resume(bond.link)

    assert published["deliveries"] == 1
    assert (held["status"], held["attempts"]) == ("held", [])
    assert bond.take_batch().sequences == [1]
    bond.wait_for_delivery(published, "delivered")


def test_while_suspended_the_table_of_states_holds_for_a_batch(bond: Bond) -> None:
    bond.offer()
    stored = bond.peer.event(f"{bond.topic}.created")
    bond.peer.publish(bond.link, stored)
    bond.peer.suspend(bond.link)

    repeated = bond.peer.send_batch(bond.link, bond.peer.batch(bond.link, [(1, stored)]))
    fresh = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.created"))

    assert repeated.value["acks"][0]["status"] == "duplicate"
    assert (fresh.status, fresh.code) == (403, "connection_suspended")


# --- disconnect ---


def test_a_disconnect_by_the_peer_ends_subscriptions_and_deliveries(bond: Bond) -> None:
    bond.listen()
    bond.peer.always_answer("/api/v1/federation/incoming/events", problem("overloaded", retry_after="60"))
    published = bond.publish()
    bond.take_batch()

    answer = bond.peer.disconnect(bond.link)
    again = bond.peer.disconnect(bond.link)

    assert (answer.value["status"], again.value["status"]) == ("disconnected", "disconnected")
    assert bond.details()["status"] == "disconnected"
    assert {row["isActive"] for row in bond.subscriptions("outgoing")} == {False}
    dead = bond.wait_for_delivery(published, "dead")
    assert dead["error"] == "connection_closed" or "connection_closed" in str(dead["error"])


def test_a_disconnect_by_the_subject_is_told_and_ends_everything(bond: Bond) -> None:
    bond.offer()

    bond.act("disconnect", reason="The end")

    assert bond.peer.take("connection.disconnect").payload == {"reason": "The end"}
    answer = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.created"))
    assert (answer.status, answer.code) == (410, "connection_closed")
    assert {row["isActive"] for row in bond.subscriptions("incoming")} == {False}


def test_after_a_disconnect_a_new_request_makes_a_new_connection(bond: Bond, make_bond: MakeBond) -> None:
    bond.peer.disconnect(bond.link)

    again = make_bond(bond.peer)

    assert again.link.connection_id != bond.link.connection_id
    assert again.details()["status"] == "active"


# --- before the answer is here ---


@pytest.mark.parametrize("verb", ["suspend", "disconnect"])
def test_what_comes_in_is_taken_until_the_stop_was_acknowledged(bond: Bond, verb: str) -> None:
    bond.offer()
    answers: list[Answer] = []

    def publish_first(request: Received, usual: Callable[[], Reply]) -> Reply:
        answers.append(bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.before")))
        return usual()

    bond.peer.answer_with(f"connection.{verb}", publish_first)

    bond.act(verb)
    bond.peer.take(f"connection.{verb}")
    after = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.after"))

    assert answers[0].value["acks"][0]["status"] == "stored"
    assert after.code == {"suspend": "connection_suspended", "disconnect": "connection_closed"}[verb]


def test_what_comes_in_is_taken_from_the_moment_that_an_accept_is_sent(
    subject: Subject, peer: ForeignPeer
) -> None:
    link = peer.request_connection(subject.base_url)
    details = subject.pending(link)
    answers: list[Answer] = []

    def speak_first(request: Received, usual: Callable[[], Reply]) -> Reply:
        answers.append(peer.control(link, "verification", {"state": "already"}))
        answers.append(peer.subscribe(link, "auto.early")[1])
        return usual()

    peer.answer_with("connection.accept", speak_first)

    subject.post(f"/connections/{details['id']}/accept")

    peer.take("connection.accept")
    assert [answer.value["status"] for answer in answers] == ["active", "active"]
    assert wait_for(lambda: subject.connection(link.connection_id)["status"] == "active", "it is active")


def test_what_comes_in_is_taken_from_the_moment_that_a_resume_is_sent(bond: Bond) -> None:
    bond.offer()
    bond.act("suspend")
    bond.peer.take("connection.suspend")
    answers: list[Answer] = []

    def publish_first(request: Received, usual: Callable[[], Reply]) -> Reply:
        answers.append(bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.early")))
        return usual()

    bond.peer.answer_with("connection.resume", publish_first)

    bond.act("resume")

    bond.peer.take("connection.resume")
    assert answers[0].value["acks"][0]["status"] == "stored"


def test_a_disconnect_that_cannot_be_delivered_is_tried_again(bond: Bond) -> None:
    bond.peer.stop()
    bond.act("disconnect")

    bond.peer.start()

    assert bond.peer.take("connection.disconnect").reply.value["status"] == "disconnected"
    assert bond.details()["status"] == "disconnected"


def test_an_ed25519_peer_goes_the_whole_way(
    subject: Subject, ed25519_key: Key, make_peer: MakePeer, make_bond: MakeBond
) -> None:
    bond = make_bond(make_peer(key=ed25519_key))
    bond.listen()
    bond.offer()

    answer = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.x"))

    bond.wait_for_delivery(bond.publish(), "delivered")
    assert answer.value["acks"][0]["status"] == "stored"
    assert bond.details()["fingerprint"] == ed25519_key.fingerprint


def test_a_dead_letter_of_an_ended_connection_goes_over_the_next_one(bond: Bond, make_bond: MakeBond) -> None:
    bond.listen()
    bond.act("pause")
    published = bond.publish()
    bond.peer.disconnect(bond.link)
    bond.wait_for_delivery(published, "dead")
    again = make_bond(bond.peer)
    again.listen(f"{bond.topic}.*")

    bond.subject.post(f"/events/messages/{published['messageId']}/retry")

    again.wait_for_delivery(published, "delivered")
    assert [event["messageId"] for event in again.link.events] == [published["messageId"]]


# --- verification ---


def test_the_subject_verifies_the_connection_when_asked(bond: Bond) -> None:
    result = bond.act("verify")

    assert bond.peer.take("verification").reply.status == 200
    assert any("ound" in name or name.endswith("Ms") for name in result)


def test_a_verification_with_another_state_fails_and_only_warns(bond: Bond) -> None:
    def lie(request: Received, usual: object) -> Reply:
        wrong = {"state": "another"}
        return reply(bond.peer.control_ack(bond.link, request.value, status="active", payload=wrong))

    bond.peer.answer_with("verification", lie)

    answer = bond.subject.call("POST", f"/connections/{bond.local_id}/verify")

    assert bond.peer.take("verification").reply.status == 200
    assert answer.status == 502 or answer.value.get("status") not in {"ok", "verified"}
    assert bond.details()["status"] == "active"
