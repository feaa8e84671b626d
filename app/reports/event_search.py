"""Search in the event log: pages for people, newest first, that stay quick however rare the match.

    streams   the narrowest index that fits the query gives row numbers in descending order; several (of some
              types, of a peer's two directions) are merged
    blocks    row numbers are taken block by block, and the database tells which of those rows fit the rest
    bounds    a search ends when the page is full, the log is at its end, or its rows or milliseconds are used
              up; the last is said, and the cursor goes on where it stopped

A cursor is the number of an event, so a page in the middle costs what the first one costs. Numbers of
deliveries follow those of their events but for transactions that ran beside each other, which the merge evens
out in each block.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app import clock
from app.database import db, is_sqlite
from app.federation.lifecycle import sending_clause
from app.models import Connection, Delivery, Direction, Event, EventStatus, Peer
from app.protocol.event_types import matches
from app.protocol.messages import event_size
from app.protocol.states import DeliveryState
from app.reports.connections import is_visible
from app.reports.event_log import bounds
from app.reports.event_types import types_of
from app.reports.paging import ListKey, check_limit, read_cursor, write_cursor
from app.reports.search import PayloadIs, Search
from app.reports.words import summary, visible

#: What one page may cost, and what one costs that was asked to search on.
FIRST_MS, FURTHER_MS = 60, 1_000
MAX_ROWS = 500_000

#: Rows counted of each index to choose between them.
_PROBE = 2_000
#: Merged at most; a pattern that covers more types is compared with the rows instead.
_MAX_STREAMS = 64
#: Row numbers of one block, at first and at most.
_FIRST_BLOCK, _MAX_BLOCK = 64, 4_096
#: Largest list of events whose id begins as asked.
_MAX_IDS = 500


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event as the list shows it."""

    id: int
    message_id: str
    direction: Direction
    event_type: str
    #: When it was published or stored here, Unix ms.
    created_at: int
    #: The peer it came from, or the one it goes to; "3 peers", "nobody".
    peer: str
    #: The payload's first members, in one line.
    summary: str
    #: What its deliveries come to: a state, and in words.
    state: str
    state_words: str
    #: Bytes as it is sent.
    size: int


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of a search, newest first."""

    rows: list[EventRow]
    #: Cursors of the neighbouring pages; None where there is nothing more.
    newer: str | None
    older: str | None
    #: Events that were looked at, and how long that took.
    searched: int
    took_ms: int
    #: Whether it ended for its bounds: `older` then searches on.
    stopped: bool


class _Stream(NamedTuple):
    """An index that has row numbers of events in order: of events, or of a connection's deliveries."""

    condition: sa.ColumnElement[bool]
    of_deliveries: bool = False


class _Place(NamedTuple):
    """Where to look: beyond `after`, short of `before` (numbers of events, None is open), and which way."""

    after: int | None
    before: int | None
    newest_first: bool

    def behind(self, number: int) -> "_Place":
        """The same, from an event on that was looked at."""
        return self._replace(before=number) if self.newest_first else self._replace(after=number)


@dataclass(slots=True)
class _Seen:
    """How far a search came."""

    rows: list[sa.Row[Any]]
    #: The last number that was looked at.
    last: int | None = None
    searched: int = 0
    #: Whether the log is at its end.
    is_done: bool = False


def search_events(
    workspace_id: int,
    search: Search,
    *,
    older: str | None = None,
    newer: str | None = None,
    limit: int = 50,
    within_ms: int | None = None,
) -> EventPage:
    """One page of the events that fit, with its cost.

    older, newer: a cursor of a page of the same query. within_ms: the time it may take; FIRST_MS, or with a
    cursor FURTHER_MS, if not given. Raises InvalidCursor.
    """
    began = clock.monotonic()
    key = ListKey("event search", workspace_id, {"q": search.text})
    backward = read_cursor(key, newer)
    forward = read_cursor(key, older) if backward is None else None
    place = _place(workspace_id, search, forward, backward)
    allowed_ms = within_ms or (FURTHER_MS if forward or backward else FIRST_MS)
    seen = _find(workspace_id, search, place, check_limit(limit) + 1, began + allowed_ms / 1000)
    took_ms = round((clock.monotonic() - began) * 1000)
    return _page(key, seen, place, limit, (forward or backward) is not None, took_ms)


def neighbours(workspace_id: int, search: Search, event_id: int) -> tuple[str | None, str | None]:
    """messageIds of the next newer and the next older event that fit; None if there is none close by."""
    found: list[str | None] = []
    for backward in (True, False):
        position = (event_id,)
        place = _place(workspace_id, search, None if backward else position, position if backward else None)
        seen = _find(workspace_id, search, place, 1, clock.monotonic() + FIRST_MS / 3000)
        found.append(seen.rows[0].message_id if seen.rows else None)
    return found[0], found[1]


def row_of(event_id: int) -> EventRow:
    """One event as the list shows it."""
    [row] = _rows([event_id], [], newest_first=True)
    return _details([row])[0]


def peers_named(workspace_id: int, names: Sequence[str]) -> list[int]:
    """Row numbers of the connections that a `peer:` may mean.

    By name or address of the peer, in any case and in part, or by the beginning of the connection's id.
    """
    return [
        row.id
        for row in _peers(workspace_id)
        if any(_is_meant(name.lower(), row.public_id, row.name, row.url) for name in names)
    ]


def peer_names(workspace_id: int) -> list[str]:
    """Names of the workspace's peers, each once, in alphabetical order."""
    return sorted({row.name for row in _peers(workspace_id) if row.name})


def payload_has(payload: Any, wanted: PayloadIs) -> bool:
    """Whether a member of the payload is one of the values; of a list any entry may be.

    >>> payload_has({"order": {"lines": [{"sku": 7}]}}, PayloadIs(("order", "lines", "sku"), ("7",)))
    True
    """
    return any(_text(leaf) in wanted.values for leaf in _leaves(payload, wanted.path))


def _is_meant(name: str, public_id: str, peer: str | None, url: str | None) -> bool:
    return name in (peer or "").lower() or name in (url or "").lower() or public_id.startswith(name)


def _peers(workspace_id: int) -> Sequence[Any]:
    return db.session.execute(
        sa.select(
            Connection.id,
            Connection.public_id,
            Peer.name,
            sa.func.coalesce(Peer.base_url, Connection.claimed_base_url).label("url"),
        )
        .outerjoin(Peer, Peer.id == Connection.peer_id)
        .where(Connection.workspace_id == workspace_id, is_visible())
    ).all()


def _place(
    workspace_id: int, search: Search, forward: tuple[int, ...] | None, backward: tuple[int, ...] | None
) -> _Place:
    after, before = bounds(workspace_id, search.after, search.before)
    if forward is not None:
        before = forward[0] if before is None else min(before, forward[0])
    if backward is not None:
        after = backward[0] if after is None else max(after, backward[0])
    return _Place(after, before, backward is None)


def _page(key: ListKey, seen: _Seen, place: _Place, limit: int, is_inner: bool, took_ms: int) -> EventPage:
    more = len(seen.rows) > limit
    rows = seen.rows[:limit] if place.newest_first else list(reversed(seen.rows[:limit]))
    stopped = not more and not seen.is_done
    ahead = rows[-1 if place.newest_first else 0].id if more else seen.last if stopped else None
    back = None
    if is_inner:  # There is what this page was reached from, on the other side of it.
        back = (
            rows[0 if place.newest_first else -1].id
            if rows
            else place.before
            if place.newest_first
            else place.after
        )
    older, newer = (ahead, back) if place.newest_first else (back, ahead)
    return EventPage(
        _details(rows),
        None if newer is None else write_cursor(key, [newer]),
        None if older is None else write_cursor(key, [older]),
        seen.searched,
        took_ms,
        stopped,
    )


def _find(workspace_id: int, search: Search, place: _Place, wanted: int, until_s: float) -> _Seen:
    """Up to `wanted` rows that fit, in the order of the place."""
    peers = peers_named(workspace_id, search.peers) if search.peers else None
    types = types_of(workspace_id, search.types) if search.types else None
    seen = _Seen([])
    if peers == [] or types == []:
        seen.is_done = True
        return seen
    conditions = _conditions(search, peers, types)
    numbers = _numbers(workspace_id, search, peers, types, place)
    block_size = max(wanted, _FIRST_BLOCK) if search.reads_bodies else wanted
    while True:
        block = _take(numbers, block_size)
        if not block:
            seen.is_done = True
            return seen
        seen.searched += len(block)
        seen.last = block[-1]
        for row in _rows(block, conditions, place.newest_first):
            if _fits(row, search):
                seen.rows.append(row)
            if len(seen.rows) == wanted:
                return seen
        if len(block) < block_size:
            seen.is_done = True
            return seen
        if clock.monotonic() >= until_s or seen.searched >= MAX_ROWS:
            return seen
        block_size = min(block_size * 4, _MAX_BLOCK)


def _take(numbers: Iterator[int], size: int) -> list[int]:
    return [number for number, _ in zip(numbers, range(size), strict=False)]


def _numbers(
    workspace_id: int, search: Search, peers: list[int] | None, types: list[str] | None, place: _Place
) -> Iterator[int]:
    """Numbers of the events among which all that fit are, in order, each once."""
    listed = _by_ids(workspace_id, search.ids, place)
    if listed is not None:
        yield from listed
        return
    streams = _narrowest(_choices(workspace_id, search, peers, types), place)
    sign = -1 if place.newest_first else 1
    last = None
    merged = heapq.merge(*(_read(stream, place) for stream in streams), key=lambda number: sign * number)
    for number in merged:
        if number != last:
            yield number
        last = number


def _by_ids(workspace_id: int, ids: tuple[str, ...], place: _Place) -> list[int] | None:
    """The events whose messageId begins so; None if nothing was asked, or too many do."""
    if not ids:
        return None
    # A UUID's dashes stand in fixed places and "g" comes behind all its digits, in every collation.
    begins = sa.or_(*(sa.and_(Event.message_id >= text, Event.message_id < text + "g") for text in ids))
    # The workspace is compared here: asked for it, SQLite would go through all of its events instead.
    query = sa.select(Event.id, Event.workspace_id).where(begins).limit(_MAX_IDS + 1)
    found = db.session.execute(query).all()
    if len(found) > _MAX_IDS:
        return None
    ours = [row.id for row in found if row.workspace_id == workspace_id]
    within = [n for n in ours if n > (place.after or 0) and (place.before is None or n < place.before)]
    return sorted(within, reverse=place.newest_first)


def _choices(
    workspace_id: int, search: Search, peers: list[int] | None, types: list[str] | None
) -> list[list[_Stream]]:
    """The ways to read the log: each covers everything that fits. The first is the whole log."""
    ours = Event.workspace_id == workspace_id
    choices = [[_Stream(ours)]]
    if search.direction is not None:
        choices.append([_Stream(sa.and_(ours, Event.direction == search.direction))])
    if search.statuses:
        choices.append([_Stream(sa.and_(ours, Event.status == status)) for status in search.statuses])
    if types is not None and len(types) <= _MAX_STREAMS:
        choices.append([_Stream(sa.and_(ours, Event.event_type == name)) for name in types])
    if peers is not None and len(peers) <= _MAX_STREAMS // 2:
        came = [] if search.direction is Direction.OUTGOING else [Event.connection_id == n for n in peers]
        went = [] if search.direction is Direction.INCOMING else [Delivery.connection_id == n for n in peers]
        choices.append([*(_Stream(c) for c in came), *(_Stream(w, of_deliveries=True) for w in went)])
    return choices


def _narrowest(choices: list[list[_Stream]], place: _Place) -> list[_Stream]:
    """The way with the fewest rows, as far as it is worth counting; of equal ones the last."""
    if len(choices) <= 2:
        return choices[-1]
    counted = [(sum(_count(stream, place) for stream in choice), choice) for choice in reversed(choices[1:])]
    return min(counted, key=lambda pair: pair[0])[1]


def _count(stream: _Stream, place: _Place) -> int:
    numbers = _numbers_of(stream, place, _PROBE).order_by(None).subquery()
    return db.session.scalar(sa.select(sa.func.count()).select_from(numbers)) or 0


def _read(stream: _Stream, place: _Place) -> Iterator[int]:
    """The stream's numbers, read ahead in growing pieces."""
    size = _FIRST_BLOCK
    while True:
        found = sorted(db.session.scalars(_numbers_of(stream, place, size)), reverse=place.newest_first)
        yield from found
        if len(found) < size:
            return
        place = place.behind(found[-1])
        size = min(size * 4, _MAX_BLOCK)


def _numbers_of(stream: _Stream, place: _Place, size: int) -> sa.Select[int]:
    column = Delivery.id if stream.of_deliveries else Event.id
    number = Delivery.event_id if stream.of_deliveries else Event.id
    query = sa.select(number).where(stream.condition)
    if place.before is not None:
        query = query.where(number < place.before)
        if stream.of_deliveries:
            query = query.where(column <= _edge(place.before, newest_first=True))
    if place.after is not None:
        query = query.where(number > place.after)
        if stream.of_deliveries:
            query = query.where(column >= _edge(place.after, newest_first=False))
    return query.order_by(column.desc() if place.newest_first else column).limit(size)


def _edge(event_id: int, *, newest_first: bool) -> sa.ScalarSelect[int]:
    """Number of the last delivery of the events before one, or of the first of those after it."""
    other, near = sa.alias(Delivery.__table__), sa.alias(Delivery.__table__)
    if newest_first:
        event = sa.select(sa.func.max(near.c.event_id)).where(near.c.event_id < event_id).scalar_subquery()
        query = sa.select(sa.func.max(other.c.id)).where(other.c.event_id == event)
    else:
        event = sa.select(sa.func.min(near.c.event_id)).where(near.c.event_id > event_id).scalar_subquery()
        query = sa.select(sa.func.min(other.c.id)).where(other.c.event_id == event)
    return query.scalar_subquery()


def _rows(
    block: Sequence[int], conditions: Sequence[sa.ColumnElement[bool]], newest_first: bool
) -> list[Any]:
    """The events of a block that fit, as far as the database can tell."""
    query = sa.select(
        Event.id,
        Event.direction,
        Event.message_id,
        Event.event_type,
        Event.body,
        Event.signature,
        Event.status,
        Event.created_at,
        Event.connection_id,
    ).where(_among(block), *conditions)
    return sorted(db.session.execute(query), key=lambda row: row.id, reverse=newest_first)


def _among(block: Sequence[int]) -> sa.ColumnElement[bool]:
    """Whether the event is of the block, as one value: thousands of them take longer than the rows."""
    if is_sqlite():
        numbers = sa.func.json_each(orjson.dumps(block).decode()).table_valued("value")
        return Event.id.in_(sa.select(numbers.c.value))
    return Event.id == sa.any_(sa.literal(list(block), postgresql.ARRAY(sa.BigInteger)))


def _conditions(
    search: Search, peers: list[int] | None, types: list[str] | None
) -> list[sa.ColumnElement[bool]]:
    """What the database can tell of a row; `_fits` looks at the rest."""
    conditions: list[sa.ColumnElement[bool]] = []
    if search.direction is not None:
        conditions.append(Event.direction == search.direction)
    if search.statuses:
        conditions.append(Event.status.in_(search.statuses))
    if types is not None:
        conditions.append(Event.event_type.in_(types))
    if search.after is not None:
        conditions.append(Event.created_at >= search.after)
    if search.before is not None:
        conditions.append(Event.created_at <= search.before)
    if search.ids:
        conditions.append(sa.or_(*(Event.message_id.startswith(text) for text in search.ids)))
    if peers is not None:
        conditions.append(sa.or_(Event.connection_id.in_(peers), _went_to(peers)))
    for wanted in search.payload:
        conditions.append(_contains(f'"{wanted.path[-1]}"') if _is_key(wanted.path[-1]) else sa.true())
        conditions.append(sa.or_(*(_contains(_written(value)) for value in wanted.values)))
    if search.subjects:
        conditions.append(sa.or_(*(_contains(_written(value)) for value in search.subjects)))
    conditions += [_has_word(word) for word in search.words]
    return conditions


def _went_to(peers: Sequence[int]) -> sa.ColumnElement[bool]:
    return sa.exists().where(Delivery.event_id == Event.id, Delivery.connection_id.in_(peers))


def _has_word(word: str) -> sa.ColumnElement[bool]:
    """A word is looked for in the whole message, so in its type, id, subject and payload, in any case."""
    return Event.body.icontains(_written(word), autoescape=True)


def _written(value: str) -> str:
    """The text as it stands inside a JSON string."""
    return orjson.dumps(value.encode("utf-8", "replace").decode()).decode()[1:-1]


def _is_key(segment: str) -> bool:
    """Whether it names a member, and not perhaps an entry of a list."""
    return not segment.isdigit() and _written(segment) == segment


def _contains(text: str) -> sa.ColumnElement[bool]:
    """The message has the text, in this case: the cheapest way of each engine."""
    if is_sqlite():
        return sa.func.instr(Event.body, text) > 0
    return sa.func.strpos(Event.body, text) > 0


def _fits(row: sa.Row[Any], search: Search) -> bool:
    """What only the parsed message tells."""
    if search.types and not any(matches(pattern, row.event_type) for pattern in search.types):
        return False
    if not (search.payload or search.subjects):
        return True
    message = orjson.loads(row.body)
    if search.subjects and message.get("subject") not in search.subjects:
        return False
    return all(payload_has(message["payload"], wanted) for wanted in search.payload)


def _leaves(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """What stands at the path. A list is passed through to its entries, unless the path names one by number.

    A key with dots in it is found too: the path is tried as longer and longer keys.
    """
    if isinstance(value, list):
        if path and path[0].isdigit() and int(path[0]) < len(value):
            yield from _leaves(value[int(path[0])], path[1:])
        for entry in value:
            yield from _leaves(entry, path)
    elif not path:
        if not isinstance(value, dict):
            yield value
    elif isinstance(value, dict):
        for end in range(1, len(path) + 1):
            name = ".".join(path[:end])
            if name in value:
                yield from _leaves(value[name], path[end:])


def _text(leaf: Any) -> str:
    return leaf if isinstance(leaf, str) else orjson.dumps(leaf).decode()


class _Sum(NamedTuple):
    """What an event's deliveries come to, by state as shown."""

    delivered: int = 0
    dead: int = 0
    held: int = 0
    retrying: int = 0
    sending: int = 0
    queued: int = 0
    #: Name of a peer; the peer, if there is one alone.
    name: str = ""

    @property
    def total(self) -> int:
        """All but those that were withdrawn."""
        return self.delivered + self.dead + self.held + self.retrying + self.sending + self.queued


def _details(rows: Sequence[sa.Row[Any]]) -> list[EventRow]:
    if not rows:
        return []
    sums = _sums([row.id for row in rows if row.direction is Direction.OUTGOING])
    came = {row.connection_id for row in rows if row.connection_id is not None}
    names = _names(came) if came else {}
    return [_row(row, sums.get(row.id, _Sum()), names) for row in rows]


def _row(row: sa.Row[Any], deliveries: _Sum, names: dict[int, str]) -> EventRow:
    incoming = row.direction is Direction.INCOMING
    state, words = ("delivered", "acked") if incoming else roll_up(row.status, deliveries)
    peer = names.get(row.connection_id, "") if incoming else _peers_in_words(deliveries)
    return EventRow(
        row.id,
        row.message_id,
        row.direction,
        row.event_type,
        row.created_at,
        visible(peer),
        summary(orjson.loads(row.body).get("payload")),
        state,
        words,
        event_size(row.body.encode(), row.signature),
    )


def roll_up(status: EventStatus, sums: _Sum) -> tuple[str, str]:
    """State and words for what an outgoing event's deliveries come to: the worst is named.

    >>> roll_up(EventStatus.PARTIAL, _Sum(delivered=3, dead=1))
    ('dead', '1/4 dead')
    """
    if not sums.total:
        return "unsubscribed", "no subscriber" if status is EventStatus.UNSUBSCRIBED else status.value
    part = f"{sums.delivered}/{sums.total}"
    if sums.dead:
        return "dead", f"{sums.dead}/{sums.total} dead"
    if sums.held:
        return "held", f"{part} held"
    if sums.retrying:
        return "retrying", f"{part} retrying"
    if sums.sending:
        return "sending", f"{part} sending"
    if sums.queued:
        return "pending", f"{part} queued"
    return "delivered", part


def _peers_in_words(sums: _Sum) -> str:
    if not sums.total:
        return "nobody"
    return sums.name if sums.total == 1 else f"{sums.total} peers"


def _names(connection_ids: set[int]) -> dict[int, str]:
    rows = db.session.execute(
        sa.select(Connection.id, Peer.name)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(Connection.id.in_(connection_ids))
    )
    return {number: name for number, name in rows}


def _sums(event_ids: Sequence[int]) -> dict[int, _Sum]:
    if not event_ids:
        return {}
    failed = sa.or_(Delivery.error_code.is_not(None), Connection.failures > 0)
    rows = db.session.execute(
        sa.select(
            Delivery.event_id,
            Delivery.state,
            sending_clause().label("sends"),
            failed.label("failed"),
            Peer.name,
        )
        .join(Connection, Connection.id == Delivery.connection_id)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(Delivery.event_id.in_(event_ids), Delivery.state != DeliveryState.WITHDRAWN)
    )
    sums: dict[int, dict[str, Any]] = {}
    for row in rows:
        found = sums.setdefault(row.event_id, {})
        shown = _shown_state(row.state, sends=row.sends, failed=row.failed)
        found[shown] = found.get(shown, 0) + 1
        found["name"] = row.name
    return {event_id: _Sum(**found) for event_id, found in sums.items()}


def _shown_state(state: DeliveryState, *, sends: bool, failed: bool) -> str:
    if state is not DeliveryState.PENDING:
        return state.value
    if not sends:
        return "held"
    return "retrying" if failed else "queued"
