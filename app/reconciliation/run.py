"""Run: one comparison from the first question to the last difference.

    start      the window is cut into slices; the first question goes out in the same transaction
    answered   equal ranges are done; of unequal ones the parts are asked about next, until both sides have
               said what they hold of so few numbers that the differences can be named and mended
    sweep      a question that was refused, or given up, ends its comparison

All of it lives in the row, and one question is under way at a time, as for all control messages. The side
that is asked keeps nothing.
"""

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from app import clock, limits, queue
from app.access import audit
from app.database import db, table_of, transaction
from app.federation import controls, lifecycle, peers, streams
from app.inbox import replays
from app.models import (
    OPEN_REPLAY,
    Connection,
    ControlOut,
    Delivery,
    Direction,
    Peer,
    Reconciliation,
    ReconciliationState,
    Replay,
    Stream,
)
from app.outbox.replay import oldest_kept
from app.protocol import comparison
from app.protocol.comparison import Answered, Held, Side, Summary
from app.protocol.control import ControlType, Reconcile
from app.protocol.errors import InvalidState, Problem, invalid
from app.protocol.members import read_uuid
from app.protocol.states import ConnectionStatus, DeliveryState
from app.reconciliation import differences
from app.reconciliation.held import held

log = logging.getLogger(__name__)

#: Name of the feature: only peers whose document lists it are asked.
FEATURE = "reconcile"

#: Numbers of a window, if nobody says another one: the newest.
WINDOW = 50_000
#: Numbers of the first questions.
SLICE = 5_000
#: Differences after which a comparison ends: so many are no accident, and a replay mends them sooner.
MAX_DIFFERENCES = 1_000
#: Questions of one comparison, of which a peer that answers sensibly needs a tenth.
MAX_ROUNDS = 2_000
#: Questions of a peer that are answered in a minute, over one connection.
ASKED_PER_MINUTE = 120
#: How often the streams that we send are compared by themselves, and idle ones, ms.
EVERY_MS = 3_600_000
IDLE_EVERY_MS = 86_400_000

#: Who asked, if it was nobody.
BY_SCHEDULE = "schedule"

Ranges = list[tuple[int, int]]

_CONNECTION = table_of(Connection)
_DELIVERY = table_of(Delivery)
_RUN = table_of(Reconciliation)


class NotOffered(InvalidState):
    """The other side does not know how to compare."""


# Asking


def start(
    connection_id: int,
    direction: Direction,
    *,
    from_sequence: int | None = None,
    to_sequence: int | None = None,
    asked_by: str | None = None,
) -> Reconciliation:
    """Begin to compare one direction of a connection with what the peer holds; its newest numbers. Commits.

    A comparison of that direction that runs already is returned instead. Raises NotFound, InvalidState unless
    the connection is active (NotOffered if the peer does not list the feature), InvalidRequest at
    /toSequence for a range that ends before it begins.
    """
    if from_sequence is not None and to_sequence is not None and to_sequence < from_sequence:
        raise invalid("/toSequence", "is before the beginning of the range", "range")
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.status is not ConnectionStatus.ACTIVE or connection.peer is None:
            raise InvalidState(f"The connection is {connection.status.value}; comparing needs an active one.")
        if FEATURE not in peers.features_of(connection.peer):
            raise NotOffered("The other side does not list `reconcile` in its instance document.")
        running = _running(connection_id, direction)
        if running is not None:
            return running
        stream = streams.newest(connection_id, direction)
        if stream is None:
            raise InvalidState("Nothing has been sent over this connection in this direction yet.")
        first, last = _window(stream, from_sequence, to_sequence)
        run = _write_down(connection, stream, first, last, asked_by or audit.current_actor().name)
        _go_on(connection, stream, run, _slices(first, last))
    return run


def _running(connection_id: int, direction: Direction) -> Reconciliation | None:
    return db.session.scalar(
        sa.select(Reconciliation)
        .where(
            Reconciliation.connection_id == connection_id,
            Reconciliation.direction == direction,
            Reconciliation.state == ReconciliationState.RUNNING,
        )
        .execution_options(populate_existing=True)
    )


def _window(stream: Stream, from_sequence: int | None, to_sequence: int | None) -> tuple[int, int]:
    """The numbers to compare: those asked for, as far as they are there and have ended here."""
    if stream.direction is Direction.OUTGOING:
        lowest, highest = oldest_kept(stream.connection_id, stream), _settled_to(stream)
    else:
        lowest, highest = 1, stream.contiguous
    last = min(highest, to_sequence) if to_sequence is not None else highest
    first = max(lowest, from_sequence if from_sequence is not None else last - WINDOW + 1)
    return first, last


def _settled_to(stream: Stream) -> int:
    """The head; or what lies before the first that is under way, if that is not far behind."""
    waiting = [
        sa.select(_DELIVERY.c.sequence)
        .where(
            _DELIVERY.c.connection_id == stream.connection_id,
            _DELIVERY.c.state == state,
            _DELIVERY.c.sequence > stream.head_sequence - comparison.MAX_NUMBERS,
            _DELIVERY.c.stream_id == stream.id,
        )
        .order_by(_DELIVERY.c.sequence)
        .limit(1)
        for state in (DeliveryState.PENDING, DeliveryState.SENDING)
    ]
    firsts = [number for query in waiting if (number := db.session.scalar(query)) is not None]
    return min(firsts) - 1 if firsts else stream.head_sequence


def _slices(first: int, last: int) -> Ranges:
    return [(low, min(low + SLICE - 1, last)) for low in range(first, last + 1, SLICE)]


def _write_down(
    connection: Connection, stream: Stream, first: int, last: int, asked_by: str
) -> Reconciliation:
    now = clock.now_ms()
    run = Reconciliation(
        public_id=str(uuid.uuid4()),
        workspace_id=connection.workspace_id,
        connection_id=connection.id,
        direction=stream.direction,
        stream_id=stream.id,
        state=ReconciliationState.RUNNING,
        asked_by=asked_by[:320],
        from_sequence=first,
        to_sequence=last,
        todo="[]",
        rounds=0,
        compared=0,
        found=0,
        repaired=0,
        differences="[]",
        created_at=now,
        updated_at=now,
    )
    db.session.add(run)
    db.session.flush()
    return run


def _go_on(connection: Connection, stream: Stream, run: Reconciliation, todo: Ranges) -> None:
    """Ask about the next ranges, or end if there are none."""
    run.updated_at = clock.now_ms()
    asked = _next_question(todo)
    run.todo = json.dumps(todo[len(asked) :])
    if not asked:
        _end(connection, stream, run)
        return
    ours = held(stream, asked)
    payload = Reconcile(
        run.public_id,
        Side.PUBLISHER if run.direction is Direction.OUTGOING else Side.SUBSCRIBER,
        stream.epoch,
        tuple(comparison.summarise(first, last, ours) for first, last in asked),
    )
    controls.queue_control(connection, ControlType.RECONCILE, payload)


def _next_question(todo: Ranges) -> Ranges:
    """As many of the first ranges, in order, as one message takes."""
    numbers, after = 0, 0
    for place, (first, last) in enumerate(todo[: comparison.MAX_RANGES]):
        numbers += last - first + 1
        if numbers > comparison.MAX_NUMBERS or first <= after:
            return todo[:place]
        after = last
    return todo[: comparison.MAX_RANGES]


# What the peer says


def answered(connection_id: int, question: dict[str, Any], payload: dict[str, Any] | None) -> None:
    """Take the peer's answer to a question of ours, inside the caller's transaction."""
    run = db.session.scalar(
        sa.select(Reconciliation).where(
            Reconciliation.public_id == question["reconciliationId"],
            Reconciliation.connection_id == connection_id,
            Reconciliation.state == ReconciliationState.RUNNING,
        )
    )
    if run is None:
        return
    connection = lifecycle.lock(connection_id)
    stream = db.session.get_one(Stream, run.stream_id)
    asked = comparison.read_summaries(question, "/payload")
    run.rounds += 1
    try:
        answers = _read(run, payload or {}, asked)
    except Problem as problem:
        where = problem.errors[0] if problem.errors else None
        detail = f"{where.pointer}: {where.detail}" if where else problem.detail
        _fail(run, "answer_invalid", detail)
        return
    todo = _unequal(connection, stream, run, asked, answers)
    if run.found >= MAX_DIFFERENCES:
        _fail(run, "too_many_differences", f"{run.found} differences; a replay mends them sooner")
    elif run.rounds >= MAX_ROUNDS:
        _fail(run, "answer_invalid", "no end of questions")
    else:
        rest = [(first, last) for first, last in json.loads(run.todo)]
        _go_on(connection, stream, run, [*todo, *rest])


def _read(run: Reconciliation, payload: dict[str, Any], asked: Sequence[Summary]) -> list[Answered]:
    if read_uuid(payload, "reconciliationId", "/payload") != run.public_id:
        raise invalid("/payload/reconciliationId", "is that of another comparison")
    return comparison.read_answer(payload, [(one.first, one.last) for one in asked])


def _unequal(
    connection: Connection,
    stream: Stream,
    run: Reconciliation,
    asked: Sequence[Summary],
    answers: Sequence[Answered],
) -> Ranges:
    """Note what was found; the ranges that have to be asked about next."""
    todo: Ranges = []
    for ours, theirs in zip(asked, answers, strict=True):
        if ours == theirs.summary:
            run.compared += ours.size
        elif theirs.entries is None:
            todo += comparison.part(ours.first, ours.last)
        else:
            run.compared += ours.size
            here = held(stream, [(ours.first, ours.last)])
            there = {entry.sequence: entry for entry in theirs.entries}
            _note(run, _compare(connection, stream, run, here, there))
    return todo


def _compare(
    connection: Connection,
    stream: Stream,
    run: Reconciliation,
    here: Mapping[int, Held],
    there: Mapping[int, Held],
) -> list[differences.Difference]:
    if run.direction is Direction.INCOMING:
        return differences.of_stored(connection, here, there, run.created_at)
    return differences.of_sent(connection, stream, here, there, run.created_at, _kept_ms(connection.peer))


def _kept_ms(peer: Peer | None) -> int:
    """How long the peer keeps events, by its document."""
    assert peer is not None  # noqa: S101 - without a peer nothing was asked
    kept: int = orjson.loads(peer.document)["limits"]["retentionMs"]
    return kept


def _note(run: Reconciliation, found: Sequence[differences.Difference]) -> None:
    if found:
        run.differences = json.dumps([*json.loads(run.differences), *(one.to_json() for one in found)])
        run.found += len(found)
        run.repaired += sum(one.repair is not None for one in found)


def _end(connection: Connection, stream: Stream, run: Reconciliation) -> None:
    _ask_for_missing(connection, stream, run)
    run.state = ReconciliationState.DONE
    run.finished_at = run.updated_at = clock.now_ms()
    _say(run)


def _ask_for_missing(connection: Connection, stream: Stream, run: Reconciliation) -> None:
    """Ask for a replay of what did not come, one for all, unless one runs already."""
    found = json.loads(run.differences)
    missing = [one for one in found if one["kind"] == "missing_here"]
    if not missing or connection.status is not ConnectionStatus.ACTIVE or _is_replaying(connection.id):
        return
    numbers = [one["sequence"] for one in missing]
    replays.ask(
        connection,
        replays.Wanted(stream_epoch=stream.epoch, from_sequence=min(numbers), to_sequence=max(numbers)),
        f"reconciliation {run.public_id}",
    )
    for one in missing:
        one["repair"] = "replay_asked"
    run.differences = json.dumps(found)
    run.repaired += len(missing)


def _is_replaying(connection_id: int) -> bool:
    return bool(
        db.session.scalar(
            sa.select(
                sa.exists().where(
                    Replay.connection_id == connection_id,
                    Replay.direction == Direction.INCOMING,
                    Replay.state.in_(OPEN_REPLAY),
                )
            )
        )
    )


def _fail(run: Reconciliation, code: str, detail: str | None) -> None:
    run.state = ReconciliationState.FAILED
    run.error_code, run.error_detail = code[:64], detail
    run.finished_at = run.updated_at = clock.now_ms()
    _say(run)


def _say(run: Reconciliation) -> None:
    log.log(
        logging.WARNING if run.found > run.repaired else logging.INFO,
        "reconciliation.ended",
        extra={
            "connection_id": run.connection_id,
            "reconciliation_id": run.public_id,
            "direction": run.direction.value,
            "from": run.from_sequence,
            "to": run.to_sequence,
            "compared": run.compared,
            "found": run.found,
            "repaired": run.repaired,
            "code": run.error_code,
        },
    )


# Being asked


def asked(connection_id: int, question: Reconcile) -> dict[str, Any]:
    """What we hold of the ranges that a peer asks about: the payload of the answer.

    Called inside `transaction()` with the connection locked. Raises RateLimited.
    """
    limits.check("reconcile", str(connection_id), per_minute=ASKED_PER_MINUTE)
    direction = Direction.INCOMING if question.side is Side.PUBLISHER else Direction.OUTGOING
    stream = streams.of_epoch(connection_id, direction, question.stream_epoch)
    ours = {} if stream is None else held(stream, [(one.first, one.last) for one in question.ranges])
    answers = comparison.answer(question.ranges, ours)
    equal = sum(theirs == one.summary for theirs, one in zip(question.ranges, answers, strict=True))
    log.info(
        "reconciliation.answered",
        extra={
            "connection_id": connection_id,
            "reconciliation_id": question.reconciliation_id,
            "ranges": len(answers),
            "equal": equal,
        },
    )
    return {
        "reconciliationId": question.reconciliation_id,
        "ranges": [one.to_wire() for one in answers],
    }


# By the clock


def sweep(limit: int = 100) -> int:
    """End comparisons whose question was refused or given up. How many. Commits."""
    open_question = sa.exists().where(
        ControlOut.connection_id == Reconciliation.connection_id,
        ControlOut.type == ControlType.RECONCILE.value,
        ControlOut.state.in_(controls.OPEN),
    )
    left = db.session.scalars(
        sa.select(Reconciliation.id)
        .where(Reconciliation.state == ReconciliationState.RUNNING, sa.not_(open_question))
        .limit(limit)
    ).all()
    db.session.rollback()
    return sum(_give_up(run_id) for run_id in left)


def _give_up(run_id: int) -> bool:
    with transaction():
        run = db.session.get_one(Reconciliation, run_id)
        lifecycle.lock(run.connection_id)
        db.session.refresh(run)
        question = controls.waiting(run.connection_id, ControlType.RECONCILE)
        if run.state is not ReconciliationState.RUNNING or question is not None:
            return False
        last = db.session.scalar(
            sa.select(ControlOut)
            .where(
                ControlOut.connection_id == run.connection_id, ControlOut.type == ControlType.RECONCILE.value
            )
            .order_by(ControlOut.control_sequence.desc())
            .limit(1)
        )
        code = last.error_code if last is not None and last.error_code else "no_answer"
        _fail(run, code, last.error_detail if last is not None else None)
        return True


def due(limit: int = 500) -> list[int]:
    """Connections whose outgoing stream has to be compared: once an hour, once a day if nothing was sent."""
    now = clock.now_ms()
    recent = sa.exists().where(
        _RUN.c.connection_id == _CONNECTION.c.id,
        _RUN.c.direction == Direction.OUTGOING,
        _RUN.c.created_at > now - EVERY_MS,
    )
    rows = db.session.execute(
        sa.select(Connection.id, Peer.document)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(Connection.status == ConnectionStatus.ACTIVE, sa.not_(recent))
        .order_by(Connection.id)
        .limit(limit)
    ).all()
    able = [row.id for row in rows if FEATURE in orjson.loads(row.document).get("features", ())]
    found = [connection_id for connection_id in able if _has_changed(connection_id, now)]
    db.session.rollback()
    return found


def _has_changed(connection_id: int, now: int) -> bool:
    """Whether something was sent since the last comparison, or that was long ago."""
    stream = streams.newest(connection_id, Direction.OUTGOING)
    if stream is None or not stream.head_sequence:
        return False
    last = db.session.execute(
        sa.select(_RUN.c.stream_id, _RUN.c.to_sequence, _RUN.c.state, _RUN.c.created_at)
        .where(_RUN.c.connection_id == connection_id, _RUN.c.direction == Direction.OUTGOING)
        .order_by(_RUN.c.id.desc())
        .limit(1)
    ).one_or_none()
    if last is None or last.created_at <= now - IDLE_EVERY_MS:
        return True
    is_same = (last.stream_id, last.to_sequence) == (stream.id, stream.head_sequence)
    return not is_same or last.state is ReconciliationState.FAILED


def begin_due() -> int:
    """Have workers begin what is due. How many."""
    found = due()
    for connection_id in found:
        queue.enqueue(queue.RECONCILE, connection_id)
    return len(found)
