"""Resend: which numbers of a replay are sent again, window by window, and what is told of the others."""

import json
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from app.database import db, table_of
from app.federation import streams
from app.federation.subscriptions import granted_patterns
from app.models import Delivery, Direction, Event, Replay, Stream
from app.outbox import claim, gaps
from app.outbox.claim import Batch, Entry, Resent, is_granted
from app.outbox.epochs import Counter
from app.outbox.target import Target
from app.protocol.control import GapReason
from app.protocol.states import DeliveryState

_SENT = frozenset({DeliveryState.DELIVERED, DeliveryState.DEAD})
_WAITING = frozenset({DeliveryState.PENDING, DeliveryState.SENDING})

_DELIVERY = table_of(Delivery)
_EVENT = table_of(Event)


def numbers_between(connection_id: int, stream_id: int, start: int, end: int) -> list[sa.ColumnElement[bool]]:
    """The deliveries of one stream with numbers in a range, as the index on state and number finds them."""
    return [
        _DELIVERY.c.connection_id == connection_id,
        _DELIVERY.c.state.in_(list(DeliveryState)),
        _DELIVERY.c.sequence.between(start, end),
        _DELIVERY.c.stream_id == stream_id,
    ]


class Chooser:
    """Goes through the numbers of a replay: what is sent again, and what is told instead."""

    def __init__(self, target: Target, replay: Replay, stream: Stream, most: int) -> None:
        self.target, self.replay, self.stream, self.most = target, replay, stream, most
        self.granted = frozenset(granted_patterns(target.connection_id))
        self.wanted = None if replay.event_types is None else frozenset(json.loads(replay.event_types))
        newest = streams.newest(target.connection_id, Direction.OUTGOING)
        self.is_current = newest is not None and newest.id == stream.id

    def next(self, window: int) -> Batch | None:
        """The next batch; None if the window has nothing to send, which is done then."""
        start = self.replay.done_to + 1
        end = min(self.replay.done_to + window, self.replay.last_sequence or 0)
        rows = {row.sequence: row for row in self._read(start, end)}
        chosen = [row for row in rows.values() if self._is_sent(row)]
        if len(chosen) > self.most:
            chosen = chosen[: self.most]
            end = chosen[-1].sequence
        sized = claim.sized(self._with_events(chosen))
        sendable = [(row, size) for row, size in sized if claim.is_sendable(self.target, size)]
        fitting = claim.fitting(sendable, self.target.max_request_bytes, claim.REPLAY_BYTES)
        if len(fitting) < len(sendable):
            end = fitting[-1].sequence
        too_large = [row.sequence for row, size in sized if not claim.is_sendable(self.target, size)]
        self._tell_gaps(start, end, rows, too_large)
        if not fitting:
            self.replay.done_to = end
            return None
        return self._batch(fitting, end)

    def _read(self, start: int, end: int) -> Sequence[Any]:
        query = sa.select(
            _DELIVERY.c.id,
            _DELIVERY.c.event_id,
            _DELIVERY.c.sequence,
            _DELIVERY.c.state,
            _DELIVERY.c.event_type,
            _DELIVERY.c.attempts,
            _DELIVERY.c.refusals,
        ).where(*numbers_between(self.target.connection_id, self.stream.id, start, end))
        if self.replay.since is not None or self.replay.until is not None:
            query = query.add_columns(_EVENT.c.timestamp).join_from(
                _DELIVERY, _EVENT, _EVENT.c.id == _DELIVERY.c.event_id
            )
        return db.session.connection().execute(query.order_by(_DELIVERY.c.sequence)).all()

    def _is_sent(self, row: Any) -> bool:
        return row.state in _SENT and is_granted(row.event_type, self.granted) and self._is_wanted(row)

    def _is_wanted(self, row: Any) -> bool:
        replay = self.replay
        return (
            (self.wanted is None or is_granted(row.event_type, self.wanted))
            and (replay.since is None or row.timestamp >= replay.since)
            and (replay.until is None or row.timestamp <= replay.until)
        )

    def _with_events(self, chosen: Sequence[Any]) -> list[Any]:
        """The rows with the signed texts of their events, in a form that this peer can verify."""
        found = db.session.connection().execute(
            sa.select(_EVENT.c.id.label("event_id"), *claim.EVENT_COLUMNS).where(
                _EVENT.c.id.in_([row.event_id for row in chosen])
            )
        )
        events: Mapping[int, Any] = {row.event_id: row for row in found}
        whole = [SimpleNamespace(**{**row._mapping, **events[row.event_id]._mapping}) for row in chosen]
        return claim.signed_for(self.target, whole)

    def _tell_gaps(self, start: int, end: int, rows: Mapping[int, Any], too_large: Iterable[int]) -> None:
        """Say of which numbers nothing can be sent any more, once."""
        barred = set(too_large)
        reasons: dict[GapReason, list[int]] = {}
        for sequence in range(max(start, self.replay.gaps_told_to + 1), end + 1):
            row = rows.get(sequence)
            if row is None:
                # Retention takes from below; what is missing above was numbered anew in a later epoch.
                reason = GapReason.ERASED if self.is_current else GapReason.WITHDRAWN
            elif row.state in _WAITING or (row.state in _SENT and not self._is_wanted(row)):
                continue
            elif row.state not in _SENT or not is_granted(row.event_type, self.granted):
                reason = GapReason.WITHDRAWN
            elif sequence in barred:
                reason = GapReason.REFUSED
            else:
                continue
            reasons.setdefault(reason, []).append(sequence)
        for reason, numbers in reasons.items():
            for first, last in gaps.runs(numbers):
                gaps.tell_range(self.target.connection_id, self.stream.epoch, first, last, reason)
        self.replay.gaps_told_to = max(self.replay.gaps_told_to, end)

    def _batch(self, rows: Sequence[Any], done_to: int) -> Batch:
        batch_id = str(uuid4())
        stream = self.stream
        counter = Counter(stream.id, stream.epoch, stream.head_sequence, stream.created_at)
        sequences = [row.sequence for row in rows]
        return Batch(
            batch_id,
            stream.id,
            stream.epoch,
            stream.created_at,
            [
                Entry(
                    row.id,
                    row.event_id,
                    row.sequence,
                    row.event_type,
                    row.message_id,
                    row.digest,
                    row.attempts + 1,
                    row.refusals,
                    "replay",
                    row.timestamp,
                )
                for row in rows
            ],
            claim.write_body(self.target, counter, batch_id, rows, sequences, self.replay.replay_id),
            Resent(self.replay.id, done_to),
        )
