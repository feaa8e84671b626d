"""Acknowledge: what a peer's signed word does to deliveries.

An answer is an ack only if everything in it holds: shape, signature by a key of that peer that may sign,
responder, connection, batch, epoch, and every entry's place, event and digest. Anything less proves nothing
and counts as no answer at all. An ack that is posted later is held to the same.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, is_sqlite, table_of
from app.many import one_of
from app.models import Connection, Delivery, Direction, Event, EventSignature
from app.outbox.claim import Batch
from app.outbox.rollup import sum_up
from app.outbox.target import Target
from app.protocol.answers import Outcome, decide_entry
from app.protocol.canonical import loads
from app.protocol.errors import Problem
from app.protocol.keys import KeyRecord
from app.protocol.messages import (
    AckEntry,
    AckError,
    AckStatus,
    EventAck,
    VerifiedAckBatch,
    VerifiedEventAck,
    parse_ack_batch,
    verify_ack_batch,
)
from app.protocol.states import DeliveryState

_WAITING = (DeliveryState.PENDING, DeliveryState.SENDING)

_DELIVERY = table_of(Delivery)
_EVENT = table_of(Event)
_FORMER = table_of(EventSignature)


class NotAnAck(Exception):
    """The answer is no ack of this batch by this peer. Its text says what does not hold."""


def read_ack_batch(
    raw: bytes, batch: Batch, target: Target, find_key: Callable[[str], KeyRecord | None]
) -> VerifiedAckBatch:
    """The verified ack of this batch, or NotAnAck."""
    hoped_for = [
        AckEntry(entry.sequence, entry.message_id, AckStatus.STORED, entry.digest) for entry in batch.entries
    ]
    try:
        ack = parse_ack_batch(loads(raw), hoped_for=hoped_for)
        expected = {
            "correlationId": (ack.correlation_id, batch.batch_id),
            "instanceId": (ack.instance_id, target.instance_id),
            "connectionId": (ack.connection_id, target.wire_connection_id),
            "streamEpoch": (ack.stream_epoch, batch.epoch),
            "acks": (
                [(entry.sequence, entry.correlation_id, entry.digest) for entry in ack.acks],
                [(entry.sequence, entry.message_id, entry.digest) for entry in batch.entries],
            ),
        }
        for name, (got, wanted) in expected.items():
            if got != wanted:
                raise NotAnAck(f"{name} is not that of the request")
        return verify_ack_batch(ack, find_key(ack.key_id))
    except Problem as problem:
        where = f" at {problem.errors[0].pointer}" if problem.errors else ""
        raise NotAnAck(f"{problem.code}{where}: {problem.detail}") from None


class _Verdict(NamedTuple):
    message_id: str
    digest: str
    received: bool
    error: AckError | None


def process_event_ack(connection: Connection, ack: VerifiedEventAck | VerifiedAckBatch) -> int:
    """Take an ack that came later, of one event or of a batch. How many deliveries it changed.

    What the peer stored is delivered, even if it was given up here. What it refuses for good becomes a dead
    letter if it still waits. Events that never went over this connection, and acks whose digest is not that
    of our event, are ignored; so is a repeat. Called inside `transaction()`; joins it.
    """
    verdicts = _verdicts_of(ack)
    rows = _sent(connection, [verdict.message_id for verdict in verdicts])
    former = _former_digests(rows, verdicts)
    received: list[int] = []
    refused: dict[tuple[str, str], list[int]] = {}
    for verdict in verdicts:
        row = rows.get(verdict.message_id)
        if row is None or verdict.digest not in (row.digest, *former.get(row.event_id, ())):
            continue
        if verdict.received and row.state is not DeliveryState.DELIVERED:
            received.append(row.id)
        elif verdict.error is not None and _ends(verdict.error) and row.state in _WAITING:
            refused.setdefault((verdict.error.code, verdict.error.detail), []).append(row.id)
    mark_delivered(received, now_ms())
    for (code, detail), ids in refused.items():
        mark_dead(ids, code, detail)
    changed = {*received, *(id_ for ids in refused.values() for id_ in ids)}
    sum_up([row.event_id for row in rows.values() if row.id in changed])
    return len(changed)


@lru_cache(maxsize=4)
def _deliver(on_sqlite: bool, by_attempt: bool) -> sa.Update:
    statement = (
        sa.update(_DELIVERY)
        .where(
            one_of(_DELIVERY.c.id, "ids", on_sqlite),
            _DELIVERY.c.state != DeliveryState.DELIVERED,
        )
        .values(
            state=DeliveryState.DELIVERED,
            delivered_at=sa.bindparam("now"),
            error_code=None,
            error_detail=None,
            ended_at=None,
        )
    )
    return statement.values(attempt_id=sa.bindparam("attempt")) if by_attempt else statement


def mark_delivered(delivery_ids: Sequence[int], now: int, attempt_id: int | None = None) -> None:
    """The peer has them, whatever was thought before."""
    if not delivery_ids:
        return
    parameters = {"ids": list(delivery_ids), "now": now}
    if attempt_id is not None:
        parameters["attempt"] = attempt_id
    db.session.connection().execute(_deliver(is_sqlite(), attempt_id is not None), parameters)


def mark_dead(delivery_ids: Sequence[int], code: str, detail: str, attempt_id: int | None = None) -> None:
    """The peer refused them for good; those that were delivered meanwhile stay so."""
    values: dict[str, Any] = {
        "state": DeliveryState.DEAD,
        "error_code": code[:64],
        "error_detail": detail,
        "ended_at": now_ms(),
    }
    if attempt_id is not None:
        values["attempt_id"] = attempt_id
    db.session.connection().execute(
        sa.update(_DELIVERY)
        .where(
            _DELIVERY.c.id.in_(delivery_ids),
            _DELIVERY.c.state.in_(_WAITING),
        )
        .values(**values)
    )


def _ends(error: AckError) -> bool:
    return decide_entry(False, error.code, error.retryable) in (Outcome.DEAD, Outcome.STALE)


def _verdicts_of(ack: VerifiedEventAck | VerifiedAckBatch) -> list[_Verdict]:
    if isinstance(ack, EventAck):
        return [_Verdict(ack.correlation_id, ack.digest, ack.received, ack.error)]
    return [_Verdict(entry.correlation_id, entry.digest, entry.received, entry.error) for entry in ack.acks]


def _former_digests(rows: dict[str, Any], verdicts: Sequence[_Verdict]) -> dict[int, list[str]]:
    """What the digests of events were, by id, before they were signed again; looked up where one differs."""
    differing = [
        rows[verdict.message_id].event_id
        for verdict in verdicts
        if verdict.message_id in rows and rows[verdict.message_id].digest != verdict.digest
    ]
    found: dict[int, list[str]] = {}
    if differing:
        kept = sa.select(_FORMER.c.event_id, _FORMER.c.digest).where(_FORMER.c.event_id.in_(differing))
        for event_id, digest in db.session.connection().execute(kept):
            found.setdefault(event_id, []).append(digest)
    return found


def _sent(connection: Connection, message_ids: Sequence[str]) -> dict[str, Any]:
    """The deliveries over this connection that were sent at least once, by messageId."""
    found = db.session.connection().execute(
        sa.select(
            _DELIVERY.c.id, _DELIVERY.c.event_id, _DELIVERY.c.state, _EVENT.c.message_id, _EVENT.c.digest
        )
        .join_from(_DELIVERY, _EVENT, _EVENT.c.id == _DELIVERY.c.event_id)
        .where(
            _EVENT.c.message_id.in_(message_ids),
            _EVENT.c.direction == Direction.OUTGOING,
            _DELIVERY.c.connection_id == connection.id,
            _DELIVERY.c.attempts > 0,
        )
        .with_for_update(of=_DELIVERY)
    )
    return {row.message_id: row for row in found}
