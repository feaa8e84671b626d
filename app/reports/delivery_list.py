"""Deliveries as people look for them: by where they stand, to whom, of what type and with which error.

Newest first, by keyset. A filter that an index answers costs what the page costs. Any other one looks at no
more than BOUND rows at a time, newest first, and says where it stopped: the cursor goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.database import db, table_of
from app.federation.lifecycle import sending_clause
from app.models import Connection, Delivery, Event
from app.models.ids import IdKind, public_id
from app.protocol.states import OPEN, DeliveryState
from app.reports.connections import row_number
from app.reports.paging import ListKey, read_cursor, write_cursor
from app.reports.receivers import Receiver, receivers
from app.reports.words import visible

#: Rows of a page.
PAGE = 50
#: Rows that one page looks at when no index answers the filter.
BOUND = 20_000
#: Deliveries of a tab are counted up to this many.
COUNT_CAP = 1_000
#: A connection's deliveries in one state are fetched at once if they are no more than this.
_FEW = 2_000
#: Of an error's text this much is shown in a row, characters; it may be remote text.
_ERROR_SHOWN = 300


class Standing(StrEnum):
    """Where deliveries stand, as people choose it."""

    OPEN = "open"  #: not delivered yet: the next three, and those that wait for their first attempt
    HELD = "held"  #: their connection does not send now
    RETRYING = "retrying"  #: tried in vain, and tried again
    SENDING = "sending"  #: a request carries them
    DELIVERED = "delivered"  #: acknowledged
    DEAD = "dead"  #: given up
    WITHDRAWN = "withdrawn"  #: nobody wants them any more


_DELIVERY = table_of(Delivery)

_STATES: dict[Standing, tuple[DeliveryState, ...]] = {
    Standing.OPEN: (DeliveryState.PENDING, DeliveryState.SENDING),
    Standing.HELD: (DeliveryState.PENDING,),
    Standing.RETRYING: (DeliveryState.PENDING,),
    Standing.SENDING: (DeliveryState.SENDING,),
    Standing.DELIVERED: (DeliveryState.DELIVERED,),
    Standing.DEAD: (DeliveryState.DEAD,),
    Standing.WITHDRAWN: (DeliveryState.WITHDRAWN,),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A filter. None does not restrict."""

    standing: Standing = Standing.OPEN
    #: Public id; one that is not of the workspace matches nothing.
    connection_id: str | None = None
    event_type: str | None = None
    #: The error code that the last attempt left.
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One delivery. Times are Unix ms."""

    #: Public id.
    id: str
    message_id: str
    event_type: str
    receiver: Receiver
    #: pending, retrying, held, sending, delivered, dead, withdrawn.
    status: str
    attempts: int
    #: When it goes next; None unless it waits for that alone.
    next_at: int | None
    #: Code, and words of it in one line. Of a delivery that waits with its connection: what that waits for.
    error: str
    error_detail: str
    created_at: int
    #: When it was given up or withdrawn, if it was.
    ended_at: int | None
    #: When it was acknowledged, if it was.
    delivered_at: int | None
    sequence: int | None

    @property
    def why_no_retry(self) -> str:
        """Why sending it again makes no sense now; empty if it does."""
        if self.status == "sending":
            return "a request carries it just now"
        if self.status in ("delivered", "withdrawn"):
            return f"it is {self.status}"
        if self.receiver.is_ended:
            return ""
        return self.receiver.obstacle


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """A page, newest first."""

    rows: list[DeliveryRow]
    #: Goes on behind this page; None at the end.
    older: str | None
    #: Whether it was cut short: that many rows were looked at, and `older` goes on looking.
    is_cut_short: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """Deliveries of a workspace that are not delivered, each up to COUNT_CAP."""

    open: int
    held: int
    retrying: int
    sending: int
    dead: int


#: Columns that `_rest` looks at.
_FILTERED = (
    Delivery.id,
    Delivery.connection_id,
    Delivery.event_type,
    Delivery.state,
    Delivery.error_code,
    Delivery.attempts,
)


class _Found(NamedTuple):
    """Row numbers of one state, newest first, and below which number nobody looked (None: all was)."""

    numbers: list[int]
    stopped_at: int | None


def list_rows(
    workspace_id: int, chosen: Chosen, *, cursor: str | None = None, limit: int = PAGE
) -> DeliveryPage:
    """One page. Raises InvalidCursor."""
    filters = {
        "standing": chosen.standing.value,
        "connection": chosen.connection_id,
        "type": chosen.event_type,
        "error": chosen.error,
    }
    key = ListKey("delivery list", workspace_id, filters)
    after = read_cursor(key, cursor)
    before = after[0] if after else None
    lanes = _lanes(workspace_id, chosen)
    if lanes is not None and not lanes:
        return DeliveryPage([], None, False)
    found = [
        _find(workspace_id, state, chosen, lanes, before, limit + 1) for state in _STATES[chosen.standing]
    ]
    numbers = sorted((number for each in found for number in each.numbers), reverse=True)
    # Below the highest stop there may be others that nobody looked at.
    stopped_at = max((each.stopped_at for each in found if each.stopped_at is not None), default=None)
    if stopped_at is not None:
        numbers = [number for number in numbers if number >= stopped_at]
    has_more = len(numbers) > limit
    page = numbers[:limit]
    last = page[-1] if has_more else stopped_at
    older = None if last is None else write_cursor(key, [last])
    return DeliveryPage(_rows(workspace_id, page), older, not has_more and stopped_at is not None)


def count_open(workspace_id: int) -> Counts:
    """How many are not delivered, for the tabs: of the newest COUNT_CAP that wait."""
    waiting = (
        sa.select(Delivery.connection_id, Delivery.attempts, Delivery.error_code)
        .where(Delivery.workspace_id == workspace_id, Delivery.state == DeliveryState.PENDING)
        .order_by(Delivery.id.desc())
        .limit(COUNT_CAP)
        .subquery()
    )
    tried = sa.or_(waiting.c.attempts > 0, waiting.c.error_code.is_not(None))
    pending, held, retrying = db.session.execute(
        sa.select(
            sa.func.count(),
            sa.func.count(sa.case((sa.not_(sending_clause()), 1))),
            sa.func.count(sa.case((sa.and_(sending_clause(), tried), 1))),
        )
        .select_from(waiting)
        .join(Connection, Connection.id == waiting.c.connection_id)
    ).one()
    sending, dead = (_count(workspace_id, state) for state in (DeliveryState.SENDING, DeliveryState.DEAD))
    return Counts(min(pending + sending, COUNT_CAP), held, retrying, sending, dead)


def error_codes(workspace_id: int, standing: Standing) -> list[str]:
    """Error codes of the newest deliveries that stand there, for a choice; in alphabetical order."""
    newest = (
        sa.select(Delivery.error_code)
        .where(Delivery.workspace_id == workspace_id, Delivery.state == _STATES[standing][0])
        .order_by(Delivery.id.desc())
        .limit(COUNT_CAP)
        .subquery()
    )
    query = sa.select(newest.c.error_code).where(newest.c.error_code.is_not(None)).distinct()
    return sorted(db.session.scalars(query))


def _count(workspace_id: int, state: DeliveryState) -> int:
    some = (
        sa.select(sa.literal(1))
        .select_from(Delivery)
        .where(Delivery.workspace_id == workspace_id, Delivery.state == state)
        .limit(COUNT_CAP)
        .subquery()
    )
    return db.session.scalar(sa.select(sa.func.count()).select_from(some)) or 0


def _lanes(workspace_id: int, chosen: Chosen) -> list[int] | None:
    """Row numbers of the connections that may be meant; None for all."""
    lanes: list[int] | None = None
    if chosen.connection_id is not None:
        number = row_number(workspace_id, chosen.connection_id)
        lanes = [] if number is None else [number]
    if chosen.standing in (Standing.HELD, Standing.RETRYING):
        holding = db.session.scalars(
            sa.select(Connection.id).where(
                Connection.workspace_id == workspace_id,
                Connection.status.in_(OPEN),
                sa.not_(sending_clause()) if chosen.standing is Standing.HELD else sending_clause(),
            )
        ).all()
        lanes = list(holding) if lanes is None else [number for number in lanes if number in holding]
    return lanes


def _find(
    workspace_id: int,
    state: DeliveryState,
    chosen: Chosen,
    lanes: list[int] | None,
    before: int | None,
    wanted: int,
) -> _Found:
    index = [Delivery.workspace_id == workspace_id, Delivery.state == state]
    if lanes is not None:
        own = [Delivery.connection_id.in_(lanes), Delivery.state == state]
        if _are_few(own):
            return _Found(_few(own, chosen, before)[:wanted], None)
    elif chosen.event_type is not None and state is DeliveryState.DELIVERED:
        index = [Delivery.workspace_id == workspace_id, Delivery.event_type == chosen.event_type]
    elif not _rest(chosen, None, _DELIVERY.c):
        return _Found(list(db.session.scalars(_numbers(index, before, wanted))), None)
    return _search(index, chosen, state, lanes, before, wanted)


def _rest(chosen: Chosen, lanes: list[int] | None, row: Any) -> list[sa.ColumnElement[bool]]:
    """What is left of the filter beside the index, of these columns."""
    conditions: list[sa.ColumnElement[bool]] = []
    if lanes is not None:
        conditions.append(row.connection_id.in_(lanes))
    if chosen.event_type is not None:
        conditions.append(row.event_type == chosen.event_type)
    if chosen.error is not None:
        conditions.append(row.error_code == chosen.error)
    if chosen.standing is Standing.RETRYING:
        conditions.append(sa.or_(row.attempts > 0, row.error_code.is_not(None)))
    return conditions


def _are_few(own: Sequence[sa.ColumnElement[bool]]) -> bool:
    some = sa.select(sa.literal(1)).select_from(Delivery).where(*own).limit(_FEW + 1).subquery()
    return (db.session.scalar(sa.select(sa.func.count()).select_from(some)) or 0) <= _FEW


def _few(own: Sequence[sa.ColumnElement[bool]], chosen: Chosen, before: int | None) -> list[int]:
    """All of a few that fit, newest first: in the order of another index a database would look at many."""
    query = sa.select(Delivery.id).where(*own, *_rest(chosen, None, _DELIVERY.c))
    found = db.session.scalars(query)
    return sorted((number for number in found if before is None or number < before), reverse=True)


def _numbers(conditions: Sequence[sa.ColumnElement[bool]], before: int | None, wanted: int) -> sa.Select[int]:
    query = sa.select(Delivery.id).where(*conditions)
    if before is not None:
        query = query.where(Delivery.id < before)
    return query.order_by(Delivery.id.desc()).limit(wanted)


def _search(
    index: Sequence[sa.ColumnElement[bool]],
    chosen: Chosen,
    state: DeliveryState,
    lanes: list[int] | None,
    before: int | None,
    wanted: int,
) -> _Found:
    """Look through the index in growing blocks, for at most BOUND rows."""
    found: list[int] = []
    looked, block = 0, 4 * wanted
    while looked < BOUND:
        size = min(block, BOUND - looked)
        query = _numbers(index, before, size)
        numbers = list(db.session.scalars(query))
        if numbers:
            looked, before = looked + len(numbers), numbers[-1]
            # The block as a table of its own, so that no database takes another index for it.
            row = query.with_only_columns(*_FILTERED).subquery().c
            fits = sa.select(row.id).where(row.state == state, *_rest(chosen, lanes, row))
            found += sorted(db.session.scalars(fits), reverse=True)
        if len(numbers) < size:
            return _Found(found, None)
        if len(found) >= wanted:
            return _Found(found[:wanted], found[wanted - 1])
        block *= 4
    return _Found(found, before)


def _rows(workspace_id: int, numbers: Sequence[int]) -> list[DeliveryRow]:
    if not numbers:
        return []
    rows = db.session.execute(
        sa.select(
            Delivery.id,
            Delivery.connection_id,
            Delivery.event_type,
            Delivery.state,
            Delivery.sequence,
            Delivery.attempts,
            Delivery.next_attempt_at,
            Delivery.error_code,
            Delivery.error_detail,
            Delivery.created_at,
            Delivery.ended_at,
            Delivery.delivered_at,
            Event.message_id,
        )
        .join(Event, Event.id == Delivery.event_id)
        .where(Delivery.id.in_(numbers), Delivery.workspace_id == workspace_id)
        .order_by(Delivery.id.desc())
    ).all()
    by_number = receivers([workspace_id], {row.connection_id for row in rows})
    return [_row(row, by_number[row.connection_id]) for row in rows if row.connection_id in by_number]


def _row(row: Any, receiver: Receiver) -> DeliveryRow:
    status = _status(row, receiver)
    waits = status in ("pending", "retrying")
    code, detail = row.error_code or "", row.error_detail or ""
    if not code and waits and receiver.failures:
        code, detail = receiver.wait_code, receiver.wait_detail
    return DeliveryRow(
        id=public_id(IdKind.DELIVERY, row.id),
        message_id=row.message_id,
        event_type=row.event_type,
        receiver=receiver,
        status=status,
        attempts=row.attempts,
        # A connection that fails waits as a whole, whatever the row itself says.
        next_at=max(row.next_attempt_at, receiver.retry_at) if waits else None,
        error=code,
        error_detail=visible(" ".join(detail.split())[:_ERROR_SHOWN]),
        created_at=row.created_at,
        ended_at=row.ended_at,
        delivered_at=row.delivered_at,
        sequence=row.sequence,
    )


def _status(row: Any, receiver: Receiver) -> str:
    if row.state is not DeliveryState.PENDING:
        return str(row.state.value)
    if not receiver.sends:
        return "held"
    return "retrying" if row.attempts or row.error_code else "pending"
