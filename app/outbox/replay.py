"""Replay: sending a peer again what was numbered for it, because it asked.

    accept ──► running: window by window of numbers ──► replay.complete, after the last ack
                  each number   delivered or dead   sent again, under the same number, with the replayId
                                waits still         left to its own delivery
                                not granted, or withdrawn, or too large, or no longer kept: told by a gap

A replay has no drain of its own, since one request of events is in flight per connection. Its batches take
turns with the live ones, and keep to a rate of their own, so that a live event waits for one of them at
most. All that it knows is in its row, in the transaction of what it tells: whoever is killed leaves it where
the last ack, or gap, was written down, and the next drain goes on from there.
"""

import json
import logging
from collections.abc import Sequence
from random import Random

import sqlalchemy as sa

from app.backoff import parse_retry_after, retry_delay, untold_wait
from app.clock import now_ms
from app.database import db, table_of
from app.federation import controls, lifecycle, streams
from app.federation.controls import queue_control
from app.federation.lifecycle import sending_clause
from app.models import (
    OPEN_REPLAY,
    AttemptEntry,
    Connection,
    ControlOut,
    Delivery,
    Direction,
    Event,
    Replay,
    ReplayState,
    Stream,
)
from app.outbox import dispatch, gaps, resend
from app.outbox.acknowledge import mark_delivered
from app.outbox.claim import Batch
from app.outbox.rollup import sum_up
from app.outbox.target import Target
from app.protocol import control as wire
from app.protocol.answers import Outcome
from app.protocol.control import ControlType, GapReason
from app.protocol.errors import RateLimited, ReplayGone
from app.protocol.messages import AckEntry
from app.protocol.states import DeliveryState
from app.queue import wake_drain

log = logging.getLogger(__name__)

#: Numbers that are looked at together: as many as a batch may have, and where nothing of them is to be sent,
#: twice as many each time, up to this.
WINDOW = 3_200
#: Windows without anything to send that one transaction passes.
_MAX_WINDOWS = 6
#: Least time from one batch of a replay to the next, ms: 2,000 events a second where a batch has 100.
PACE_MS = 50
#: Retryable refusals of one entry in a row, after which the replay goes on without it.
_MAX_FAILURES = 8
#: How soon a peer may ask again while one replay runs, s.
_ASK_AGAIN_S = 30

#: Outcomes of a request that say something about the replay and nothing about the connection.
OWN_OUTCOMES = frozenset({Outcome.DEAD, Outcome.STALE, Outcome.NEW_EPOCH, Outcome.WAIT})

_DELIVERY = table_of(Delivery)
_EVENT = table_of(Event)
_ENTRY = table_of(AttemptEntry)
_REPLAY = table_of(Replay)
_CONNECTION = table_of(Connection)

#: Chance for the spread of back-offs; no secret hangs on it.
_RNG = Random()  # noqa: S311


# Asked


def accept(connection_id: int, asked: wire.ReplayRequest) -> None:
    """Begin what a peer asked for. Called inside `transaction()` with the connection locked.

    The same request under another message id changes nothing while it runs. Raises RateLimited while
    another one runs or its end waits to be sent, ReplayGone for an epoch that nobody knows, or a range of
    which nothing is kept.
    """
    running = _running(connection_id)
    if running is not None:
        if running.replay_id == asked.replay_id:
            return
        raise RateLimited("one replay at a time: another one runs", retry_after_s=_ASK_AGAIN_S)
    if _is_end_unsent(connection_id):
        raise RateLimited(
            "one replay at a time: the end of another is not told yet", retry_after_s=_ASK_AGAIN_S
        )
    stream = _stream_of(connection_id, asked)
    first = asked.from_sequence or 1
    last = min(asked.to_sequence or stream.head_sequence, stream.head_sequence)
    oldest = oldest_kept(connection_id, stream)
    if first <= last and (last < oldest or _is_before(connection_id, stream, oldest, asked.until)):
        raise ReplayGone("nothing of it is kept any more", stream_epoch=stream.epoch, oldest_sequence=oldest)
    replay = _write_down(connection_id, asked, stream, first, last)
    if first < oldest and first <= last:
        gaps.tell_range(connection_id, stream.epoch, first, oldest - 1, GapReason.ERASED)
        replay.done_to = replay.gaps_told_to = oldest - 1
    dispatch.wake([connection_id])
    log.info(
        "replay.accepted",
        extra={"connection_id": connection_id, "replay_id": asked.replay_id, "from": first, "to": last},
    )


def oldest_kept(connection_id: int, stream: Stream) -> int:
    """The lowest number of the stream that is still kept; the one after the head if none is."""
    # One look into the index for each state, however many rows there are.
    lowest = [
        sa.select(_DELIVERY.c.sequence)
        .where(
            _DELIVERY.c.connection_id == connection_id,
            _DELIVERY.c.state == state,
            _DELIVERY.c.sequence.is_not(None),
            _DELIVERY.c.stream_id == stream.id,
        )
        .order_by(_DELIVERY.c.sequence, _DELIVERY.c.id)
        .limit(1)
        for state in DeliveryState
    ]
    found = [db.session.scalar(query) for query in lowest]
    return min((sequence for sequence in found if sequence is not None), default=stream.head_sequence + 1)


def _running(connection_id: int) -> Replay | None:
    return db.session.scalar(
        sa.select(Replay)
        .where(
            Replay.connection_id == connection_id,
            Replay.direction == Direction.OUTGOING,
            Replay.state == ReplayState.RUNNING,
        )
        .limit(1)
        .execution_options(populate_existing=True)
    )


def _is_end_unsent(connection_id: int) -> bool:
    """Whether a `replay.complete` waits behind other messages, such as the gaps of its replay.

    A peer that answers none of them could else have us queue the same gaps again with each request. The one
    that is first in line counts as sent: who got it may ask before its answer is here.
    """
    end = controls.waiting(connection_id, ControlType.REPLAY_COMPLETE)
    if end is None:
        return False
    first = sa.select(sa.func.min(ControlOut.control_sequence)).where(
        ControlOut.connection_id == connection_id, ControlOut.state.in_(controls.OPEN)
    )
    return db.session.scalars(first).one() < end.control_sequence


def _stream_of(connection_id: int, asked: wire.ReplayRequest) -> Stream:
    current = streams.newest(connection_id, Direction.OUTGOING)
    if asked.stream_epoch is None or (current is not None and asked.stream_epoch == current.epoch):
        found = current
    else:
        found = streams.of_epoch(connection_id, Direction.OUTGOING, asked.stream_epoch)
    if found is None:
        raise ReplayGone(
            "nobody here knows this epoch",
            stream_epoch=None if current is None else current.epoch,
            oldest_sequence=1 if current is None else oldest_kept(connection_id, current),
        )
    return found


def _is_before(connection_id: int, stream: Stream, oldest: int, until: int | None) -> bool:
    """Whether a range of time ends before the oldest event that is kept, and older ones were there."""
    if until is None or oldest == 1:
        return False
    timestamp = db.session.scalar(
        sa.select(_EVENT.c.timestamp)
        .join_from(_DELIVERY, _EVENT, _EVENT.c.id == _DELIVERY.c.event_id)
        .where(*resend.numbers_between(connection_id, stream.id, oldest, oldest))
        .limit(1)
    )
    return timestamp is None or until < timestamp


def _write_down(
    connection_id: int, asked: wire.ReplayRequest, stream: Stream, first: int, last: int
) -> Replay:
    now = now_ms()
    replay = db.session.scalar(
        sa.select(Replay)
        .where(
            Replay.connection_id == connection_id,
            Replay.direction == Direction.OUTGOING,
            Replay.replay_id == asked.replay_id,
        )
        .execution_options(populate_existing=True)
    )
    if replay is None:
        workspace_id = db.session.execute(
            sa.select(Connection.workspace_id).where(Connection.id == connection_id)
        ).scalar_one()
        replay = Replay(
            workspace_id=workspace_id,
            connection_id=connection_id,
            direction=Direction.OUTGOING,
            replay_id=asked.replay_id,
            requested_by="peer",
            created_at=now,
        )
        db.session.add(replay)
    replay.state = ReplayState.RUNNING
    replay.stream_epoch = asked.stream_epoch
    replay.from_sequence, replay.to_sequence = asked.from_sequence, asked.to_sequence
    replay.since, replay.until = asked.since, asked.until
    replay.event_types = None if asked.event_types is None else json.dumps(list(asked.event_types))
    replay.stream_id = stream.id
    replay.first_sequence, replay.last_sequence = first, last
    replay.done_to = replay.gaps_told_to = first - 1
    replay.count = replay.stored = replay.refused = replay.failures = 0
    replay.error_code = replay.error_detail = replay.finished_at = None
    replay.due_at = replay.updated_at = now
    db.session.flush()
    return replay


# Served


def next_batch(target: Target, now: int, most: int) -> Batch | None:
    """The next batch of the replay that runs over the connection; None if none is due, or it is complete now.

    Called inside `transaction()` with the connection's lease held.
    """
    replay = _running(target.connection_id)
    if replay is None or replay.due_at > now:
        return None
    stream = db.session.get_one(Stream, replay.stream_id, populate_existing=True)
    chooser = resend.Chooser(target, replay, stream, min(most, target.max_batch_events))
    for passed in range(_MAX_WINDOWS):
        if replay.done_to >= (replay.last_sequence or 0):
            _complete(replay)
            return None
        batch = chooser.next(min(WINDOW, chooser.most << passed))
        if batch is not None:
            replay.due_at = now + PACE_MS
            return batch
    return None


def is_due(connection_id: int, at: int) -> bool:
    """Whether the replay that runs over the connection, if one does, may go on by this time (ms)."""
    replay = _running(connection_id)
    return replay is not None and replay.due_at <= at


def _complete(replay: Replay) -> None:
    """All is sent and acknowledged, or told: say so."""
    now = now_ms()
    replay.state = ReplayState.COMPLETE
    replay.finished_at = replay.updated_at = now
    queue_control(
        lifecycle.lock(replay.connection_id),
        ControlType.REPLAY_COMPLETE,
        wire.ReplayComplete(replay.replay_id, replay.count, more_available=False),
    )
    log.info(
        "replay.complete",
        extra={
            "connection_id": replay.connection_id,
            "replay_id": replay.replay_id,
            "count": replay.count,
            "ms": now - replay.created_at,
        },
    )


# Recorded


def record_acked(
    batch: Batch, verdicts: Sequence[AckEntry], outcomes: Sequence[Outcome], attempt_id: int, now: int
) -> None:
    """Take the peer's word for each entry. Called inside `transaction()`."""
    replay = _of(batch)
    received = [
        (entry, verdict)
        for entry, verdict, outcome in zip(batch.entries, verdicts, outcomes, strict=True)
        if outcome is Outcome.ACKED
    ]
    _note_attempts(batch, verdicts, attempt_id)
    mark_delivered([entry.delivery_id for entry, _ in received], now, attempt_id)
    sum_up([entry.event_id for entry, _ in received])
    if replay is None:
        return
    replay.untold_waits = 0
    replay.count += len(received)
    replay.stored += sum(verdict.status == "stored" for _, verdict in received)
    replay.updated_at = now
    again = next((e for e, o in zip(batch.entries, outcomes, strict=True) if o is Outcome.RETRY), None)
    if again is not None and replay.failures < _MAX_FAILURES:
        replay.failures += 1
        replay.due_at = now + retry_delay(replay.failures - 1, _RNG)
        replay.done_to = max(replay.done_to, again.sequence - 1)
        return
    replay.failures = 0
    replay.refused += len(batch.entries) - len(received)
    _advance(replay, batch)


def follow(batch: Batch, outcome: Outcome, code: str | None, retry_after: str | None, now: int) -> int | None:
    """Take a refusal of the whole request that concerns the replay alone (OWN_OUTCOMES).

    Live deliveries go on meanwhile. Returns how many the next batch may have, None for as many as usual.
    Called inside `transaction()`.
    """
    replay = _of(batch)
    if replay is None:
        return None
    replay.updated_at = now
    replay.error_code = None if code is None else code[:64]
    if outcome is Outcome.WAIT:
        told = parse_retry_after(retry_after, now)
        replay.due_at = now + (told or untold_wait(replay.untold_waits, _RNG))
        replay.untold_waits = 0 if told else replay.untold_waits + 1
        return None
    replay.refused += len(batch.entries)
    if outcome is not Outcome.NEW_EPOCH:
        for entry in batch.entries:
            gaps.tell_range(
                replay.connection_id, batch.epoch, entry.sequence, entry.sequence, GapReason.REFUSED
            )
    _advance(replay, batch)
    return 1 if len(batch.entries) == 1 else None


def _of(batch: Batch) -> Replay | None:
    """The replay of the batch, if it still runs."""
    if batch.resent is None:
        return None
    replay = db.session.get(Replay, batch.resent.replay_row, populate_existing=True)
    return replay if replay is not None and replay.state is ReplayState.RUNNING else None


def _advance(replay: Replay, batch: Batch) -> None:
    """The numbers of the batch are done; if they were the last, so is the replay."""
    if batch.resent is not None:
        replay.done_to = max(replay.done_to, batch.resent.done_to)
    if replay.done_to >= (replay.last_sequence or 0):
        _complete(replay)


def _note_attempts(batch: Batch, verdicts: Sequence[AckEntry], attempt_id: int) -> None:
    """Add the request to the attempts of each delivery; the one that ended it keeps its number."""
    connection = db.session.connection()
    # Retention may have deleted some while they were away: replays reach as far back as it does.
    ids = set(
        connection.execute(
            sa.select(_DELIVERY.c.id)
            .where(_DELIVERY.c.id.in_([entry.delivery_id for entry in batch.entries]))
            .order_by(_DELIVERY.c.id)
            .with_for_update()
        ).scalars()
    )
    if not ids:
        return
    has_entry = sa.exists().where(
        _ENTRY.c.delivery_id == _DELIVERY.c.id, _ENTRY.c.attempt_id == _DELIVERY.c.attempt_id
    )
    connection.execute(
        sa.insert(_ENTRY).from_select(
            ["delivery_id", "attempt_id", "number", "trigger"],
            sa.select(
                _DELIVERY.c.id, _DELIVERY.c.attempt_id, _DELIVERY.c.attempts, _DELIVERY.c.trigger
            ).where(_DELIVERY.c.id.in_(ids), _DELIVERY.c.attempt_id.is_not(None), ~has_entry),
        )
    )
    connection.execute(
        sa.insert(_ENTRY),
        [
            {
                "delivery_id": entry.delivery_id,
                "attempt_id": attempt_id,
                "number": entry.number,
                "trigger": entry.trigger,
                "error_code": None if verdict.error is None else verdict.error.code[:64],
                "error_detail": None if verdict.error is None else verdict.error.detail,
            }
            for entry, verdict in zip(batch.entries, verdicts, strict=True)
            if entry.delivery_id in ids
        ],
    )
    connection.execute(
        sa.update(_DELIVERY).where(_DELIVERY.c.id.in_(ids)).values(attempts=_DELIVERY.c.attempts + 1)
    )


# Kept going


def wake_due(limit: int = 200) -> int:
    """Wake the drains of connections whose replay can go on. How many. Needs nothing that Redis keeps."""
    now = now_ms()
    due = (
        db.session.connection()
        .execute(
            sa.select(_REPLAY.c.connection_id, _CONNECTION.c.failures)
            .join_from(_REPLAY, _CONNECTION, _CONNECTION.c.id == _REPLAY.c.connection_id)
            .where(
                _REPLAY.c.direction == Direction.OUTGOING,
                _REPLAY.c.state == ReplayState.RUNNING,
                _REPLAY.c.due_at <= now,
                sending_clause(),
                _CONNECTION.c.retry_at <= now,
                _CONNECTION.c.drain_owner.is_(None),
            )
            .order_by(_REPLAY.c.due_at)
            .limit(limit)
        )
        .all()
    )
    db.session.rollback()
    for connection_id, failures in due:
        wake_drain(connection_id, failing=failures > 0)
    return len(due)


def connection_closed(connection_id: int) -> None:
    """The connection has ended, and so has what it was being sent again. Inside the caller's transaction."""
    now = now_ms()
    db.session.execute(
        sa.update(Replay)
        .where(
            Replay.connection_id == connection_id,
            Replay.direction == Direction.OUTGOING,
            Replay.state.in_(OPEN_REPLAY),
        )
        .values(
            state=ReplayState.FAILED,
            error_code="connection_closed",
            error_detail="The connection has ended.",
            updated_at=now,
            finished_at=now,
        )
    )
