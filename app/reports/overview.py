"""The overview: what needs a person, worst first, and how far the set-up has come.

The frame of every page of the console shows how much it is, so that nothing here grows with the number of
events: numbers end in an index at a cap, and beyond it they say "this many or more".
"""

import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from app import clock, queue
from app.database import db, table_of
from app.federation import clocks, told
from app.models import (
    Connection,
    Delivery,
    Direction,
    Event,
    Member,
    Peer,
    SigningKey,
    Stream,
    Subscription,
)
from app.protocol.keys import KeyStatus
from app.protocol.states import LIVE, ConnectionStatus, DeliveryState, SubscriptionStatus
from app.reports.ailments import is_lost
from app.reports.words import spoken, visible

#: Rows counted at most.
COUNT_CAP = 1_000
#: Connections looked at for trouble at most; of each kind of trouble so many are named one by one.
_LOOKED_AT = 200
_NAMED = 3
#: Dead letters looked at to say what most of them died of.
_LAST_DEAD = 200
#: A hole in what came in is worth a word when it is this old, ms: most are filled before.
HOLE_MS = 300_000
#: A key in use that ends in less than this is worth a word, ms.
KEY_ENDING_MS = 30 * 86_400_000
#: A Redis that was away a moment ago is not asked again for each page, seconds.
_AWAY_S = 2.0

_CONNECTION = table_of(Connection)
_DELIVERY = table_of(Delivery)
_PEER = table_of(Peer)


class Kind(StrEnum):
    """What may need a person, the worst first: the order of this list is the order on the page."""

    REDIS_AWAY = "redis_away"  #: nothing is sent before it is back
    NO_WORKER = "no_worker"  #: the same, before somebody starts one
    KEY_REVIEW = "key_review"  #: a peer signs with a key that nobody vouched for
    HELD = "held"  #: a peer's answer holds the queue until a person acts
    DEAD_LETTERS = "dead_letters"  #: given up; a person sends them again or discards them
    BREAKER = "breaker"  #: a peer does not answer; only probes go out
    FAILING = "failing"  #: the last requests to a peer failed
    MISSING = "missing"  #: numbers of a peer's stream have not come
    REQUEST = "request"  #: somebody wants to connect
    APPROVAL = "approval"  #: a peer asks for events
    CLOCK_SKEW = "clock_skew"  #: a peer's clock is far from ours
    NOT_COMPARED = "not_compared"  #: nobody has checked whose key it is
    KEY_ENDING = "key_ending"  #: the key in use ends soon
    ROTATION = "rotation"  #: the next key is announced and not in use


#: What stopped or lost something, what goes on by itself, and what only waits for somebody.
TONES = {
    Kind.REDIS_AWAY: "bad",
    Kind.NO_WORKER: "bad",
    Kind.KEY_REVIEW: "bad",
    Kind.HELD: "bad",
    Kind.DEAD_LETTERS: "bad",
    Kind.BREAKER: "warn",
    Kind.FAILING: "warn",
    Kind.MISSING: "warn",
    Kind.REQUEST: "wait",
    Kind.APPROVAL: "wait",
    Kind.CLOCK_SKEW: "warn",
    Kind.NOT_COMPARED: "warn",
    Kind.KEY_ENDING: "warn",
    Kind.ROTATION: "wait",
}


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that needs a person. `what` and `why` hold names of peers, made harmless to read."""

    kind: Kind
    what: str
    why: str
    #: Public id of the connection that it is about; None if it is about several, or none.
    connection_id: str | None = None
    #: A time that `why` goes on with: since when, or until when, ms.
    at: int | None = None

    @property
    def tone(self) -> str:
        """bad, warn or wait."""
        return TONES[self.kind]


class Step(NamedTuple):
    """One step of the set-up."""

    name: str
    is_done: bool
    text: str
    #: What is left of it, in words.
    left: str = ""


def attention(workspace_id: int) -> list[Attention]:
    """What needs a person in this workspace, or in the instance as a whole; the worst first."""
    found = [
        *_workers(),
        *_connections(workspace_id),
        *_dead_letters(workspace_id),
        *_holes(workspace_id),
        *_approvals(workspace_id),
        *_keys(),
    ]
    order = {kind: place for place, kind in enumerate(Kind)}
    return sorted(found, key=lambda item: order[item.kind])


def count_up_to(workspace_id: int, states: Sequence[DeliveryState], cap: int = COUNT_CAP) -> int:
    """Deliveries in these states, counted in the index; `cap` + 1 says that there are more."""
    number = 0
    for state in states:
        number += _number(
            sa.select(Delivery.id).where(Delivery.workspace_id == workspace_id, Delivery.state == state),
            cap,
        )
    return min(number, cap + 1)


def checklist(workspace_id: int) -> list[Step]:
    """The steps from a new instance to one that is in use, in order."""
    here = Connection.workspace_id == workspace_id
    return [
        Step("people", _any(sa.select(Member.id)), "Set up this instance and sign in"),
        Step(
            "connection",
            _any(sa.select(Connection.id).where(here, Connection.activated_at.is_not(None))),
            "Connect to a peer",
        ),
        Step(
            "subscription",
            _any(
                sa.select(Subscription.id).where(
                    Subscription.workspace_id == workspace_id,
                    Subscription.granted_event_type.is_not(None),
                )
            ),
            "Subscribe to an event type, or approve a peer's subscription",
        ),
        Step("event", _had_event(workspace_id), "See a first event arrive"),
        _compared(workspace_id),
    ]


def oldest(workspace_id: int, state: DeliveryState) -> int | None:
    """When the oldest delivery in this state was made, ms."""
    return db.session.scalar(
        sa.select(Delivery.created_at)
        .where(Delivery.workspace_id == workspace_id, Delivery.state == state)
        .order_by(Delivery.id)
        .limit(1)
    )


def _workers() -> Iterator[Attention]:
    workers = live_workers()
    if workers is None:
        yield Attention(
            Kind.REDIS_AWAY,
            "Redis does not answer",
            "nothing is sent now; everything is kept, and goes on when it is back",
        )
    elif not workers:
        yield Attention(
            Kind.NO_WORKER, "No worker is running", "nothing is sent or checked before one starts: flask up"
        )


#: Until when a Redis that was away is believed to be, by its client, on the monotonic clock.
_away_until: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()


def live_workers() -> list[str] | None:
    """Names of the workers that live; None if Redis does not answer, or did not two seconds ago."""
    client = queue.redis_client()
    if time.monotonic() < _away_until.get(client, 0.0):
        return None
    try:
        return queue.live_workers()
    except queue.Unavailable:
        _away_until[client] = time.monotonic() + _AWAY_S
        return None


def _connections(workspace_id: int) -> Iterator[Attention]:
    """Trouble of single connections. Of each kind some are named, and the rest is one line."""
    by_kind: dict[Kind, list[Attention]] = {}
    for row in _troubled(workspace_id):
        for item in _trouble_of(row):
            by_kind.setdefault(item.kind, []).append(item)
    for kind, items in by_kind.items():
        if kind is Kind.NOT_COMPARED and len(items) > 1:
            yield _several_not_compared(items)
            continue
        yield from items[:_NAMED]
        if len(items) > _NAMED:
            yield Attention(kind, f"{len(items) - _NAMED} more connections", _MORE[kind])


_MORE = {
    Kind.KEY_REVIEW: "also sign with a key that nobody vouched for",
    Kind.HELD: "also wait for a person",
    Kind.BREAKER: "do not answer either",
    Kind.FAILING: "fail too",
    Kind.REQUEST: "want to be made",
    Kind.CLOCK_SKEW: "have a clock that is far off",
}


def _troubled(workspace_id: int) -> Sequence[Any]:
    trouble = sa.or_(
        _CONNECTION.c.status == ConnectionStatus.PENDING,
        _CONNECTION.c.key_review.is_(True),
        _CONNECTION.c.hold_code.is_not(None),
        _CONNECTION.c.failures > 0,
        _CONNECTION.c.breaker_opened_at.is_not(None),
        sa.and_(_CONNECTION.c.status == ConnectionStatus.ACTIVE, _CONNECTION.c.verified_at.is_(None)),
        sa.func.abs(_CONNECTION.c.clock_skew_ms) > clocks.NOTABLE_MS,
    )
    return db.session.execute(
        sa.select(
            _CONNECTION.c.public_id,
            _CONNECTION.c.status,
            _CONNECTION.c.key_review,
            _CONNECTION.c.hold_code,
            _CONNECTION.c.hold_since,
            _CONNECTION.c.denied_since,
            _CONNECTION.c.failures,
            _CONNECTION.c.wait_code,
            _CONNECTION.c.retry_at,
            _CONNECTION.c.breaker_opened_at,
            _CONNECTION.c.verified_at,
            _CONNECTION.c.remote_workspace_name,
            _CONNECTION.c.created_at,
            _CONNECTION.c.claimed_base_url,
            _PEER.c.name,
            _CONNECTION.c.clock_skew_ms,
        )
        .select_from(_CONNECTION.outerjoin(_PEER, _PEER.c.id == _CONNECTION.c.peer_id))
        .where(
            _CONNECTION.c.workspace_id == workspace_id,
            _CONNECTION.c.status.in_(LIVE),
            _CONNECTION.c.checked_at.is_not(None),
            trouble,
        )
        .order_by(_CONNECTION.c.id.desc())
        .limit(_LOOKED_AT)
    ).all()


def _trouble_of(row: Any) -> Iterator[Attention]:
    name = visible(row.name or row.claimed_base_url or "Somebody")
    if row.status is ConnectionStatus.PENDING:
        where = f"for its workspace {row.remote_workspace_name}, " if row.remote_workspace_name else ""
        yield Attention(
            Kind.REQUEST, f"{name} wants to connect", f"{where}asked", row.public_id, row.created_at
        )
        return
    if row.key_review:
        yield Attention(
            Kind.KEY_REVIEW,
            f"{name} signs with an unknown key",
            "nobody vouched for it; nothing moves before you decide",
            row.public_id,
        )
    elif is_lost(row):
        yield Attention(
            Kind.HELD,
            f"{name} has lost this connection",
            "it does not know it any more, as after a restored backup; its queue is held since",
            row.public_id,
            row.denied_since,
        )
    elif row.hold_code is not None:
        yield Attention(
            Kind.HELD,
            f"{name} refuses what we send",
            f"its answer was {spoken(row.hold_code)}; what waits for it is held since",
            row.public_id,
            row.hold_since,
        )
    elif row.breaker_opened_at is not None:
        yield Attention(
            Kind.BREAKER,
            f"{name} does not answer",
            f"{row.failures} failures in a row ({spoken(row.wait_code or 'no answer')}); next try",
            row.public_id,
            row.retry_at,
        )
    elif row.failures and row.status is ConnectionStatus.ACTIVE:
        in_a_row = f"{row.failures} requests in a row" if row.failures > 1 else "the last request"
        in_a_row += f" ({spoken(row.wait_code)})" if row.wait_code else ""
        yield Attention(
            Kind.FAILING, f"{name} fails", f"{in_a_row} failed; next try", row.public_id, row.retry_at
        )
    if abs(row.clock_skew_ms or 0) > clocks.NOTABLE_MS:
        yield _skewed(name, row)
    if row.status is ConnectionStatus.ACTIVE and row.verified_at is None and not row.key_review:
        yield Attention(
            Kind.NOT_COMPARED,
            f"{name}: key never compared",
            "its events are signed, but nobody checked whose key it is",
            row.public_id,
        )


def _skewed(name: str, row: Any) -> Attention:
    side = "ahead of" if row.clock_skew_ms > 0 else "behind"
    is_refused = abs(row.clock_skew_ms) > clocks.REFUSED_MS
    what = f"{name}: clock {abs(row.clock_skew_ms) // 1000} s {side} ours"
    why = (
        "more than the 300 s that are accepted"
        if is_refused
        else "up to 300 s are accepted; one of the two needs NTP"
    )
    return Attention(Kind.CLOCK_SKEW, what, why, row.public_id)


def _several_not_compared(items: Sequence[Attention]) -> Attention:
    names = [item.what.removesuffix(": key never compared") for item in items]
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return Attention(
        Kind.NOT_COMPARED,
        f"{len(items)} keys were never compared",
        f"{', '.join(names[:_NAMED])}{rest}: signed, but by whom?",
        items[0].connection_id,
    )


def _dead_letters(workspace_id: int) -> Iterator[Attention]:
    number = count_up_to(workspace_id, (DeliveryState.DEAD,))
    if not number:
        return
    last = db.session.execute(
        sa.select(Peer.name, Delivery.error_code, Delivery.created_at)
        .join(Connection, Connection.id == Delivery.connection_id)
        .outerjoin(Peer, Peer.id == Connection.peer_id)
        .where(Delivery.workspace_id == workspace_id, Delivery.state == DeliveryState.DEAD)
        .order_by(Delivery.id.desc())
        .limit(_LAST_DEAD)
    ).all()
    causes: dict[tuple[str, str], int] = {}
    for name, code, _created_at in last:
        causes[(name or "", code or "")] = causes.get((name or "", code or ""), 0) + 1
    (name, code), most = max(causes.items(), key=lambda cause: cause[1])
    of = f"the last {len(last)}" if number > len(last) else "them"
    share = "" if most == number == 1 else "all: " if most == number else f"{most} of {of}: "
    more = f"{COUNT_CAP:,}+" if number > COUNT_CAP else f"{number:,}"
    words = f"{more} dead letter{'' if number == 1 else 's'}"
    yield Attention(Kind.DEAD_LETTERS, words, f"{share}{visible(name)}, {spoken(code) or 'no reason kept'}")


def _holes(workspace_id: int) -> Iterator[Attention]:
    rows = db.session.execute(
        sa.select(Connection.public_id, Peer.name, Stream.hole_since)
        .join(Stream, Stream.connection_id == Connection.id)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(
            Connection.workspace_id == workspace_id,
            Connection.status == ConnectionStatus.ACTIVE,
            Stream.direction == Direction.INCOMING,
            Stream.hole_since < clock.now_ms() - HOLE_MS,
        )
        .order_by(Stream.hole_since)
        .limit(_NAMED)
    )
    for public_id, name, since in rows:
        yield Attention(
            Kind.MISSING,
            f"Events of {visible(name)} are missing",
            "there are holes in what it numbered for us since",
            public_id,
            since,
        )


def _approvals(workspace_id: int) -> Iterator[Attention]:
    rows = db.session.execute(
        sa.select(Subscription.event_type, Subscription.created_at, Peer.name)
        .join(Connection, Connection.id == Subscription.connection_id)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(
            Subscription.workspace_id == workspace_id,
            Subscription.direction == Direction.OUTGOING,
            Subscription.status == SubscriptionStatus.PENDING,
        )
        .order_by(Subscription.id)
        .limit(COUNT_CAP + 1)
    ).all()
    if not rows:
        return
    named = ", ".join(f"{visible(row.name)} {row.event_type}" for row in rows[:_NAMED])
    rest = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    plural = "subscription waits" if len(rows) == 1 else "subscriptions wait"
    yield Attention(
        Kind.APPROVAL,
        f"{min(len(rows), COUNT_CAP):,} {plural} for your approval",
        f"{named}{rest}; asked",
        at=rows[0].created_at,
    )


def _keys() -> Iterator[Attention]:
    keys = db.session.execute(
        sa.select(SigningKey.key_id, SigningKey.status, SigningKey.not_after).where(
            SigningKey.status.in_((KeyStatus.ACTIVE, KeyStatus.NEXT))
        )
    ).all()
    for key_id, status, not_after in keys:
        if status is KeyStatus.NEXT:
            known, of = told.adoption().get(key_id, (0, 0))
            yield Attention(
                Kind.ROTATION,
                f"The next key {key_id} is announced",
                f"{known} of {of} peers have it; it signs when you activate it",
            )
        elif not_after is not None and not_after - clock.now_ms() < KEY_ENDING_MS:
            yield Attention(
                Kind.KEY_ENDING,
                f"Key {key_id} ends",
                "rotate before it does; ends",
                at=not_after,
            )


def _had_event(workspace_id: int) -> bool:
    came = sa.select(Event.id).where(
        Event.workspace_id == workspace_id, Event.direction == Direction.INCOMING
    )
    went = sa.select(Delivery.id).where(
        Delivery.workspace_id == workspace_id, Delivery.state == DeliveryState.DELIVERED
    )
    return _any(came) or _any(went)


def _compared(workspace_id: int) -> Step:
    rows = db.session.execute(
        sa.select(Peer.name, Connection.verified_at)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(
            Connection.workspace_id == workspace_id,
            Connection.status == ConnectionStatus.ACTIVE,
        )
        .order_by(Connection.id)
        .limit(_LOOKED_AT)
    ).all()
    left = [visible(name) for name, verified_at in rows if verified_at is None]
    words = ""
    if left:
        words = f"{left[0]} is left" if len(left) == 1 else f"{len(left)} are left, {left[0]} first"
        words += "; takes one phone call"
    return Step("compared", bool(rows) and not left, "Compare the pairing code with every peer", words)


def _any(query: sa.Select[Any]) -> bool:
    return db.session.execute(query.limit(1)).first() is not None


def _number(query: sa.Select[Any], cap: int = COUNT_CAP) -> int:
    """Rows of the query, counted up to `cap` + 1."""
    some = query.limit(cap + 1).subquery()
    return db.session.scalar(sa.select(sa.func.count()).select_from(some)) or 0
