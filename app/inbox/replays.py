"""Replays that we ask for: by hand or because of holes, until the peer has served them.

    ask ──► requested ──► running ──► complete
     │   ▲       └─► refused   └─► failed: nothing came for an hour, or the connection ended
     └─► waiting: for another one over the connection to end, ours or one that the peer still serves

The sweep looks at the streams with holes (`app.inbox.holes` decides), at replays that wait, and at those of
which nothing is heard any more. One replay at a time is asked for over a connection.
"""

import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import orjson
import sqlalchemy as sa

from app import clock
from app.access import audit
from app.database import db, transaction
from app.federation import controls, lifecycle, streams
from app.inbox import holes, stream
from app.inbox.holes import Hole
from app.models import OPEN_REPLAY, Connection, Direction, Replay, ReplayState, Stream
from app.protocol import control as wire
from app.protocol import ranges
from app.protocol.control import ControlType
from app.protocol.errors import InvalidState, Problem
from app.protocol.event_types import check_pattern
from app.protocol.messages import AckStatus
from app.protocol.states import ENDED, ConnectionStatus

log = logging.getLogger(__name__)

#: A replay is given up if nothing came of it for so long, ms; what stopped it may pass.
SILENCE_MS = 3_600_000
#: A request that nobody answered is given up; longer than it is repeated, ms.
UNANSWERED_MS = 8 * 86_400_000
#: How often a stream with holes is looked at, and one that cannot be asked about, ms.
LOOK_EVERY_MS = 2_000
LOOK_LATER_MS = 30_000
#: What is asked for again after so long because the peer serves another replay, ms; and how it says so.
ASK_AGAIN_MS = 30_000
_LATER = "rate_limited"
#: Who asked, if it was nobody but the holes.
BY_HOLES = "holes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be sent again; what is given is and-ed, ranges are inclusive, times in Unix ms.

    No epoch means the current one.
    """

    stream_epoch: str | None = None
    from_sequence: int | None = None
    to_sequence: int | None = None
    since: int | None = None
    until: int | None = None
    event_types: Sequence[str] | None = None


def request(connection_id: int, wanted: Wanted, *, requested_by: str, replay_id: str | None = None) -> Replay:
    """Ask the peer to send again what it numbered for us, and wait up to 2 s for its answer. Commits.

    replay_id: a UUID of the caller's; if that was asked for already, it is returned and nothing is sent.

    Raises NotFound, InvalidState unless active, InvalidRequest at /toSequence or /until if a range ends
    before it begins, or at /eventTypes/0 and so on for what is no pattern.
    """
    wire.check_range(wanted.from_sequence, wanted.to_sequence, "/toSequence")
    wire.check_range(wanted.since, wanted.until, "/until")
    for place, pattern in enumerate(wanted.event_types or ()):
        check_pattern(pattern, f"/eventTypes/{place}")
    with transaction():
        connection = lifecycle.lock(connection_id)
        if replay_id is not None and (known := asked_for(connection_id, [replay_id])):
            return known[replay_id]
        if connection.status is not ConnectionStatus.ACTIVE:
            raise InvalidState(
                f"The connection is {connection.status.value}; only an active one can be asked."
            )
        replay = ask(connection, wanted, requested_by, replay_id)
        audit.record(
            "replay.request",
            "replay",
            replay.replay_id,
            after={name: value for name, value in asdict(wanted).items() if value is not None},
            workspace_id=connection.workspace_id,
        )
    if replay.state is ReplayState.REQUESTED:
        _wait_for_answer(connection_id)
    return db.session.get_one(Replay, replay.id, populate_existing=True)


def ask(connection: Connection, wanted: Wanted, requested_by: str, replay_id: str | None = None) -> Replay:
    """Write it down, and ask or have it wait for the one that is under way; the connection is locked."""
    now = clock.now_ms()
    waits = _is_under_way(connection.id)
    replay = Replay(
        workspace_id=connection.workspace_id,
        connection_id=connection.id,
        direction=Direction.INCOMING,
        replay_id=replay_id or str(uuid.uuid4()),
        state=ReplayState.WAITING,
        requested_by=requested_by[:255],
        stream_epoch=wanted.stream_epoch,
        from_sequence=wanted.from_sequence,
        to_sequence=wanted.to_sequence,
        since=wanted.since,
        until=wanted.until,
        event_types=None if wanted.event_types is None else json.dumps(list(wanted.event_types)),
        due_at=now,
        created_at=now,
        updated_at=now,
    )
    db.session.add(replay)
    db.session.flush()
    if not waits:
        _say(connection, replay)
    return replay


def _say(connection: Connection, replay: Replay) -> None:
    """Queue the message that asks for it."""
    now = clock.now_ms()
    replay.state = ReplayState.REQUESTED
    replay.due_at = now + UNANSWERED_MS
    replay.updated_at = now
    types = _types_of(replay)
    controls.queue_control(
        connection,
        ControlType.REPLAY_REQUEST,
        wire.ReplayRequest(
            replay_id=replay.replay_id,
            stream_epoch=replay.stream_epoch,
            from_sequence=replay.from_sequence,
            to_sequence=replay.to_sequence,
            since=replay.since,
            until=replay.until,
            event_types=None if types is None else tuple(types),
        ),
    )
    log.info(
        "replay.asked",
        extra={
            "connection_id": connection.id,
            "replay_id": replay.replay_id,
            "from": replay.from_sequence,
            "to": replay.to_sequence,
            "requested_by": replay.requested_by,
        },
    )


def _types_of(replay: Replay) -> list[str] | None:
    types: list[str] | None = None if replay.event_types is None else json.loads(replay.event_types)
    return types


def _wait_for_answer(connection_id: int) -> None:
    """Wait for the answer to what was just asked over the connection, if anything was."""
    asked = controls.waiting(connection_id, ControlType.REPLAY_REQUEST)
    if asked is not None:
        controls.wait_for_answer(asked.id)


# What comes of them


def asked_for(connection_id: int, replay_ids: Iterable[str]) -> dict[str, Replay]:
    """Those of these replays that we asked for over this connection, by replayId."""
    wanted = sorted(set(replay_ids))
    if not wanted:
        return {}
    found = db.session.scalars(
        sa.select(Replay)
        .where(
            Replay.connection_id == connection_id,
            Replay.direction == Direction.INCOMING,
            Replay.replay_id.in_(wanted),
        )
        .execution_options(populate_existing=True)
    )
    return {replay.replay_id: replay for replay in found}


def note_arrivals(
    asked: Mapping[str, Replay], verdicts: Iterable[tuple[str | None, AckStatus | Problem]]
) -> None:
    """Count what came of replays, inside the caller's transaction."""
    now = clock.now_ms()
    for replay_id, verdict in verdicts:
        replay = asked.get(replay_id or "")
        if replay is None:
            continue
        if isinstance(verdict, Problem):
            replay.refused += not verdict.retryable
        else:
            replay.count += 1
            replay.stored += verdict is AckStatus.STORED
    for replay in asked.values():
        replay.updated_at = now
        if replay.state in OPEN_REPLAY:
            # An event of it says as much as the answer to our request, which may have got lost.
            replay.state = ReplayState.RUNNING
            replay.due_at = now + SILENCE_MS


def answered(connection_id: int, replay_id: str, code: str | None, detail: str | None) -> None:
    """The peer answered our request: it begins, or (with a code) it does not. In the caller's transaction."""
    replay = asked_for(connection_id, [replay_id]).get(replay_id)
    if replay is None or replay.state is not ReplayState.REQUESTED:
        return
    if code == _LATER:
        # It still serves another one; perhaps for us, if we came back from a backup.
        replay.state = ReplayState.WAITING
        replay.due_at = clock.now_ms() + ASK_AGAIN_MS
        replay.error_code = code
    elif code is None:
        replay.error_code = None
        replay.state = ReplayState.RUNNING
        replay.due_at = clock.now_ms() + SILENCE_MS
        replay.updated_at = clock.now_ms()
    else:
        _end(replay, ReplayState.REFUSED, code, detail)


def completed(connection_id: int, said: wire.ReplayComplete) -> None:
    """The peer has served it; what it kept back is asked for at once. In the caller's transaction."""
    replay = asked_for(connection_id, [said.replay_id]).get(said.replay_id)
    if replay is None or replay.state not in OPEN_REPLAY:
        return
    _end(replay, ReplayState.COMPLETE)
    next_sequence = said.next_sequence
    goes_on = said.more_available and next_sequence is not None
    if goes_on and (next_sequence or 0) > (replay.from_sequence or 0):
        wanted = Wanted(
            stream_epoch=replay.stream_epoch,
            from_sequence=next_sequence,
            to_sequence=replay.to_sequence,
            since=replay.since,
            until=replay.until,
            event_types=_types_of(replay),
        )
        ask(lifecycle.lock(connection_id), wanted, replay.requested_by)


def _end(replay: Replay, state: ReplayState, code: str | None = None, detail: str | None = None) -> None:
    """It is over; the holes of the connection are looked at again at once."""
    now = clock.now_ms()
    replay.state = state
    replay.error_code = None if code is None else code[:64]
    replay.error_detail = None if detail is None else detail[:1000]
    replay.updated_at = replay.finished_at = now
    log.info(
        "replay.ended",
        extra={
            "connection_id": replay.connection_id,
            "replay_id": replay.replay_id,
            "state": state.value,
            "code": code,
            "count": replay.count,
            "stored": replay.stored,
        },
    )
    db.session.flush()
    db.session.execute(
        sa.update(Stream)
        .where(
            Stream.connection_id == replay.connection_id,
            Stream.direction == Direction.INCOMING,
            Stream.due_at.is_not(None),
        )
        .values(due_at=now)
    )
    db.session.execute(
        sa.update(Replay)
        .where(_ours(replay.connection_id), Replay.state == ReplayState.WAITING)
        .values(due_at=now)
    )


def _ours(connection_id: int) -> sa.ColumnElement[bool]:
    return sa.and_(Replay.connection_id == connection_id, Replay.direction == Direction.INCOMING)


# The sweep


def sweep(limit: int = 200) -> int:
    """Look at due holes and at replays that fell silent. How many. Commits each; safe to run twice."""
    now = clock.now_ms()
    due = db.session.execute(
        sa.select(Stream.id, Stream.connection_id)
        .where(Stream.direction == Direction.INCOMING, Stream.due_at <= now)
        .order_by(Stream.due_at)
        .limit(limit)
    ).all()
    silent = db.session.execute(
        sa.select(Replay.id, Replay.connection_id)
        .where(
            Replay.direction == Direction.INCOMING,
            Replay.state.in_(OPEN_REPLAY),
            Replay.due_at <= now,
        )
        .order_by(Replay.id)
        .limit(limit)
    ).all()
    db.session.rollback()
    for replay_id, connection_id in silent:
        _go_on(replay_id, connection_id)
    for stream_id, connection_id in due:
        try:
            _look_at(stream_id, connection_id)
        except Problem as problem:
            # One peer's stream keeps no other one from being looked at.
            log.warning("stream.not_looked_at", extra={"stream_id": stream_id, "detail": problem.detail})
            _put_off(stream_id, now + LOOK_LATER_MS)
    return len(due) + len(silent)


def _put_off(stream_id: int, due_at: int) -> None:
    with transaction():
        db.session.execute(sa.update(Stream).where(Stream.id == stream_id).values(due_at=due_at))


def connection_closed(connection_id: int) -> None:
    """The connection has ended, and so has what was under way over it. In the caller's transaction."""
    under_way = db.session.scalars(
        sa.select(Replay).where(
            Replay.connection_id == connection_id,
            Replay.direction == Direction.INCOMING,
            Replay.state.in_(OPEN_REPLAY),
        )
    )
    for replay in under_way.all():
        _end(replay, ReplayState.FAILED, "connection_closed", "The connection has ended.")


def _go_on(replay_row: int, connection_id: int) -> None:
    """Ask for one that waited, if it is its turn; give one up of which nothing was heard."""
    with transaction():
        connection = lifecycle.lock(connection_id)
        replay = db.session.get_one(Replay, replay_row, populate_existing=True)
        now = clock.now_ms()
        if replay.state not in OPEN_REPLAY or replay.due_at > now:
            return
        if replay.state is ReplayState.WAITING and now < replay.created_at + UNANSWERED_MS:
            if _may_ask(connection) and not _is_under_way(connection_id, but_for=replay.id):
                _say(connection, replay)
            else:
                replay.due_at = now + LOOK_EVERY_MS
            return
        if connection.status is ConnectionStatus.SUSPENDED:
            # Nothing may come meanwhile.
            replay.due_at = now + SILENCE_MS
            return
        _end(replay, ReplayState.FAILED, "no_answer", "Nothing was heard of it for long.")
        log.warning("replay.silent", extra={"connection_id": connection_id, "replay_id": replay.replay_id})


def _look_at(stream_id: int, connection_id: int) -> None:
    """Ask for the holes of one stream, or give them up, as it is their time."""
    with transaction():
        connection = lifecycle.lock(connection_id)
        incoming = db.session.get_one(Stream, stream_id, populate_existing=True)
        now = clock.now_ms()
        if incoming.due_at is None or incoming.due_at > now:
            return
        known = _revised(incoming, now)
        if connection.status in ENDED or not known:
            incoming.due_at = None
        elif not _may_ask(connection):
            incoming.due_at = now + LOOK_LATER_MS
        else:
            if not _is_under_way(connection_id):
                known = _act(connection, incoming, known, now)
            incoming.due_at = _next_look(known, now)
        incoming.holes = orjson.dumps([tuple(hole) for hole in known]).decode()


def _next_look(known: Sequence[Hole], now: int) -> int | None:
    """Soon, since new holes may appear; and not later than the first one is due."""
    coming = [hole.due for hole in known if hole.due > now]
    return min([now + LOOK_EVERY_MS, *coming]) if known else None


def _revised(incoming: Stream, now: int) -> list[Hole]:
    known = [Hole(*values) for values in orjson.loads(incoming.holes)]
    born = now if known or incoming.hole_since is None else incoming.hole_since
    missing = ranges.holes(stream.coverage_of(incoming), incoming.head_sequence)
    return holes.revise(known, missing, born)


def _act(connection: Connection, incoming: Stream, known: Sequence[Hole], now: int) -> list[Hole]:
    current = streams.newest(connection.id, Direction.INCOMING)
    plan = holes.plan(known, now, is_old=current is not None and current.id != incoming.id)
    for first, last in plan.lost:
        stream.account(incoming, first, last, stream.LOST)
        log.warning("stream.lost", extra={"connection_id": connection.id, "from": first, "to": last})
    if plan.ask is not None:
        first, last = plan.ask
        wanted = Wanted(stream_epoch=incoming.epoch, from_sequence=first, to_sequence=last)
        ask(connection, wanted, BY_HOLES)
    return plan.holes


def _may_ask(connection: Connection) -> bool:
    return (
        connection.status is ConnectionStatus.ACTIVE
        and not connection.key_review
        and not connection.paused_incoming
    )


def _is_under_way(connection_id: int, *, but_for: int | None = None) -> bool:
    """Whether a replay that we asked for has not ended; but_for: other than this one, and but what waits."""
    states = OPEN_REPLAY if but_for is None else (ReplayState.REQUESTED, ReplayState.RUNNING)
    found = db.session.scalar(
        sa.select(Replay.id)
        .where(_ours(connection_id), Replay.state.in_(states), Replay.id != (but_for or 0))
        .limit(1)
    )
    return found is not None
