"""Record: write down what an attempt brought, in one transaction, and what follows from it.

    verified ack      each entry by itself: delivered, again later under its number, or dead
    anything else     the request as a whole, by `app.protocol.answers`: wait, hold, halve, dead, new epoch

The breaker (§8): five requests in a row that brought no answer, or a 5xx, open it. From then on one request
with one event goes at 30 s, 1, 2, 4 … 60 min; any other answer closes it, and so does whatever the peer says
to us (`receiving.heard_from`) and a person (`connections.retry_now`). All of it is columns of the connection.

Called inside `transaction()` with the connection's lease held. Whatever the lease says, a verified ack is
always recorded: what the peer stored is delivered.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

import sqlalchemy as sa

from app import metrics
from app.backoff import (
    BREAKER_FAILURES,
    is_breaker_open,
    parse_retry_after,
    probe_delay,
    retry_delay,
    untold_wait,
)
from app.database import db, table_of
from app.federation.lifecycle import NO_WAIT
from app.models import Attempt, AttemptEntry, Connection, Delivery, Direction, Subscription
from app.outbox import finish, replay
from app.outbox.acknowledge import mark_dead, mark_delivered
from app.outbox.claim import Batch, Entry
from app.outbox.epochs import current_counter, new_epoch, note_contiguous
from app.outbox.rollup import sum_up
from app.outbox.target import Target
from app.outbox.withdraw import withdraw_lost
from app.protocol.answers import SUSPECT_STATUSES, Outcome, decide, decide_entry
from app.protocol.errors import ProblemAnswer
from app.protocol.event_types import matches
from app.protocol.messages import EPOCH_MIN_MS, AckEntry, VerifiedAckBatch
from app.protocol.states import DeliveryState, SubscriptionStatus

log = logging.getLogger(__name__)

#: As much of an answer that is no ack as is kept, bytes.
MAX_KEPT_BODY = 16 * 1024

#: `last_delivered_at` and the clock skew of answers that are acks are written at most this often, ms.
SEEN_EVERY_MS = 1_000

_ATTEMPT = table_of(Attempt)
_ENTRY = table_of(AttemptEntry)
_CONNECTION = table_of(Connection)
_DELIVERY = table_of(Delivery)
_SUBSCRIPTION = table_of(Subscription)


class Reply(NamedTuple):
    """What a request brought: an answer with or without a verified ack, or an error on the way."""

    started_at: int
    duration_ms: int
    #: None if no answer came.
    status: int | None = None
    body: bytes = b""
    retry_after: str | None = None
    ack: VerifiedAckBatch | None = None
    problem: ProblemAnswer | None = None
    error_code: str | None = None
    error_detail: str | None = None
    #: The peer's clock minus ours, ms, if the answer told it.
    clock_skew_ms: int | None = None


class Next(NamedTuple):
    """How the drain goes on: whether at once, and with at most how many events."""

    go_on: bool
    most: int | None = None


def record_acked(target: Target, batch: Batch, reply: Reply, now: int) -> Next:
    """Take a verified ack batch: every entry by itself."""
    ack = reply.ack
    assert ack is not None  # noqa: S101 - the caller chose by it
    attempt_id = _store_attempt(target, batch, reply)
    outcomes = [decide_entry(a.received, *_error_of(a)) for a in ack.acks]
    if batch.resent is not None:
        replay.record_acked(batch, ack.acks, outcomes, attempt_id, now)
        note_contiguous(batch.stream_id, ack.contiguous)
        _note_success(target, reply.clock_skew_ms, now)
        return Next(go_on=True)
    delivered = [e.delivery_id for e, o in zip(batch.entries, outcomes, strict=True) if o is Outcome.ACKED]
    mark_delivered(delivered, now, attempt_id)
    counted = {outcome.name.lower(): number for outcome, number in Counter(outcomes).items()}
    metrics.count_request("acked", counted, reply.duration_ms)
    refused = [
        (entry, verdict, outcome)
        for entry, verdict, outcome in zip(batch.entries, ack.acks, outcomes, strict=True)
        if outcome is not Outcome.ACKED
    ]
    if refused:
        _record_refused(target, refused, attempt_id, now)
        withdraw_lost(target.connection_id, {entry.event_type for entry, _, _ in refused})
    sum_up([entry.event_id for entry in batch.entries])
    note_contiguous(batch.stream_id, ack.contiguous)
    _note_success(target, reply.clock_skew_ms, now)
    log.info(
        "delivery.acked",
        extra={
            "connection_id": target.connection_id,
            "batch_id": batch.batch_id,
            "size": len(batch.entries),
            "refused": len(refused),
            "contiguous": ack.contiguous,
            "ms": reply.duration_ms,
        },
    )
    if any(outcome is Outcome.NEW_EPOCH for outcome in outcomes):
        return _start_epoch(target, batch, now)
    return Next(go_on=True)


def record_failed(target: Target, batch: Batch, reply: Reply, now: int, rng: Random) -> Next:
    """Take anything but a verified ack: the request as a whole."""
    code = reply.problem.code if reply.problem else None
    outcome = decide(
        reply.status or 0,
        code,
        len(batch.entries),
        is_second_in_a_row=len(batch.entries) == 1 and _was_suspect(target.connection_id),
    )
    attempt_id = _store_attempt(target, batch, reply)
    if batch.resent is None:
        _take_back(batch, reply, outcome, attempt_id)
    name = outcome.name.lower()
    metrics.count_request(name, {name: len(batch.entries)}, reply.duration_ms)
    log.info(
        "delivery.failed",
        extra={
            "connection_id": target.connection_id,
            "batch_id": batch.batch_id,
            "size": len(batch.entries),
            "outcome": name,
            "status": reply.status,
            "code": reply.error_code,
            "ms": reply.duration_ms,
            "probe": target.is_probe,
        },
    )
    if reply.clock_skew_ms is not None:
        _change(target, clock_skew_ms=reply.clock_skew_ms, clock_skew_at=now)
    if outcome is Outcome.RETRY:
        _fail(target, reply, now, rng)
    elif target.is_ailing:
        # It answered, and refused for reasons of its own: the row of failures has ended.
        _change(target, **NO_WAIT)
    if batch.resent is not None and outcome in replay.OWN_OUTCOMES:
        return Next(True, replay.follow(batch, outcome, reply.error_code, reply.retry_after, now))
    after = _follow(target, batch, reply, outcome, now)
    withdraw_lost(target.connection_id, {entry.event_type for entry in batch.entries})
    return after


def _take_back(batch: Batch, reply: Reply, outcome: Outcome, attempt_id: int) -> None:
    """Let the deliveries of a request that brought no ack wait again."""
    again: dict[str, Any]
    if outcome in _NO_ATTEMPT:
        again = {"attempts": _DELIVERY.c.attempts - 1}
    else:
        _store_entries(batch.entries, attempt_id, reply.error_code, reply.error_detail)
        # Whoever asked for one to be sent again got his try; from here on its age decides once more.
        again = {"trigger": "auto"} if outcome is Outcome.RETRY else {}
    _put_back(batch.entries, attempt_id, reply.error_code, reply.error_detail, **again)


def _follow(target: Target, batch: Batch, reply: Reply, outcome: Outcome, now: int) -> Next:
    match outcome:
        case Outcome.HALVE:
            return Next(go_on=True, most=max(1, len(batch.entries) // 2))
        case Outcome.DEAD | Outcome.STALE:
            _give_up(target, batch, reply, stale=outcome is Outcome.STALE, now=now)
            return Next(go_on=True, most=1)
        case Outcome.NEW_EPOCH:
            return _start_epoch(target, batch, now)
        case Outcome.WAIT:
            _wait(target, reply, now)
        case Outcome.HOLD | Outcome.ALERT:
            _hold(target, reply, now, alert=outcome is Outcome.ALERT)
    return Next(go_on=False)


def _wait(target: Target, reply: Reply, now: int) -> None:
    """Note a wait: as long as the peer says, else longer each time, so that it is not asked for ever."""
    told = parse_retry_after(reply.retry_after, now)
    _change(
        target,
        retry_at=now + (told or untold_wait(target.untold_waits, _RNG)),
        untold_waits=0 if told else target.untold_waits + 1,
        **_why(reply),
    )


#: What burns no attempt of the events: they are held, or the peer asked for a wait (§8).
_NO_ATTEMPT = frozenset({Outcome.WAIT, Outcome.HOLD, Outcome.ALERT})

_FAILURES = sa.select(
    _CONNECTION.c.failures, _CONNECTION.c.network_failures, _CONNECTION.c.breaker_opened_at
).where(_CONNECTION.c.id == sa.bindparam("connection_id"))


def _fail(target: Target, reply: Reply, now: int, rng: Random) -> None:
    """Note a failure: when the next request may go, and whether the breaker opens, or stays open."""
    # Read now: what the peer said to us while the request was under way may have closed it.
    row = db.session.connection().execute(_FAILURES, {"connection_id": target.connection_id}).one()
    # `clock_skew` is a failure too, but of a peer that answers.
    network = 0 if _is_answered(reply) else row.network_failures + 1
    opened_at = (row.breaker_opened_at or now) if is_breaker_open(network) else None
    delay = retry_delay(row.failures, rng) if opened_at is None else probe_delay(network - BREAKER_FAILURES)
    _change(
        target,
        failures=row.failures + 1,
        network_failures=network,
        breaker_opened_at=opened_at,
        retry_at=now + delay,
        **_why(reply),
    )
    if opened_at == now:
        metrics.BREAKERS_OPENED.inc()
        log.warning("breaker.opened", extra={"connection_id": target.connection_id, "code": reply.error_code})


def _is_answered(reply: Reply) -> bool:
    return reply.problem is not None and reply.problem.status < 500


def _why(reply: Reply) -> dict[str, str | None]:
    """What is kept of a failure, or of a wish to wait, beside the wait."""
    code = reply.error_code
    return {"wait_code": code and code[:64], "wait_detail": reply.error_detail}


def _error_of(verdict: AckEntry) -> tuple[str | None, bool]:
    return (None, False) if verdict.error is None else (verdict.error.code, verdict.error.retryable)


def _store_attempt(target: Target, batch: Batch, reply: Reply) -> int:
    kept = (
        None if reply.ack else reply.body[:MAX_KEPT_BODY].decode("utf-8", "replace").replace("\0", "\ufffd")
    )
    row = db.session.connection().execute(
        _INSERT_ATTEMPT,
        {
            "connection_id": target.connection_id,
            "batch_id": batch.batch_id,
            "size": len(batch.entries),
            "started_at": reply.started_at,
            "duration_ms": reply.duration_ms,
            "status_code": reply.status,
            "error_code": reply.error_code and reply.error_code[:64],
            "error_detail": reply.error_detail,
            "response_body": kept or None,
            "ack": reply.body.decode() if reply.ack else None,
        },
    )
    return int(row.scalar_one())


_INSERT_ATTEMPT = sa.insert(_ATTEMPT).returning(_ATTEMPT.c.id)


def _store_entries(entries: Sequence[Entry], attempt_id: int, code: str | None, detail: str | None) -> None:
    """A row for each delivery that this attempt did not bring there."""
    db.session.connection().execute(
        sa.insert(_ENTRY),
        [
            {
                "delivery_id": entry.delivery_id,
                "attempt_id": attempt_id,
                "number": entry.number,
                "trigger": entry.trigger,
                "error_code": code and code[:64],
                "error_detail": detail,
            }
            for entry in entries
        ],
    )


def _put_back(
    entries: Sequence[Entry], attempt_id: int, code: str | None, detail: str | None, **more: Any
) -> None:
    """Let deliveries wait again, unless they were delivered or ended meanwhile."""
    db.session.connection().execute(
        sa.update(_DELIVERY)
        .where(
            _DELIVERY.c.id.in_([entry.delivery_id for entry in entries]),
            _DELIVERY.c.state == DeliveryState.SENDING,
        )
        .values(
            state=DeliveryState.PENDING,
            attempt_id=attempt_id,
            error_code=code and code[:64],
            error_detail=detail,
            **more,
        )
    )


def _record_refused(
    target: Target, refused: Sequence[tuple[Entry, AckEntry, Outcome]], attempt_id: int, now: int
) -> None:
    """Entries that the peer refused, few as they are, one by one."""
    for entry, verdict, outcome in refused:
        error = verdict.error
        assert error is not None  # noqa: S101 - the parser refuses a rejection without one
        _store_entries([entry], attempt_id, error.code, error.detail)
        if outcome in (Outcome.DEAD, Outcome.STALE):
            mark_dead([entry.delivery_id], error.code, error.detail, attempt_id)
        else:
            due = now if outcome is Outcome.NEW_EPOCH else now + retry_delay(entry.refusals, _RNG)
            _put_back(
                [entry],
                attempt_id,
                error.code,
                error.detail,
                refusals=_DELIVERY.c.refusals + 1,
                next_attempt_at=due,
            )
        if outcome is Outcome.STALE:
            flag_stale(target.connection_id, entry.event_type, now)
        log.info(
            "delivery.refused",
            extra={
                "connection_id": target.connection_id,
                "message_id": entry.message_id,
                "sequence": entry.sequence,
                "code": error.code,
                "outcome": outcome.name.lower(),
            },
        )


#: Chance for the spread of back-offs; no secret hangs on it.
_RNG = Random()  # noqa: S311


def flag_stale(connection_id: int, event_type: str, now: int) -> None:
    """Note at the grants that cover the type that the peer says it did not ask for it."""
    grants = db.session.connection().execute(
        sa.select(_SUBSCRIPTION.c.id, _SUBSCRIPTION.c.granted_event_type).where(
            _SUBSCRIPTION.c.connection_id == connection_id,
            _SUBSCRIPTION.c.direction == Direction.OUTGOING,
            _SUBSCRIPTION.c.status == SubscriptionStatus.ACTIVE,
            _SUBSCRIPTION.c.granted_event_type.is_not(None),
        )
    )
    covering = [row.id for row in grants if matches(row.granted_event_type, event_type)]
    if covering:
        db.session.connection().execute(
            sa.update(_SUBSCRIPTION).where(_SUBSCRIPTION.c.id.in_(covering)).values(stale_at=now)
        )


class _Ended(NamedTuple):
    id: int
    event_id: int
    stream_id: int
    sequence: int


def _give_up(target: Target, batch: Batch, reply: Reply, *, stale: bool, now: int) -> None:
    """The one event of the request is refused for good: tell the peer not to wait for its number."""
    [entry] = batch.entries
    ended = _Ended(entry.delivery_id, entry.event_id, batch.stream_id, entry.sequence)
    ending = finish.refused(
        reply.error_code or "invalid_request", reply.error_detail or "refused by the peer"
    )
    finish.finish(target.connection_id, [ended], ending)
    if stale:
        flag_stale(target.connection_id, entry.event_type, now)


def _start_epoch(target: Target, batch: Batch, now: int) -> Next:
    """Number anew, unless the epoch is so young that the peer would refuse another one: then a bit later."""
    since = current_counter(target.connection_id).created_at
    new_epoch(target.connection_id)
    log.warning("stream.new_epoch", extra={"connection_id": target.connection_id, "old_epoch": batch.epoch})
    if now >= since + EPOCH_MIN_MS:
        return Next(go_on=True)
    _change(target, retry_at=since + EPOCH_MIN_MS)
    return Next(go_on=False)


def _hold(target: Target, reply: Reply, now: int, *, alert: bool) -> None:
    code = reply.error_code or "access_denied"
    if code == "access_denied":
        _change(target, denied_since=sa.func.coalesce(_CONNECTION.c.denied_since, now))
    db.session.connection().execute(
        sa.update(_CONNECTION)
        .where(_CONNECTION.c.id == target.connection_id, _CONNECTION.c.hold_code.is_(None))
        .values(hold_code=code[:64], hold_detail=reply.error_detail, hold_since=now)
    )
    log.log(
        logging.ERROR if alert else logging.WARNING,
        "connection.held",
        extra={"connection_id": target.connection_id, "code": code, "alert": alert},
    )


def _note_success(target: Target, clock_skew_ms: int | None, now: int) -> None:
    values: dict[str, Any] = {}
    if target.is_ailing:
        values |= NO_WAIT | {"denied_since": None}
        if target.is_probe:
            log.info("breaker.closed", extra={"connection_id": target.connection_id})
    if now >= target.last_delivered_at + SEEN_EVERY_MS:
        values["last_delivered_at"] = now
    if clock_skew_ms is not None and now >= target.clock_skew_at + SEEN_EVERY_MS:
        values |= {"clock_skew_ms": clock_skew_ms, "clock_skew_at": now}
    if values:
        _change(target, **values)


def _change(target: Target, **values: Any) -> None:
    db.session.connection().execute(
        sa.update(_CONNECTION).where(_CONNECTION.c.id == target.connection_id).values(**values)
    )


def _was_suspect(connection_id: int) -> bool:
    """Whether the last request held one event, and was refused with a status of SUSPECT_STATUSES."""
    last = (
        db.session.connection()
        .execute(
            sa.select(_ATTEMPT.c.size, _ATTEMPT.c.status_code)
            .where(_ATTEMPT.c.connection_id == connection_id)
            .order_by(_ATTEMPT.c.id.desc())
            .limit(1)
        )
        .one_or_none()
    )
    return last is not None and last.size == 1 and last.status_code in SUSPECT_STATUSES
