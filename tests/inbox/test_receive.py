"""What comes in: once, counted, in every state of the connection."""

import uuid

import pytest
import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.federation import controls
from app.federation.identity import list_keys, signer
from app.federation.peers import message_key
from app.inbox import replays
from app.inbox import stream as streams
from app.inbox.receive import handle_incoming_event
from app.inbox.retention import purge_events
from app.models import Connection, Direction, PeerKey, StreamGap, Subscription
from app.protocol.errors import (
    ConnectionClosed,
    ConnectionSuspended,
    EventExpired,
    InvalidRequest,
    InvalidState,
    MessageIdConflict,
    NotSubscribed,
    Overloaded,
    RateLimited,
)
from app.protocol.keys import Algorithm, KeyStatus, load_private_key, load_public_key
from app.protocol.messages import (
    parse_ack_batch,
    parse_event,
    verify_event,
)
from app.protocol.signing import Kind, Signer, verify
from app.protocol.states import ConnectionStatus, SubscriptionStatus
from tests.exchange import connect, digest_of, key_pair, subscribe
from tests.inbox.conftest import EPOCH, outcomes, stream

OTHER_EPOCH = "22222222-2222-4222-8222-222222222222"
DAY_MS = 86_400_000


def change(model, **values):
    with transaction():
        db.session.execute(sa.update(model).values(**values))


def single(scene, event):
    """Hand one event over as the endpoint does."""
    message = parse_event(event)
    record = message_key([scene.connection.peer_id], message.key_id)
    return handle_incoming_event(scene.connection, verify_event(message, record))


def test_a_batch_is_stored_and_acknowledged_by_one_signature(scene, take, stored):
    events = {n: scene.peer.event(payload={"n": n}) for n in (1, 2)}

    ack = take(events)

    assert outcomes(ack) == ["stored", "stored"]
    assert ack["contiguous"] == 2
    assert [entry["digest"] for entry in ack["acks"]] == [digest_of(event) for event in events.values()]
    assert [(row.message_id, row.sequence) for row in stored()] == [
        (event["messageId"], n) for n, event in events.items()
    ]
    verify(Kind.ACK_BATCH, ack, load_public_key(_our_public_key()))
    assert parse_ack_batch(ack).instance_id == signer().instance_id


def _our_public_key() -> str:
    return list_keys()[0].public_key_pem


def test_a_batch_that_comes_again_is_a_duplicate_and_stored_once(scene, take, stored):
    events = {n: scene.peer.event() for n in (1, 2)}
    take(events)

    ack = take(events | {3: scene.peer.event()})

    assert outcomes(ack) == ["duplicate", "duplicate", "stored"]
    assert ack["contiguous"] == 3
    assert len(stored()) == 3


def test_numbers_are_contiguous_when_the_hole_is_filled(scene, take):
    first = take({2: scene.peer.event(), 4: scene.peer.event()})
    hole_since = stream().hole_since
    second = take({1: scene.peer.event()})
    third = take({3: scene.peer.event()})

    assert [ack["contiguous"] for ack in (first, second, third)] == [0, 2, 4]
    assert hole_since is not None
    assert stream().hole_since is None


def test_what_is_refused_for_good_is_accounted_for_and_what_may_pass_is_not(scene, take):
    stranger = Signer(scene.peer.instance_id, "k-unknown", scene.peer.signer.private_key)

    ack = take(
        {
            1: scene.peer.event("other.type"),
            2: scene.peer.event(signer=stranger),
            3: scene.peer.event(),
        }
    )

    assert outcomes(ack) == ["not_subscribed", "key_untrusted", "stored"]
    assert [entry.get("error", {}).get("retryable") for entry in ack["acks"]] == [False, True, None]
    assert ack["contiguous"] == 1


def test_another_event_under_a_used_id_or_number_is_a_conflict(scene, take, stored):
    event = scene.peer.event(payload={"n": 1})
    take({1: event})

    ack = take(
        {
            1: scene.peer.event(),
            2: scene.peer.event(payload={"n": 2}, message_id=event["messageId"]),
        }
    )

    assert outcomes(ack) == ["sequence_conflict", "message_id_conflict"]
    assert len(stored()) == 1
    assert ack["contiguous"] == 2


def test_an_event_that_comes_under_a_second_number_fills_that_one_too(scene, take, stored):
    event = scene.peer.event()
    take({1: event})

    again = take({2: event})
    other = take({2: scene.peer.event()})

    assert outcomes(again) == ["duplicate"]
    assert again["contiguous"] == 2
    assert outcomes(other) == ["sequence_conflict"]
    assert [row.sequence for row in stored()] == [1]


def test_an_event_twice_in_one_batch_is_stored_once(scene, take, stored):
    event = scene.peer.event()

    ack = take({1: event, 2: event})

    assert outcomes(ack) == ["stored", "duplicate"]
    assert len(stored()) == 1


def test_an_event_signed_again_by_another_key_is_a_duplicate(scene, take):
    event = scene.peer.event(timestamp=(now := clock.now_ms()))
    take({1: event})
    other = key_pair("second")
    _pin(scene, other)
    second = Signer(scene.peer.instance_id, other.key_id, load_private_key(other.private_key_pem))
    again = scene.peer.event(message_id=event["messageId"], timestamp=now, signer=second)

    ack = take({2: again})

    assert outcomes(ack) == ["duplicate"]
    assert ack["acks"][0]["digest"] == digest_of(again) != digest_of(event)


def _pin(scene, key) -> None:
    with transaction():
        db.session.add(
            PeerKey(
                peer_id=scene.connection.peer_id,
                key_id=key.key_id,
                algorithm=Algorithm.RSA,
                public_key_pem=key.public_key_pem,
                fingerprint=key.fingerprint,
                status=KeyStatus.NEXT,
                not_before=0,
            )
        )


def test_the_same_id_over_another_connection_is_another_event(scene, take, stored):
    event = scene.peer.event()
    take({1: event})
    other = connect(scene.workspace, scene.peer)
    subscribe(other, direction=Direction.INCOMING)
    scene.connection = other

    ack = take({1: event}, epoch=OTHER_EPOCH)

    assert outcomes(ack) == ["stored"]
    assert len(stored()) == 2


def test_a_number_far_ahead_is_refused_yet_the_head_is_known(scene, take, stored):
    take({1: scene.peer.event()})

    with pytest.raises(RateLimited):
        take({10_002: scene.peer.event()})

    assert stream().head_sequence == 10_002
    assert streams.missing(stream()) == [(2, 10_002, "missing")]
    assert len(stored()) == 1


def test_the_last_number_that_is_near_enough_is_taken(scene, take):
    take({1: scene.peer.event()})

    assert outcomes(take({10_001: scene.peer.event()})) == ["stored"]


def test_a_new_epoch_starts_at_nought_but_not_twice_in_ten_seconds(scene, take):
    with clock.frozen_at(clock.now_ms()) as now:
        take({1: scene.peer.event()})
        now.advance(9_999)
        with pytest.raises(RateLimited):
            take({1: scene.peer.event()}, epoch=OTHER_EPOCH)
        now.advance(1)

        ack = take({1: scene.peer.event()}, epoch=OTHER_EPOCH)

    assert (outcomes(ack), ack["contiguous"]) == (["stored"], 1)


def test_an_old_epoch_may_still_be_filled(scene, take):
    with clock.frozen_at(clock.now_ms()) as now:
        take({2: scene.peer.event()})
        now.advance(20_000)
        take({1: scene.peer.event()}, epoch=OTHER_EPOCH)

        ack = take({1: scene.peer.event()})

    assert (ack["streamEpoch"], ack["contiguous"]) == (EPOCH, 2)


@pytest.mark.parametrize(
    ("columns", "refusal"),
    [
        ({"status": ConnectionStatus.SUSPENDED, "suspended_by_me": True}, ConnectionSuspended),
        ({"status": ConnectionStatus.DISCONNECTED}, ConnectionClosed),
        ({"status": ConnectionStatus.REQUESTED}, InvalidState),
        ({"status": ConnectionStatus.PENDING}, InvalidState),
        ({"paused_incoming": True}, Overloaded),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_connection_that_takes_nothing_still_knows_what_it_has(scene, take, stored, columns, refusal):
    events = {n: scene.peer.event() for n in (1, 2)}
    take(events)
    change(Connection, **columns)

    repeated = take(events)
    with pytest.raises(refusal):
        take(events | {3: scene.peer.event()})
    with pytest.raises(refusal):
        take({1: scene.peer.event()}, epoch=OTHER_EPOCH)

    assert outcomes(repeated) == ["duplicate", "duplicate"]
    assert repeated["contiguous"] == 2
    assert len(stored()) == 2


def test_a_suspension_that_was_announced_holds_from_its_answer_on(scene, take):
    now = clock.now_ms()
    change(
        Connection,
        status=ConnectionStatus.SUSPENDED,
        suspended_by_me=True,
        inbound_open_until=now + 15_000,
    )

    assert outcomes(take({1: scene.peer.event()})) == ["stored"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"status": SubscriptionStatus.REQUESTED, "granted_event_type": None}, "stored"),
        ({"status": SubscriptionStatus.PENDING, "granted_event_type": None}, "stored"),
        ({"lease_expires_at": -500_000}, "stored"),
        ({"lease_expires_at": -700_000}, "not_subscribed"),
        ({"status": SubscriptionStatus.CANCELLED, "accepts_until": 1_000}, "stored"),
        ({"status": SubscriptionStatus.CANCELLED, "accepts_until": -1_000}, "not_subscribed"),
        ({"status": SubscriptionStatus.REVOKED}, "not_subscribed"),
        ({"status": SubscriptionStatus.REJECTED}, "not_subscribed"),
        ({"granted_event_type": "task.created"}, "stored"),
        ({"granted_event_type": "task.done"}, "not_subscribed"),
    ],
    ids=str,
)
def test_only_what_was_asked_for_is_taken(scene, take, columns, expected):
    now = clock.now_ms()
    moments = ("lease_expires_at", "accepts_until")
    change(Subscription, **{k: now + v if k in moments else v for k, v in columns.items()})

    assert outcomes(take({1: scene.peer.event()})) == [expected]


def test_time_is_checked_before_anything_else(scene, take):
    now = clock.now_ms()

    ack = take(
        {
            1: scene.peer.event(timestamp=now + 310_000),
            2: scene.peer.event(timestamp=now - 8 * DAY_MS - 1_000),
            3: scene.peer.event(timestamp=now - 8 * DAY_MS + 60_000),
            4: scene.peer.event(timestamp=now + 290_000),
        }
    )

    assert outcomes(ack) == ["invalid_request", "event_expired", "stored", "stored"]


def test_an_old_event_is_taken_in_a_replay_that_was_asked_for(scene, take, monkeypatch):
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    old = clock.now_ms() - 20 * DAY_MS
    asked = replays.request(scene.connection.id, replays.Wanted(), requested_by="test").replay_id

    other = take({1: scene.peer.event(timestamp=old)}, replay_id=str(uuid.uuid4()))
    ours = take({2: scene.peer.event(timestamp=old)}, replay_id=asked)

    assert (outcomes(other), outcomes(ours)) == (["event_expired"], ["stored"])


def test_an_event_that_is_too_large_is_refused_for_good(scene, take):
    ack = take({1: scene.peer.event(payload={"text": "x" * 66_000}), 2: scene.peer.event()})

    assert outcomes(ack) == ["too_large", "stored"]
    assert ack["contiguous"] == 2


def test_an_event_of_another_instance_or_altered_is_refused(scene, take, stored):
    altered = {**scene.peer.event(), "payload": {"n": 2}}
    other = Signer(str(uuid.uuid4()), scene.peer.key.key_id, scene.peer.signer.private_key)

    ack = take({1: altered, 2: scene.peer.event(signer=other), 3: {"messageId": str(uuid.uuid4())}})

    assert outcomes(ack) == ["authentication_failed", "invalid_issuer", "invalid_request"]
    assert stored() == []


def test_a_single_event_is_outside_the_stream(scene, stored):
    event = scene.peer.event()

    ack = single(scene, event)

    assert (ack.status, ack.correlation_id, ack.digest) == ("stored", event["messageId"], digest_of(event))
    [row] = stored()
    assert (row.stream_id, row.sequence) == (None, None)


def test_a_single_event_that_comes_again_is_a_duplicate_in_every_state(scene, stored):
    event = scene.peer.event()
    single(scene, event)

    states = [single(scene, event).status]
    for status in (ConnectionStatus.SUSPENDED, ConnectionStatus.DISCONNECTED):
        change(Connection, status=status)
        states.append(single(scene, event).status)

    assert states == ["duplicate"] * 3
    assert len(stored()) == 1


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"event_type": "other.type"}, NotSubscribed),
        ({"timestamp": 2**52}, InvalidRequest),
        ({"timestamp": 1}, EventExpired),
    ],
    ids=str,
)
def test_a_single_event_is_refused_as_a_request(scene, stored, given, refusal):
    with pytest.raises(refusal):
        single(scene, scene.peer.event(**given))

    assert stored() == []


def test_a_single_event_with_a_used_id_is_a_conflict_whatever_its_type(scene):
    event = scene.peer.event()
    single(scene, event)

    with pytest.raises(MessageIdConflict):
        single(scene, scene.peer.event("other.type", message_id=event["messageId"]))


def test_a_single_event_may_come_again_in_the_stream(scene, take):
    event = scene.peer.event()
    single(scene, event)

    ack = take({1: event})

    assert (outcomes(ack), ack["contiguous"]) == (["duplicate"], 1)


def test_a_gap_accounts_for_its_numbers_and_is_told(scene, take):
    take({1: scene.peer.event(), 5: scene.peer.event()})

    with transaction():
        streams.gap_told(scene.connection.id, EPOCH, 2, 3, "expired")

    assert stream().contiguous == 3
    assert streams.missing(stream()) == [(2, 3, "expired"), (4, 4, "missing")]


def test_gaps_side_by_side_are_kept_as_one_for_each_reason(scene, take):
    take({1: scene.peer.event()})
    told = [(2, 2, "expired"), (4, 4, "expired"), (3, 3, "expired"), (5, 6, "refused"), (7, 7, "refused")]

    with transaction():
        for first, last, reason in told:
            streams.gap_told(scene.connection.id, EPOCH, first, last, reason)

    assert streams.missing(stream()) == [(2, 4, "expired"), (5, 7, "refused")]
    assert len(db.session.scalars(sa.select(StreamGap)).all()) == 2
    assert stream().contiguous == 7


def test_an_event_that_comes_in_the_middle_of_joined_gaps_leaves_the_rest(scene, take):
    take({1: scene.peer.event()})
    with transaction():
        for number in range(2, 7):
            streams.gap_told(scene.connection.id, EPOCH, number, number, "expired")

    take({4: scene.peer.event()})

    assert streams.missing(stream()) == [(2, 3, "expired"), (5, 6, "expired")]


def test_a_heartbeat_shows_a_lost_tail(scene, take):
    take({1: scene.peer.event()})

    with transaction():
        streams.head_told(scene.connection.id, EPOCH, 3, 1)

    assert streams.missing(stream()) == [(2, 3, "missing")]
    assert stream().hole_since is not None


def test_a_sign_of_life_is_noted(scene, take):
    change(Connection, failures=3, retry_at=2**50)

    take({1: scene.peer.event()})

    connection = scene.reload()
    assert connection.last_received_at is not None
    assert connection.retry_at == 0


# What came so long ago that its text went by age


@pytest.fixture
def gone(scene, take, stored):
    """Two events that came under the numbers 1 and 2 and went by age; what they were."""
    events = {n: scene.peer.event(payload={"n": n}) for n in (1, 2)}
    take(events)
    clock.set_offset_ms(31 * DAY_MS)
    purge_events(scene.workspace.id, clock.now_ms() - 30 * DAY_MS, 100)
    assert stored() == []
    return events


@pytest.fixture
def asked(scene, monkeypatch):
    """A replay that we asked for."""
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    return replays.request(scene.connection.id, replays.Wanted(), requested_by="test").replay_id


def test_what_went_by_age_is_a_duplicate_when_it_comes_again(scene, take, stored, gone, asked):
    ack = take(gone | {3: scene.peer.event()}, replay_id=asked)

    assert outcomes(ack) == ["duplicate", "duplicate", "stored"]
    assert len(stored()) == 1


def test_what_went_by_age_is_known_under_another_number(scene, take, stored, gone, asked):
    ack = take({3: gone[1]}, replay_id=asked)

    assert outcomes(ack) == ["duplicate"]
    assert (ack["contiguous"], stored()) == (3, [])


def test_its_id_with_other_content_and_its_number_with_another_event_are_conflicts(
    scene, take, stored, gone, asked
):
    forged = scene.peer.event(
        payload={"n": 9}, message_id=gone[1]["messageId"], timestamp=gone[1]["timestamp"]
    )

    ack = take({1: forged, 2: scene.peer.event(), 3: scene.peer.event()}, replay_id=asked)

    assert outcomes(ack) == ["message_id_conflict", "sequence_conflict", "stored"]
    assert len(stored()) == 1
