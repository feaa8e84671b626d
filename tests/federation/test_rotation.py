"""Our own keys change: what a key signs never comes before the peer knows it, and nothing is lost."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.federation import calls, connections, identity, outside, rotation, told, trust
from app.models import (
    Connection,
    ControlOut,
    ControlState,
    Delivery,
    Event,
    EventSignature,
    KeyTold,
    Peer,
    PeerKey,
    SigningKey,
)
from app.outbox.deliver import PATH, drain
from app.outbox.publish import publish_event
from app.protocol.control import ControlType
from app.protocol.errors import InvalidState, NotFound
from app.protocol.keys import Algorithm, load_public_key
from app.protocol.signing import Kind, verify_body
from app.protocol.states import DeliveryState
from tests.federation.conftest import MakeSide, Pair, Side
from tests.federation.test_keys import rotate as replace_key
from tests.federation.test_keys import say_something


class Gate:
    """Stands before an instance: sees each POST, and answers 503 to what a test wants to hold up."""

    def __init__(self, side: Side) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.closed_for: Callable[[dict[str, Any]], bool] = lambda _message: False
        self._app = side.server.app
        side.server.app = self

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if environ["REQUEST_METHOD"] != "POST":
            return self._app(environ, start)
        raw = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        message = orjson.loads(raw)
        if self.closed_for(message):
            start("503 X", [("Content-Length", "0")])
            return [b""]
        [_, keyid] = environ["HTTP_SIGNATURE_INPUT"].split('keyid="')
        self.seen.append((keyid.split('"')[0].partition("#")[2], message))
        return self._app(environ | {"wsgi.input": BytesIO(raw)}, start)


def is_keys_changed(message: dict[str, Any]) -> bool:
    return message.get("type") == ControlType.KEYS_CHANGED.value


@pytest.fixture
def pair(make_side: MakeSide) -> Pair:
    """Alpha gets beta's events."""
    made = Pair(make_side(INSTANCE_NAME="Alpha"), make_side(FEDERATION_AUTO_GRANT="task.**"))
    made.connect()
    made.subscribe("task.**")
    return made


@pytest.fixture
def gate(pair: Pair) -> Gate:
    """Before alpha."""
    return Gate(pair.alpha)


@pytest.fixture
def later() -> Iterator[clock.FrozenClock]:
    """A clock that a test moves."""
    with clock.frozen_at(clock.now_ms() + 60_000) as frozen:
        yield frozen


def publish(side: Side) -> str:
    return side.do(publish_event, side.workspace_id, "task.created", {"n": 1}).message_id


def send(pair: Pair) -> None:
    """Beta sends all that it may send."""
    pair.beta.do(connections.retry_now, pair.beta.connection().id)
    pair.settle()
    pair.beta.do(drain, pair.beta.connection().id)


def keys_of(side: Side) -> dict[str, str]:
    """keyId: status."""
    return {key.key_id: key.status.value for key in side.rows(SigningKey)}


def pinned(side: Side) -> dict[str, str]:
    return {key.key_id: key.status.value for key in side.rows(PeerKey)}


def stored(side: Side) -> list[tuple[str, str]]:
    return [(event.message_id, event.key_id) for event in side.rows(Event)]


def owed(side: Side) -> int:
    with side.app.app_context():
        return db.session.scalar(sa.select(sa.func.count()).select_from(KeyTold)) or 0


def test_a_rotation_tells_the_peer_before_and_after(pair: Pair, gate: Gate) -> None:
    beta = pair.beta
    [old] = keys_of(beta)

    announced = beta.do(rotation.announce)
    pair.settle()
    before = pinned(pair.alpha)
    beta.do(rotation.activate)
    pair.settle()

    assert before == {old: "active", announced.key_id: "next"}
    assert pinned(pair.alpha) == keys_of(beta) == {old: "retired", announced.key_id: "active"}
    assert [(key, message["keyId"]) for key, message in gate.seen] == [(old, old), (announced.key_id,) * 2]
    assert owed(beta) == 0


def test_what_the_new_key_signs_waits_until_the_peer_knows_it_and_older_events_pass(
    pair: Pair, gate: Gate
) -> None:
    beta = pair.beta
    [old] = keys_of(beta)
    gate.closed_for = is_keys_changed
    first = publish(beta)

    rotated = beta.do(rotation.rotate, None, 0.0)
    second = publish(beta)
    send(pair)
    meanwhile = stored(pair.alpha)
    gate.closed_for = lambda _message: False
    send(pair)

    new = rotated.key.key_id
    assert rotated.waiting == [pair.alpha.url]
    assert meanwhile == [(first, old)]
    assert stored(pair.alpha) == [(first, old), (second, new)]
    assert [(key, message.get("keyId", "batch")) for key, message in gate.seen] == [
        (old, "batch"),
        (old, old),
        (new, new),
        (new, "batch"),
    ]
    assert {row.state for row in beta.rows(Delivery)} == {DeliveryState.DELIVERED}


def test_answers_to_a_peer_that_does_not_know_the_key_are_signed_by_the_one_before(
    pair: Pair, gate: Gate
) -> None:
    alpha, beta = pair.alpha, pair.beta
    [old] = keys_of(beta)
    gate.closed_for = is_keys_changed
    beta.do(rotation.rotate, None, 0.0)

    say_something(alpha)

    said = alpha.rows(ControlOut)[-1]
    assert (said.type, said.state) == ("verification", ControlState.ANSWERED)
    assert orjson.loads(said.answer or "")["keyId"] == old


def test_a_process_that_has_not_noticed_the_new_key_signs_its_request_again(pair: Pair) -> None:
    beta = pair.beta
    connection = beta.connection()
    stale = beta.do(identity.signer)
    beta.do(rotation.announce)
    pair.settle()
    beta.do(rotation.activate)
    pair.settle()

    answer = beta.do(lambda: calls.post(outside.client(), connection.id, stale, pair.alpha.url, PATH, b"{}"))

    assert (answer.status, orjson.loads(answer.body)["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("done", ["announce", "announce and activate"])
def test_a_crash_before_anything_was_queued_is_made_good_by_the_sweep(
    pair: Pair, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beta = pair.beta
    [old] = keys_of(beta)
    with monkeypatch.context() as crashing:
        crashing.setattr(rotation.told, "tell", lambda: 0)
        key = beta.do(rotation.announce)
        if done != "announce":
            beta.do(rotation.activate)
    event = publish(beta)

    beta.do(told.tell)
    pair.settle()
    send(pair)

    assert pinned(pair.alpha) == keys_of(beta)
    assert stored(pair.alpha) == [(event, old if done == "announce" else key.key_id)]
    assert owed(beta) == 0


def test_each_step_can_be_repeated(pair: Pair) -> None:
    beta = pair.beta

    announced = [beta.do(rotation.announce).key_id for _ in range(2)]
    queued = len(beta.rows(ControlOut, ControlOut.type == "keys.changed"))
    activated = [beta.do(rotation.activate, announced[0]).key_id for _ in range(2)]
    pair.settle()

    assert set(announced) == set(activated)
    assert queued == 1
    assert len(beta.rows(ControlOut, ControlOut.type == "keys.changed")) == 2
    assert list(keys_of(beta).values()) == ["retired", "active"]


def test_nothing_but_an_announced_key_is_activated(pair: Pair) -> None:
    beta = pair.beta
    [old] = keys_of(beta)
    with pytest.raises(InvalidState, match="No key is announced"):
        beta.do(rotation.activate)
    with pytest.raises(NotFound):
        beta.do(rotation.activate, "k-none")
    beta.do(rotation.rotate, None, 0.0)

    with pytest.raises(InvalidState, match="only a next key"):
        beta.do(rotation.activate, old)


def test_a_word_that_got_lost_is_said_again(pair: Pair, gate: Gate, later: clock.FrozenClock) -> None:
    beta = pair.beta
    gate.closed_for = is_keys_changed
    beta.do(rotation.announce)
    pair.settle()
    gate.closed_for = lambda _message: False
    with beta.app.app_context(), transaction():
        db.session.execute(
            sa.update(ControlOut).where(ControlOut.type == "keys.changed").values(state=ControlState.GIVEN_UP)
        )

    told_again = beta.do(told.tell)
    pair.settle()

    assert told_again == 1
    assert pinned(pair.alpha) == keys_of(beta)


def test_a_connection_that_is_made_later_needs_no_word(pair: Pair, make_side: MakeSide) -> None:
    beta, gamma = pair.beta, make_side(INSTANCE_NAME="Gamma")
    beta.do(rotation.rotate, None, 0.0)
    pair.settle()

    later = Pair(gamma, beta)
    later.connect()

    assert gamma.connection().status.value == "active"
    assert pinned(gamma) == keys_of(beta)
    assert owed(beta) == 0


def test_a_peer_that_verifies_no_ed25519_stands_in_the_way_of_such_a_key(pair: Pair) -> None:
    beta = pair.beta
    with beta.app.app_context(), transaction():
        peer = db.session.scalars(sa.select(Peer)).one()
        peer.document = orjson.dumps(orjson.loads(peer.document) | {"features": []}).decode()

    with pytest.raises(InvalidState) as refused:
        beta.do(rotation.announce, Algorithm.ED25519)

    assert pair.alpha.url in refused.value.detail
    assert len(keys_of(beta)) == 1


def test_a_rotation_to_ed25519_goes_on_without_a_break(pair: Pair) -> None:
    beta = pair.beta
    first = publish(beta)

    beta.do(rotation.announce, Algorithm.ED25519)
    pair.settle()
    new = beta.do(rotation.activate).key_id
    second = publish(beta)
    send(pair)

    assert [event for event, _ in stored(pair.alpha)] == [first, second]
    assert stored(pair.alpha)[1][1] == new


def test_what_a_revoked_key_signed_is_signed_again_under_the_same_id(pair: Pair, gate: Gate) -> None:
    beta = pair.beta
    [old] = keys_of(beta)
    event = publish(beta)
    [before] = beta.rows(Event)

    beta.do(rotation.announce)
    pair.settle()
    beta.do(rotation.revoke, old)
    pair.settle()
    send(pair)

    new = next(key for key, status in keys_of(beta).items() if status == "active")
    [after] = beta.rows(Event)
    with beta.app.app_context():
        [former] = db.session.scalars(sa.select(EventSignature))
    key = load_public_key(beta.rows(SigningKey)[-1].public_key_pem)
    verify_body(Kind.EVENT, after.body.encode(), after.signature, key)
    assert stored(pair.alpha) == [(event, new)]
    assert keys_of(beta)[old] == pinned(pair.alpha)[old] == "revoked"
    assert (former.body, former.digest, former.key_id) == (before.body, before.digest, old)
    assert orjson.loads(after.body)["payload"] == orjson.loads(before.body)["payload"]
    assert beta.rows(Delivery)[0].state is DeliveryState.DELIVERED


def test_a_key_that_was_lost_before_any_peer_heard_of_the_next_is_followed_by_it(
    pair: Pair, gate: Gate
) -> None:
    beta = pair.beta
    [old] = keys_of(beta)
    event = publish(beta)

    beta.do(rotation.revoke, old)
    pair.settle()
    send(pair)

    [new] = [key for key, status in keys_of(beta).items() if status == "active"]
    assert pinned(pair.alpha) == keys_of(beta)
    assert stored(pair.alpha) == [(event, new)]
    assert pair.alpha.connection().key_review is False


def test_a_control_message_of_a_revoked_key_is_issued_anew(pair: Pair, gate: Gate) -> None:
    beta = pair.beta
    [old] = keys_of(beta)
    gate.closed_for = lambda _message: True
    beta.do(connections.suspend, beta.connection().id)
    pair.settle()

    beta.do(rotation.announce)
    beta.do(rotation.revoke, old)
    gate.closed_for = lambda _message: False
    beta.do(connections.retry_now, beta.connection().id)
    pair.settle()

    assert pair.alpha.connection().suspended_by_peer is True
    signed_by_old = [message["type"] for _, message in gate.seen if message["keyId"] == old]
    assert signed_by_old == ["keys.changed"]


def test_revoked_keys_stay_in_the_document_and_old_ones_are_served(pair: Pair) -> None:
    beta = pair.beta
    [first] = keys_of(beta)
    second = beta.do(rotation.rotate, None, 0.0).key.key_id
    pair.settle()
    beta.do(rotation.revoke, first)

    document = beta.do(identity.instance_document)
    served = [beta.app.test_client().get(f"/api/v1/federation/keys/{key}") for key in (first, second)]

    assert {key["keyId"]: key["status"] for key in document["keys"]} == {first: "revoked", second: "active"}
    assert [answer.status_code for answer in served] == [200, 200]


def test_adoption_counts_the_connections_that_know_a_key(pair: Pair, gate: Gate) -> None:
    beta = pair.beta
    [old] = keys_of(beta)
    gate.closed_for = is_keys_changed

    new = beta.do(rotation.announce).key_id
    pair.settle()
    before = beta.do(told.adoption)
    gate.closed_for = lambda _message: False
    send(pair)

    assert before == {old: (1, 1), new: (0, 1)}
    assert beta.do(told.adoption) == {old: (1, 1), new: (1, 1)}


def test_private_keys_are_sealed_anew_under_another_secret(pair: Pair) -> None:
    beta = pair.beta
    beta.do(rotation.rotate, None, 0.0)
    config = beta.app.extensions["tidings"]
    beta.app.extensions["tidings"] = replace(
        config, secret_key="another secret key for tests", secret_key_previous=config.secret_key
    )

    done = [beta.do(rotation.reencrypt) for _ in range(2)]

    beta.app.extensions["tidings"] = replace(config, secret_key="another secret key for tests")
    beta.do(identity.forget)
    assert done == [(2, 0), (0, 2)]
    assert beta.do(identity.signer).key_id == beta.rows(SigningKey)[-1].key_id


def test_after_a_person_trusts_the_new_keys_all_that_waited_goes(
    pair: Pair, later: clock.FrozenClock
) -> None:
    alpha, beta = pair.alpha, pair.beta
    replace_key(beta, vouched=False)
    event = publish(beta)
    beta.do(drain, beta.connection().id)
    held = beta.connection().hold_code
    review = alpha.connection().key_review
    later.advance(20_000)

    alpha.do(trust.accept_keys, alpha.connection().id)
    pair.settle()
    beta.do(drain, beta.connection().id)

    assert (held, review) == ("key_untrusted", True)
    assert beta.rows(Connection)[0].hold_code is None
    assert [message_id for message_id, _ in stored(alpha)] == [event]
    assert [row.state for row in beta.rows(Delivery)] == [DeliveryState.DELIVERED]


def test_the_answer_to_a_repeat_is_signed_anew_if_its_key_was_revoked(pair: Pair) -> None:
    alpha, beta = pair.alpha, pair.beta
    [old] = keys_of(beta)
    pair.subscribe()
    asked = alpha.rows(ControlOut)[-1]
    new = beta.do(rotation.announce).key_id
    pair.settle()
    beta.do(rotation.revoke, old)
    pair.settle()

    with alpha.app.app_context(), transaction():
        db.session.execute(
            sa.update(ControlOut).where(ControlOut.id == asked.id).values(state=ControlState.WAITING)
        )
    pair.settle()

    again = alpha.rows(ControlOut, ControlOut.id == asked.id)[0]
    assert [orjson.loads(row.answer or "")["keyId"] for row in (asked, again)] == [old, new]
    assert (again.state, again.answer_status) == (ControlState.ANSWERED, asked.answer_status)


def test_a_process_that_has_not_noticed_a_revocation_signs_no_answer_by_that_key(pair: Pair) -> None:
    alpha, beta = pair.alpha, pair.beta
    [old] = keys_of(beta)
    new = beta.do(rotation.announce).key_id
    pair.settle()
    with beta.app.app_context():
        stale = dict(identity._known)
    beta.do(rotation.revoke, old)
    pair.settle()
    identity._known.update(stale)

    say_something(alpha)

    said = alpha.rows(ControlOut)[-1]
    assert said.state is ControlState.ANSWERED
    assert orjson.loads(said.answer or "")["keyId"] == new
