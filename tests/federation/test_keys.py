"""Keys of peers: pinned, adopted by vouches, or held for a person to look at."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.federation import identity, lifecycle, peers, sending, trust
from app.federation.controls import queue_control
from app.models import ControlOut, ControlState, Peer, PeerKey, SigningKey
from app.protocol.control import ControlType, KeysChanged
from app.protocol.errors import InvalidRequest, InvalidState
from app.protocol.keys import Algorithm, KeyRecord, KeyStatus, generate, seal, vouch
from tests.federation.conftest import Pair, Side


@pytest.fixture
def later() -> Iterator[clock.FrozenClock]:
    """A clock that a test moves, to be past the ten seconds between two looks at a document."""
    with clock.frozen_at(clock.now_ms() + 60_000) as frozen:
        yield frozen


def rotate(side: Side, *, vouched: bool) -> str:
    """Sign with a new key from now on; the old one is retired. Nobody is told. The new keyId."""
    with side.app.app_context():
        made, old = generate(Algorithm.RSA), identity.list_keys()[0]
        record = KeyRecord(
            made.key_id,
            Algorithm.RSA,
            made.public_key_pem,
            made.fingerprint,
            KeyStatus.ACTIVE,
            clock.now_ms(),
        )
        if vouched:
            record = vouch(
                identity.local_instance().instance_id, record, old.key_id, identity.signer().private_key
            )
        with transaction():
            db.session.add(
                SigningKey(
                    key_id=record.key_id,
                    algorithm=record.algorithm,
                    public_key_pem=record.public_key_pem,
                    fingerprint=record.fingerprint,
                    private_key_sealed=seal(made.private_key_pem, side.app.extensions["tidings"].secret_key),
                    status=KeyStatus.ACTIVE,
                    not_before=record.not_before,
                    vouch_by=record.vouch_by,
                    vouch_signature=record.vouch_signature,
                )
            )
            kept = db.session.get_one(SigningKey, old.id)
            kept.status, kept.not_after = KeyStatus.RETIRED, clock.now_ms()
        identity.forget()
        return record.key_id


def say_something(side: Side) -> ControlOut:
    """A verification, sent now."""
    connection_id = side.connection().id

    def queue_it() -> None:
        with transaction():
            lifecycle.send_verification(lifecycle.lock(connection_id))

    side.do(queue_it)
    side.do(sending.send_controls, connection_id)
    return side.rows(ControlOut)[-1]


def test_a_key_that_a_vouch_leads_to_is_adopted_and_the_request_goes_on(
    connected: Pair, later: clock.FrozenClock
) -> None:
    key_id = rotate(connected.alpha, vouched=True)

    said = say_something(connected.alpha)

    assert said.state == ControlState.ANSWERED
    assert key_id in [key.key_id for key in connected.beta.rows(PeerKey)]
    assert not connected.beta.connection().key_review


def test_a_key_that_nobody_vouched_for_waits_for_a_person(connected: Pair, later: clock.FrozenClock) -> None:
    rotate(connected.alpha, vouched=False)

    said = say_something(connected.alpha)

    assert (said.status_code, said.error_code) == (401, "key_untrusted")
    flagged = connected.beta.connection()
    assert flagged.key_review
    assert not lifecycle.is_sending(flagged)
    assert len(connected.beta.rows(PeerKey)) == 1


def test_a_person_may_trust_the_new_key(connected: Pair, later: clock.FrozenClock) -> None:
    key_id = rotate(connected.alpha, vouched=False)
    say_something(connected.alpha)

    connected.beta.do(trust.accept_keys, connected.beta.connection().id)

    assert not connected.beta.connection().key_review
    assert say_something(connected.alpha).state == ControlState.ANSWERED
    keys = {key.key_id: key.status for key in connected.beta.rows(PeerKey)}
    assert keys.pop(key_id) == KeyStatus.ACTIVE
    assert KeyStatus.ACTIVE not in keys.values()


def test_a_key_that_a_person_refused_is_not_asked_about_again(
    connected: Pair, later: clock.FrozenClock
) -> None:
    rotate(connected.alpha, vouched=False)
    say_something(connected.alpha)

    connected.beta.do(trust.refuse_keys, connected.beta.connection().id)
    later.advance(11_000)
    said = say_something(connected.alpha)

    assert said.error_code == "key_untrusted"
    assert not connected.beta.connection().key_review


def test_without_a_key_in_question_there_is_nothing_to_decide(connected: Pair) -> None:
    for decide in (trust.accept_keys, trust.refuse_keys):
        with pytest.raises(InvalidState):
            connected.beta.do(decide, connected.beta.connection().id)


def test_a_document_is_read_for_an_unknown_key_once_in_ten_seconds(
    connected: Pair, later: clock.FrozenClock
) -> None:
    rotate(connected.alpha, vouched=False)
    say_something(connected.alpha)
    asked_at = connected.beta.rows(Peer)[0].key_lookup_at

    later.advance(9_000)
    say_something(connected.alpha)
    soon = connected.beta.rows(Peer)[0].key_lookup_at
    later.advance(1_000)
    say_something(connected.alpha)

    assert soon == asked_at
    assert connected.beta.rows(Peer)[0].key_lookup_at == (asked_at or 0) + 10_000


def test_an_announced_key_is_pinned_before_it_signs(connected: Pair, later: clock.FrozenClock) -> None:
    with connected.alpha.app.app_context():
        made = generate(Algorithm.ED25519)
        local = identity.local_instance()
        record = vouch(
            local.instance_id,
            KeyRecord(
                made.key_id,
                Algorithm.ED25519,
                made.public_key_pem,
                made.fingerprint,
                KeyStatus.NEXT,
                clock.now_ms(),
            ),
            local.key_id,
            identity.signer().private_key,
        )
        with transaction():
            queue_control(
                lifecycle.lock(connected.alpha.connection().id),
                ControlType.KEYS_CHANGED,
                KeysChanged((record,)),
            )

    connected.settle()

    kept = {key.key_id: key.status for key in connected.beta.rows(PeerKey)}
    assert kept[made.key_id] == KeyStatus.NEXT


def test_an_answer_signed_by_a_vouched_key_that_is_new_counts(
    connected: Pair, later: clock.FrozenClock
) -> None:
    rotate(connected.beta, vouched=True)

    assert say_something(connected.alpha).state == ControlState.ANSWERED


def test_a_document_is_read_daily_and_its_unvouched_keys_are_not_pinned(
    connected: Pair, later: clock.FrozenClock
) -> None:
    rotate(connected.alpha, vouched=False)
    [peer] = connected.beta.rows(Peer)

    later.advance(peers.REFRESH_AFTER_MS)
    assert connected.beta.do(peers.due_for_refresh) == [peer.id]
    assert connected.beta.do(peers.due_for_refresh) == []
    connected.beta.do(peers.refresh, peer.id)

    assert len(connected.beta.rows(PeerKey)) == 1


def record(number: int, status: KeyStatus, not_after: int | None = None) -> KeyRecord:
    """A key of a peer; nobody holds its private half."""
    fingerprint = f"{number:064x}"
    return KeyRecord(f"k-{number}", Algorithm.ED25519, "a key", fingerprint, status, 0, not_after)


def test_a_peer_that_rotates_without_end_has_so_many_keys_pinned_and_the_newest(
    connected: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "MAX_PINNED", 8)
    with connected.beta.app.app_context():
        peer = db.session.scalars(sa.select(Peer)).one()
        mine = peers.pinned_records(peer.id)
        for number in range(1, 2 * peers.MAX_PINNED):
            with transaction():
                peers.write_keys(peer.id, [record(number, KeyStatus.RETIRED, number)])
        kept = peers.pinned_records(peer.id)

    assert len(kept) == peers.MAX_PINNED
    assert kept[: len(mine)] == mine
    assert kept[-1].key_id == f"k-{2 * peers.MAX_PINNED - 1}"


@pytest.mark.parametrize("status", [KeyStatus.REVOKED, KeyStatus.RETIRED], ids=str)
def test_a_key_that_still_matters_is_kept_and_the_next_one_refused(
    connected: Pair, status: KeyStatus
) -> None:
    with connected.beta.app.app_context():
        peer = db.session.scalars(sa.select(Peer)).one()
        left = peers.MAX_PINNED - len(peers.pinned_records(peer.id))
        keys = [record(number, status, clock.now_ms()) for number in range(left)]
        with transaction():
            peers.write_keys(peer.id, keys)

        with transaction(), pytest.raises(InvalidRequest):
            peers.write_keys(peer.id, [record(left, KeyStatus.NEXT)])

        assert len(peers.pinned_records(peer.id)) == peers.MAX_PINNED
