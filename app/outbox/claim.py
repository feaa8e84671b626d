"""Claim: take the next batch of a connection, number what is new, and write the request's body.

First what has a number already, by number; then what is new, by row number. Rows that cannot be sent any
more are finished on the way: too old, too large for the peer, or covered by no grant. Called inside
`transaction()` with the connection's lease held, which also locks the connection's row.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from app.backoff import MAX_RETRY_AGE_MS
from app.database import db, is_sqlite, table_of
from app.federation import peers
from app.federation.subscriptions import granted_patterns
from app.federation.told import withheld_key_ids
from app.many import one_of
from app.models import Delivery, Event
from app.outbox import finish, resign
from app.outbox.epochs import Counter, advance, current_counter
from app.outbox.target import Target
from app.protocol.event_types import covering_patterns
from app.protocol.messages import event_size
from app.protocol.states import DeliveryState

#: How often a claim looks again after a page on which nothing could be sent.
_MAX_PAGES = 10

#: Bytes of a batch around its events, and around each of them.
_ENVELOPE_BYTES = len(b'{"batchId":"","connectionId":"","streamEpoch":"","events":[]}') + 3 * len(
    "00000000-0000-0000-0000-000000000000"
)
_ENTRY_BYTES = len(b'{"sequence":9007199254740991,"event":},')

#: An event that is dated later than this is not sent yet, ms; a peer takes those of 300 s.
MAX_AHEAD_MS = 60_000

#: Bytes that a replayId adds to each entry.
REPLAY_BYTES = len(b',"replayId":"00000000-0000-0000-0000-000000000000"')

_DELIVERY = table_of(Delivery)
_EVENT = table_of(Event)


#: What is read of an event to send it.
EVENT_COLUMNS = (
    _EVENT.c.message_id,
    _EVENT.c.digest,
    _EVENT.c.timestamp,
    _EVENT.c.body,
    _EVENT.c.signature,
    _EVENT.c.proof,
    _EVENT.c.key_id,
)


class Entry(NamedTuple):
    """A delivery of a batch."""

    delivery_id: int
    event_id: int
    sequence: int
    event_type: str
    message_id: str
    digest: str
    #: Which try this is, from 1.
    number: int
    refusals: int
    trigger: str
    timestamp: int


class Resent(NamedTuple):
    """The replay that a batch belongs to: its row, and the last number that is done with its ack."""

    replay_row: int
    done_to: int


class Batch(NamedTuple):
    """One request: its id, its stream, what it carries, and its body."""

    batch_id: str
    stream_id: int
    epoch: str
    epoch_since: int
    entries: list[Entry]
    body: bytes
    #: None for events that are sent by themselves.
    resent: Resent | None = None


class Claim(NamedTuple):
    """A batch, or none; `more` says that there may be more although none was found."""

    batch: Batch | None
    more: bool = False


_Row = Any
#: A row, and the bytes of its event on the wire.
_Sized = tuple[_Row, int]


def _due(numbered: bool, withholding: bool = False) -> sa.Select[Any]:
    """The due rows of one kind with their events, in order; withholding: but for those signed by some keys.

    The rows are chosen first and joined then, so that no planner starts with the events. Ordering by
    (sequence, id) even where the sequence is null lets both engines read the index as it stands.
    """
    conditions = [
        _DELIVERY.c.connection_id == sa.bindparam("connection_id"),
        _DELIVERY.c.state == DeliveryState.PENDING,
        _DELIVERY.c.sequence.is_not(None) if numbered else _DELIVERY.c.sequence.is_(None),
        _DELIVERY.c.next_attempt_at <= sa.bindparam("now"),
    ]
    if withholding:
        withheld = sa.exists().where(
            _EVENT.c.id == _DELIVERY.c.event_id,
            _EVENT.c.key_id.in_(sa.bindparam("withheld", expanding=True)),
        )
        conditions.append(~withheld)
    chosen = (
        sa.select(
            _DELIVERY.c.id,
            _DELIVERY.c.event_id,
            _DELIVERY.c.stream_id,
            _DELIVERY.c.sequence,
            _DELIVERY.c.attempts,
            _DELIVERY.c.refusals,
            _DELIVERY.c.trigger,
            _DELIVERY.c.event_type,
        )
        .where(*conditions)
        .order_by(_DELIVERY.c.sequence, _DELIVERY.c.id)
        .limit(sa.bindparam("most"))
        .subquery()
    )
    return (
        sa.select(
            chosen,
            *EVENT_COLUMNS,
        )
        .join_from(chosen, _EVENT, _EVENT.c.id == chosen.c.event_id)
        .order_by(chosen.c.sequence, chosen.c.id)
    )


_NUMBERED, _NEW = _due(numbered=True), _due(numbered=False)
_NUMBERED_BUT_WITHHELD = _due(numbered=True, withholding=True)


def is_granted(event_type: str, patterns: frozenset[str]) -> bool:
    """Whether one of the patterns covers the event type."""
    return not patterns.isdisjoint(covering_patterns(event_type))


def claim(target: Target, now: int, most: int) -> Claim:
    """The next batch of at most `most` events, marked as being sent and numbered.

    A probe of an open breaker has one: the others use no attempt.
    """
    withheld = withheld_key_ids(target.connection_id) if target.has_unknown_key else []
    late, due = _late(target, now)
    for _ in range(_MAX_PAGES):
        rows = _read_due(target.connection_id, now, due, min(most, target.max_batch_events), withheld)
        if not rows:
            return Claim(None)
        rows = signed_for(target, rows)
        patterns = frozenset(granted_patterns(target.connection_id))
        good = _finish_hopeless(target, rows, patterns, now, late)
        if good:
            counter = current_counter(target.connection_id)
            taken = fitting(good[:1] if target.is_probe else good, target.max_request_bytes)
            return Claim(_take(target, counter, taken))
    return Claim(None, more=True)


def _late(target: Target, now: int) -> tuple[int, int]:
    """How late it is at least, and until when what is new and due then may go, ms.

    Our clock was set back if it shows less than the peer's did at its latest answer. What was published
    before that would then wait, and what comes after be numbered first: so all that the clock before made
    due is. A peer whose clock is ahead of a right one changes nothing: what is new waits for no back-off.
    """
    if not now < target.told_time < now + _MOST_BACK_MS:
        return now, now
    return target.told_time, target.told_time + MAX_AHEAD_MS


#: A clock that shows so much more than ours is not the one to go by, ms.
_MOST_BACK_MS = 7 * 86_400_000

#: In the order of the index although one is as good as another: PostgreSQL, which believes that the rows of a
#: connection lie evenly among all, would else read the table from its beginning until it meets one.
_DUE = (
    sa.select(_DELIVERY.c.id)
    .where(
        _DELIVERY.c.connection_id == sa.bindparam("connection_id"),
        _DELIVERY.c.state == DeliveryState.PENDING,
        _DELIVERY.c.next_attempt_at <= sa.bindparam("now"),
    )
    .order_by(_DELIVERY.c.sequence, _DELIVERY.c.id)
    .limit(1)
)


def is_due(connection_id: int, now: int) -> bool:
    """Whether a delivery of the connection waits and is due, as the current transaction sees it."""
    due = db.session.connection().execute(_DUE, {"connection_id": connection_id, "now": now})
    return due.first() is not None


def has_due(connection_id: int, now: int) -> bool:
    """Whether a delivery of the connection waits and is due, by a database connection of its own."""
    with db.engine.connect() as connection:
        return connection.execute(_DUE, {"connection_id": connection_id, "now": now}).first() is not None


def _read_due(connection_id: int, now: int, new_until: int, most: int, withheld: Sequence[str]) -> list[_Row]:
    """Numbered deliveries that are due now, then new ones that are due at `new_until`, ms."""
    connection = db.session.connection()
    parameters: dict[str, Any] = {"connection_id": connection_id, "now": now}
    numbered, told = (_NUMBERED_BUT_WITHHELD, {"withheld": withheld}) if withheld else (_NUMBERED, {})
    rows = list(connection.execute(numbered, {**parameters, **told, "most": most}))
    if len(rows) < most:
        new = connection.execute(_NEW, {**parameters, "now": new_until, "most": most - len(rows)})
        # Not past the first that waits for its key: a process that has not noticed the change yet signs later
        # events by the key before, and they must not overtake.
        rows += takewhile(lambda row: row.key_id not in withheld, new)
    return rows


def _validly_signed(target: Target, rows: list[_Row]) -> list[_Row]:
    """The rows; those whose key was revoked are signed again."""
    revoked = resign.revoked_among({row.key_id for row in rows} - {target.key_in_use})
    if not revoked:
        return rows
    return _replaced(rows, resign.sign_again([row.event_id for row in rows if row.key_id in revoked]))


def signed_for(target: Target, rows: list[_Row]) -> list[_Row]:
    """The rows with their events signed as this peer can verify it, by a key that may sign."""
    return _signed_singly(target, _validly_signed(target, rows))


def _signed_singly(target: Target, rows: list[_Row]) -> list[_Row]:
    """The rows; for a peer that takes no shared signatures, each with one of its own (§1.3)."""
    shared = [row.event_id for row in rows if row.proof is not None]
    if not shared or peers.takes_shared_signatures(target.peer_id):
        return rows
    return _replaced(rows, resign.sign_alone(shared))


def _replaced(rows: list[_Row], signed: Mapping[int, resign.Signed]) -> list[_Row]:
    return [
        row
        if row.event_id not in signed
        else SimpleNamespace(**{**_columns(row), **signed[row.event_id]._asdict()})
        for row in rows
    ]


def _columns(row: _Row) -> Mapping[str, Any]:
    return vars(row) if isinstance(row, SimpleNamespace) else row._mapping


def _finish_hopeless(
    target: Target, rows: Sequence[_Row], patterns: frozenset[str], now: int, late: int
) -> list[_Sized]:
    """Finish what cannot be sent any more; the rest is returned, with the size that each has on the wire.

    late: see `_late`. Age is counted by our own clock: no peer can make an event old.
    """
    oldest = now - MAX_RETRY_AGE_MS
    granted = {
        event_type: is_granted(event_type, patterns) for event_type in {row.event_type for row in rows}
    }
    good: list[_Sized] = []
    bad: dict[finish.Ending, list[_Row]] = {}
    early: list[_Row] = []
    for row, size in sized(rows):
        if row.timestamp > late + MAX_AHEAD_MS:
            early.append(row)
        # Whoever asked for an old one to be sent again gets one more try.
        elif row.timestamp < oldest and row.trigger == "auto":
            bad.setdefault(finish.EXPIRED, []).append(row)
        elif not granted[row.event_type]:
            bad.setdefault(finish.WITHDRAWN, []).append(row)
        elif not is_sendable(target, size):
            bad.setdefault(finish.TOO_LARGE, []).append(row)
        else:
            good.append((row, size))
    for ending, hopeless in bad.items():
        finish.finish(target.connection_id, hopeless, ending)
    for row in early:
        _wait_until(row.id, row.timestamp)
    return good


def _wait_until(delivery_id: int, due: int) -> None:
    """Let one wait that was published while our clock ran ahead: the peer would refuse it for good (§7)."""
    db.session.connection().execute(
        sa.update(_DELIVERY).where(_DELIVERY.c.id == delivery_id).values(next_attempt_at=due)
    )


def sized(rows: Sequence[_Row]) -> list[_Sized]:
    """The rows with the size that each event has on the wire."""
    return [
        (row, event_size(row.body if row.body.isascii() else row.body.encode(), row.signature, row.proof))
        for row in rows
    ]


def is_sendable(target: Target, size: int) -> bool:
    """Whether the peer takes an event of this size, in a request of its own if need be."""
    room = target.max_request_bytes - _ENVELOPE_BYTES - _ENTRY_BYTES - REPLAY_BYTES
    return size <= min(target.max_event_bytes, room)


def fitting(rows: Sequence[_Sized], max_request_bytes: int, more_bytes: int = 0) -> list[_Row]:
    """As many of the first rows as one request may carry; each fits alone. more_bytes: for each entry."""
    left = max_request_bytes - _ENVELOPE_BYTES
    found: list[_Row] = []
    for row, size in rows:
        left -= size + _ENTRY_BYTES + more_bytes
        if left < 0:
            break
        found.append(row)
    return found


_SENDING = {
    "state": DeliveryState.SENDING,
    "attempts": _DELIVERY.c.attempts + 1,
}


@lru_cache(maxsize=2)
def _send_numbered(on_sqlite: bool) -> sa.Update:
    return sa.update(_DELIVERY).where(one_of(_DELIVERY.c.id, "ids", on_sqlite)).values(**_SENDING)


@lru_cache(maxsize=2)
def _send_new(on_sqlite: bool) -> sa.Update:
    places = (
        sa.select(_DELIVERY.c.id, sa.func.row_number().over(order_by=_DELIVERY.c.id).label("place"))
        .where(one_of(_DELIVERY.c.id, "ids", on_sqlite))
        .subquery()
    )
    return (
        sa.update(_DELIVERY)
        .where(_DELIVERY.c.id == places.c.id)
        .values(
            **_SENDING,
            stream_id=sa.bindparam("to_stream"),
            sequence=sa.bindparam("head", type_=sa.BigInteger) + places.c.place,
        )
    )


def _take(target: Target, counter: Counter, rows: Sequence[_Row]) -> Batch:
    connection = db.session.connection()
    numbered = [row.id for row in rows if row.sequence is not None]
    new = [row.id for row in rows if row.sequence is None]
    if numbered:
        connection.execute(_send_numbered(is_sqlite()), {"ids": numbered})
    if new:
        parameters = {"ids": new, "to_stream": counter.stream_id, "head": counter.head}
        connection.execute(_send_new(is_sqlite()), parameters)
        advance(counter, counter.head + len(new))
    # New rows come by id after the numbered ones, which is the order in which they were numbered.
    sequences = [row.sequence for row in rows if row.sequence is not None]
    sequences += range(counter.head + 1, counter.head + 1 + len(new))
    batch_id = str(uuid4())
    return Batch(
        batch_id,
        counter.stream_id,
        counter.epoch,
        counter.created_at,
        [
            Entry(
                row.id,
                row.event_id,
                sequence,
                row.event_type,
                row.message_id,
                row.digest,
                row.attempts + 1,
                row.refusals,
                row.trigger,
                row.timestamp,
            )
            for row, sequence in zip(rows, sequences, strict=True)
        ],
        write_body(target, counter, batch_id, rows, sequences),
    )


def write_body(
    target: Target,
    counter: Counter,
    batch_id: str,
    rows: Sequence[_Row],
    sequences: Sequence[int],
    replay_id: str | None = None,
) -> bytes:
    """The stored signed texts, joined: nothing is parsed or written anew."""
    belongs = "" if replay_id is None else f',"replayId":"{replay_id}"'
    entries = ",".join(
        [
            f'{{"sequence":{sequence}{belongs},"event":{_signed_text(row)}}}'
            for row, sequence in zip(rows, sequences, strict=True)
        ]
    )
    return (
        f'{{"batchId":"{batch_id}","connectionId":"{target.wire_connection_id}",'
        f'"streamEpoch":"{counter.epoch}","events":[{entries}]}}'
    ).encode()


def _signed_text(row: _Row) -> str:
    proof = "" if row.proof is None else f',"proof":{row.proof}'
    return f'{row.body[:-1]}{proof},"signature":"{row.signature}"}}'
