"""The story of one connection: how it came about, what comes next, and what was said and done since."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from app import clock
from app.database import db
from app.federation import controls, sending
from app.models import (
    Attempt,
    AuditEntry,
    Connection,
    ControlOut,
    ControlReceived,
    ControlState,
    Delivery,
    Direction,
    Event,
    Subscription,
)
from app.protocol.control import ControlType
from app.protocol.errors import ClockSkew
from app.protocol.states import (
    ENDED,
    LIVE_SUBSCRIPTION,
    ConnectionStatus,
    DeliveryState,
    SubscriptionStatus,
)
from app.reports.ailments import is_lost
from app.reports.peers import WAITING_CAP, name_of
from app.reports.words import spoken

#: Entries of a page of the history, and of "Lately".
PAGE = 50
_LATELY = 6


class Step(NamedTuple):
    """One step of the handshake. tone: ok, wait, bad, or todo."""

    word: str
    tone: str
    #: When it was taken, ms; None while it was not.
    at: int | None = None
    #: How long that took, in words.
    took: str = ""
    #: What is known of it, in words; in part remote text.
    evidence: str = ""
    #: What it waits for, while it was not taken.
    wait: str = ""


@dataclass(frozen=True, slots=True)
class Next:
    """The one thing to do about a connection, or to wait for. tone: ok, wait, warn, bad, hold."""

    tone: str
    lead: str
    why: str = ""
    #: A time that `lead` ends with, and how it is shown: ago or until.
    at: int | None = None
    show: str = "ago"
    #: What can be done: accept, reject, retry, ping, resume, compare, keys, subscribe, again, withdraw.
    actions: tuple[str, ...] = field(default=())


class Entry(NamedTuple):
    """One line of the history."""

    at: int
    #: ok, wait, warn, bad or off.
    tone: str
    #: us, them or here: who said or did it.
    who: str
    #: A type of control message, an action of the audit log, or what it is in words.
    what: str
    detail: str
    #: The control message's id.
    ref: str = ""
    #: Who did it, if it was done here.
    actor: str = ""

    @property
    def words(self) -> str:
        """`We asked for the connection`, `ann@example.org suspended it`; what has no words, as it is."""
        if self.who == "here":
            verb = _DEEDS.get(self.what)
            return f"{self.actor} {verb}" if verb else f"{self.actor}: {self.what}"
        verb = _VERBS.get(self.what)
        return f"{'We' if self.who == 'us' else 'They'} {verb}" if verb else self.what


#: What the sender of a control message does.
_VERBS = {
    ControlType.CONNECTION_REQUEST.value: "asked for the connection",
    ControlType.CONNECTION_ACCEPT.value: "accepted it",
    ControlType.CONNECTION_REJECT.value: "rejected it",
    ControlType.CONNECTION_SUSPEND.value: "suspended it",
    ControlType.CONNECTION_RESUME.value: "resumed it",
    ControlType.CONNECTION_DISCONNECT.value: "ended it",
    ControlType.VERIFICATION.value: "sent a test ping",
    ControlType.HEARTBEAT.value: "gave a sign of life",
    ControlType.KEYS_CHANGED.value: "announced a change of keys",
    ControlType.SUBSCRIPTION_REQUEST.value: "asked to subscribe, or to renew",
    ControlType.SUBSCRIPTION_APPROVE.value: "approved a subscription",
    ControlType.SUBSCRIPTION_REJECT.value: "rejected a subscription",
    ControlType.SUBSCRIPTION_REVOKE.value: "revoked a subscription",
    ControlType.SUBSCRIPTION_CANCEL.value: "cancelled a subscription",
    ControlType.REPLAY_REQUEST.value: "asked for a replay",
    ControlType.REPLAY_COMPLETE.value: "ended a replay",
    ControlType.GAP.value: "told of events that will not come",
}

#: What people do here to a connection, by the action in the audit log.
_DEEDS = {
    "connection.request": "asked for the connection",
    "connection.accept": "accepted it",
    "connection.reject": "rejected it",
    "connection.suspend": "suspended it",
    "connection.resume": "resumed it",
    "connection.disconnect": "ended it",
    "connection.ping": "sent a test ping",
    "connection.retry_now": "ended the wait and sent again",
    "connection.mark_verified": "compared the pairing code",
    "connection.keys_accept": "trusted the new key",
    "connection.keys_refuse": "refused the new key",
    "connection.pause": "paused it here",
    "connection.unpause": "let it go on here",
}


def steps(connection: Connection) -> list[Step]:
    """requested → reachable → accepted → first event → first ack."""
    found = [_requested(connection), _reachable(connection), _accepted(connection)]
    event = _first_event(connection)
    return [*found, event, _first_ack(connection, event)]


def _requested(connection: Connection) -> Step:
    ours = connection.direction is Direction.OUTGOING
    by = "by us" if ours else f"by them, for their workspace {connection.remote_workspace_name or '–'}"
    return Step("Requested", "ok", connection.created_at, evidence=by)


def _reachable(connection: Connection) -> Step:
    if connection.direction is Direction.INCOMING:
        return Step("Reachable", "ok", connection.checked_at, evidence="document signed, its address fits")
    request = db.session.scalar(
        sa.select(ControlOut).where(ControlOut.message_id == connection.request_message_id)
    )
    if request is not None and request.status_code is not None:
        took = f"{request.duration_ms} ms" if request.duration_ms is not None else ""
        answered = "they answered" if request.state is ControlState.ANSWERED else f"{request.status_code}"
        return Step("Reachable", "ok", request.answered_at or request.created_at, took, answered)
    if connection.activated_at is not None:
        return Step("Reachable", "ok", connection.activated_at, evidence="document signed, its address fits")
    reason = request.error_detail if request is not None else None
    wait = "the request is on its way" if not reason else "tried again by itself"
    return Step("Reachable", "bad" if reason else "wait", evidence=reason or "", wait=wait)


def _accepted(connection: Connection) -> Step:
    ours = connection.direction is Direction.OUTGOING
    if connection.activated_at is not None:
        by = f"by {'them' if ours else 'us'}"
        version = f", protocol {connection.version}" if connection.version else ""
        return Step("Accepted", "ok", connection.activated_at, evidence=by + version)
    if connection.status in ENDED:
        return Step("Accepted", "bad", connection.closed_at, evidence=connection.status.value)
    return Step("Accepted", "wait", wait=f"waits for {'them' if ours else 'you'}")


def _first_event(connection: Connection) -> Step:
    came = db.session.execute(
        sa.select(Event.created_at, Event.event_type)
        .where(Event.connection_id == connection.id)
        .order_by(Event.id)
        .limit(1)
    ).first()
    went = db.session.execute(
        sa.select(Delivery.created_at, Delivery.event_type)
        .where(Delivery.connection_id == connection.id)
        .order_by(Delivery.id)
        .limit(1)
    ).first()
    first = min((row for row in (came, went) if row is not None), key=lambda row: row[0], default=None)
    if first is None:
        return Step("First event", "todo", wait="after a subscription")
    way = "from them" if first is came else "to them"
    return Step("First event", "ok", first[0], evidence=f"{first[1]}, {way}")


def _first_ack(connection: Connection, event: Step) -> Step:
    row = db.session.execute(
        sa.select(Delivery.created_at, Delivery.delivered_at)
        .where(Delivery.connection_id == connection.id, Delivery.state == DeliveryState.DELIVERED)
        .order_by(Delivery.sequence, Delivery.id)
        .limit(1)
    ).first()
    if row is not None and row.delivered_at is not None:
        took = f"{_length(row.delivered_at - row.created_at)} later"
        return Step("First ack", "ok", row.delivered_at, took, "signed by them, verified here")
    if event.at is not None and event.evidence.endswith("from them"):
        return Step("First ack", "ok", event.at, evidence="signed by us, in the answer")
    return Step("First ack", "todo")


def _length(took_ms: int) -> str:
    """`44 ms`, `12 s`, `7 min`, `5 h`, `3 d`."""
    for unit, size_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if took_ms >= size_ms:
            return f"{took_ms // size_ms} {unit}"
    return f"{took_ms} ms"


def next_step(connection: Connection, waiting: int) -> Next:
    """What to do, the worst first. waiting: deliveries that wait for this connection."""
    match connection.status:
        case ConnectionStatus.PENDING:
            return _next_of_theirs(connection)
        case ConnectionStatus.REQUESTED:
            return _next_of_ours(connection)
        case ConnectionStatus.SUSPENDED:
            return _next_suspended(connection, waiting)
        case ConnectionStatus.ACTIVE:
            return _next_active(connection, waiting)
    reason = f"Reason given: {connection.reason}" if connection.reason else "No reason was given."
    return Next(
        "hold",
        f"This connection has ended: {connection.status.value}",
        f"{reason} Its events, acks and signatures stay. To exchange events again, one of you asks again.",
        connection.closed_at,
        actions=("again",),
    )


def _next_of_theirs(connection: Connection) -> Next:
    expires = connection.created_at + sending.REQUEST_LIFE_MS
    if controls.waiting(connection.id, ControlType.CONNECTION_ACCEPT) is not None:
        return Next(
            "wait",
            "You accepted; they have not answered yet",
            "It becomes active by itself when they do. Until then our word is repeated.",
            actions=("retry",),
        )
    return Next(
        "wait",
        "Accept or reject their request; it expires",
        "Nothing is exchanged before you accept. Accepting sends no events: they must still subscribe, and "
        "you approve that too.",
        expires,
        "until",
        ("accept", "reject"),
    )


def _next_of_ours(connection: Connection) -> Next:
    expires = connection.created_at + sending.REQUEST_LIFE_MS
    request = controls.waiting(connection.id, ControlType.CONNECTION_REQUEST)
    if request is not None and request.attempts:
        return Next(
            "warn",
            "Our request has not reached them",
            f"{request.error_detail or 'No answer yet'}. It is tried again by itself until it expires.",
            request.next_attempt_at,
            "until",
            ("retry", "withdraw"),
        )
    return Next(
        "wait",
        "Waiting for them to accept; the request expires",
        "Meanwhile, compare the pairing code with them by phone: they see the same one.",
        expires,
        "until",
        ("withdraw",),
    )


def _next_suspended(connection: Connection, waiting: int) -> Next:
    held = _held(waiting)
    reason = f" Reason given: {connection.reason}" if connection.reason else ""
    if not connection.suspended_by_me:
        return Next(
            "hold", "They suspended it; only they can resume it", f"{held}{reason}", actions=("ping",)
        )
    both = " They suspended it too, so that both of you have to." if connection.suspended_by_peer else ""
    return Next(
        "hold", "Suspended by us: resume it to let events flow", f"{held}{both}{reason}", actions=("resume",)
    )


def _next_active(connection: Connection, waiting: int) -> Next:
    held = _held(waiting)
    if connection.key_review:
        return Next(
            "bad",
            "They sign with a key that nobody vouched for",
            f"{held} Nothing moves in either direction before you compare the new key with them and decide.",
            actions=("keys",),
        )
    if is_lost(connection):
        return Next(
            "bad",
            "They have lost this connection",
            f"They answer that they do not know it, as after a restored backup. {held} Ask their people; "
            "if it is gone there, disconnect this one and request a new one.",
            connection.denied_since,
            actions=("ping",),
        )
    if connection.hold_code is not None:
        return Next(
            "bad",
            f"They refuse what we send: {spoken(connection.hold_code)}; stopped",
            f"{connection.hold_detail or ''} {held} Speak with them, then try again.".strip(),
            connection.hold_since,
            actions=("retry", "ping"),
        )
    if connection.wait_code == ClockSkew.code and connection.retry_at > clock.now_ms():
        return Next(
            "warn",
            "Our clocks differ by more than 5 minutes. Next try",
            f"They refuse what is signed at another time. {held} Compare both with a time server (NTP).",
            connection.retry_at,
            "until",
            ("retry", "ping"),
        )
    if connection.breaker_opened_at is not None:
        return Next(
            "warn",
            "They do not answer. Next try",
            f"{_cause(connection)}: one request now and then tries whether they are back. {held} "
            "All goes on by itself when they answer or send us anything.",
            connection.retry_at,
            "until",
            ("retry", "ping"),
        )
    if connection.failures:
        return Next(
            "warn",
            "The last request failed. Next try",
            f"{_cause(connection)}. {held} Tried again by itself, after longer and longer waits.",
            connection.retry_at,
            "until",
            ("retry", "ping"),
        )
    if connection.wait_code is not None and connection.retry_at > clock.now_ms():
        return Next(
            "wait",
            "They asked us to wait. Next request",
            f"Their answer was {spoken(connection.wait_code)}, which is no failure. {held}",
            connection.retry_at,
            "until",
            ("retry",),
        )
    return _next_well(connection)


def _held(waiting: int) -> str:
    if not waiting:
        return "Nothing waits."
    if waiting == 1:
        return "1 delivery is held and uses up no attempts."
    number = f"More than {WAITING_CAP:,}" if waiting > WAITING_CAP else f"{waiting:,}"
    return f"{number} deliveries are held in order and use up no attempts."


def _cause(connection: Connection) -> str:
    """`5 failures in a row (timeout: no answer within 15 s)`."""
    code = spoken(connection.wait_code) if connection.wait_code else ""
    why = ": ".join(text for text in (code, connection.wait_detail) if text)
    number = "A failure" if connection.failures == 1 else f"{connection.failures} failures in a row"
    return f"{number} ({why})" if why else number


def _protected(connection: Connection) -> str:
    """How what crosses the connection is protected; without TLS nothing is encrypted."""
    is_encrypted = connection.peer is not None and connection.peer.base_url.startswith("https://")
    return "encrypted and signed" if is_encrypted else "signed"


def _next_well(connection: Connection) -> Next:
    if connection.paused_outgoing or connection.paused_incoming:
        ways = [
            words
            for words, paused in (
                ("what we send", connection.paused_outgoing),
                ("what they send", connection.paused_incoming),
            )
            if paused
        ]
        return Next("hold", f"Paused here: {' and '.join(ways)}", "They were not told.", actions=("unpause",))
    if connection.verified_at is None:
        return Next(
            "warn",
            f"Compare the pairing code with {name_of(connection)}",
            f"Every event is {_protected(connection)}, but nobody has checked yet whose key it is.",
            actions=("compare", "ping"),
        )
    if not any(subscription_counts(connection.id)):
        return Next(
            "wait",
            "Subscribe to their events, or wait until they subscribe to yours",
            "The connection is ready; no events flow before somebody subscribes.",
            actions=("subscribe", "ping"),
        )
    return Next("ok", "Events can flow both ways; nothing to do", actions=("ping",))


def subscription_counts(connection_id: int) -> tuple[int, int]:
    """Live subscriptions: of theirs to our events, and of ours to theirs."""
    rows = dict(
        db.session.execute(
            sa.select(Subscription.direction, sa.func.count())
            .where(Subscription.connection_id == connection_id, Subscription.status.in_(LIVE_SUBSCRIPTION))
            .group_by(Subscription.direction)
        ).all()
    )
    return rows.get(Direction.OUTGOING, 0), rows.get(Direction.INCOMING, 0)


class Subscribed(NamedTuple):
    """One subscription of a connection, for its own tab."""

    public_id: str
    direction: Direction
    pattern: str
    status: SubscriptionStatus
    lease_expires_at: int | None
    reason: str | None
    created_at: int


def subscriptions(connection_id: int) -> list[Subscribed]:
    """The connection's newest 100 subscriptions, those that live first."""
    live = sa.case((Subscription.status.in_(LIVE_SUBSCRIPTION), 0), else_=1)
    rows = db.session.scalars(
        sa.select(Subscription)
        .where(Subscription.connection_id == connection_id)
        .order_by(live, Subscription.id.desc())
        .limit(100)
    )
    return [
        Subscribed(
            row.public_id,
            row.direction,
            row.granted_event_type or row.event_type,
            row.status,
            row.lease_expires_at,
            row.reason,
            row.created_at,
        )
        for row in rows
    ]


# What was said and done


def history(
    connection: Connection, before_ms: int | None = None, *, with_heartbeats: bool = False, limit: int = PAGE
) -> tuple[list[Entry], int | None]:
    """Newest first: control messages both ways, and what people did here. The time to go on before, or None.

    Theirs are kept for 8 days, ours and the audit log for as long as the connection.
    """
    until = clock.now_ms() + 1 if before_ms is None else before_ms
    found = [
        *_said_by_us(connection, until, with_heartbeats, limit),
        *_said_by_them(connection, until, with_heartbeats, limit),
        *_done_here(connection, until, limit),
    ]
    found.sort(key=lambda entry: entry.at, reverse=True)
    more = len(found) > limit
    return found[:limit], found[limit - 1].at if more else None


def lately(connection: Connection) -> list[Entry]:
    """The last few things: requests with events, what was said, and what was done here."""
    attempts = db.session.scalars(
        sa.select(Attempt)
        .where(Attempt.connection_id == connection.id)
        .order_by(Attempt.id.desc())
        .limit(_LATELY)
    )
    found = [_attempt(row) for row in attempts]
    found += history(connection, limit=_LATELY)[0]
    return sorted(found, key=lambda entry: entry.at, reverse=True)[:_LATELY]


def _attempt(row: Attempt) -> Entry:
    events = f"{row.size} event{'' if row.size == 1 else 's'}"
    if row.error_code is None:
        what = f"{events} sent and answered in {row.duration_ms:,} ms"
        return Entry(row.started_at, "ok", "us", what, "")
    detail = row.error_detail or row.error_code
    return Entry(
        row.started_at, "warn", "us", f"Request with {events} failed: {spoken(row.error_code)}", detail
    )


_TONES = {
    ControlState.WAITING: "wait",
    ControlState.HELD: "warn",
    ControlState.ANSWERED: "ok",
    ControlState.REFUSED: "bad",
    ControlState.GIVEN_UP: "off",
}


def _said_by_us(connection: Connection, before_ms: int, with_heartbeats: bool, limit: int) -> Iterator[Entry]:
    query = sa.select(ControlOut).where(
        ControlOut.connection_id == connection.id, ControlOut.created_at < before_ms
    )
    if not with_heartbeats:
        query = query.where(ControlOut.type != ControlType.HEARTBEAT.value)
    for row in db.session.scalars(query.order_by(ControlOut.control_sequence.desc()).limit(limit + 1)):
        yield Entry(row.created_at, _TONES[row.state], "us", row.type, _came_of(row), row.message_id)


def _came_of(row: ControlOut) -> str:
    """What a message of ours came to, in words."""
    why = f": {row.error_detail or row.error_code}" if row.error_detail or row.error_code else ""
    match row.state:
        case ControlState.ANSWERED:
            return f"answered in {row.duration_ms:,} ms" if row.duration_ms else "answered"
        case ControlState.WAITING:
            return f"not answered yet, tried again by itself{why}" if row.attempts else "not sent yet"
        case ControlState.HELD:
            return f"held back{why}"
        case ControlState.REFUSED:
            return f"refused by them{why}"
        case ControlState.GIVEN_UP:
            return f"given up{why}"


def _said_by_them(
    connection: Connection, before_ms: int, with_heartbeats: bool, limit: int
) -> Iterator[Entry]:
    query = sa.select(ControlReceived).where(
        ControlReceived.connection_id == connection.id, ControlReceived.received_at < before_ms
    )
    if not with_heartbeats:
        query = query.where(ControlReceived.type != ControlType.HEARTBEAT.value)
    for row in db.session.scalars(query.order_by(ControlReceived.id.desc()).limit(limit + 1)):
        taken = row.status_code < 300
        code = "" if taken else _problem_code(row.answer)
        said = "answered by us" if taken else f"refused by us{': ' if code else ''}{code}"
        yield Entry(row.received_at, "ok" if taken else "bad", "them", row.type, said, row.message_id)


def _problem_code(answer: str) -> str:
    try:
        return str(orjson.loads(answer).get("code") or "")
    except orjson.JSONDecodeError:
        return ""


def _done_here(connection: Connection, before_ms: int, limit: int) -> Iterator[Entry]:
    rows: Sequence[AuditEntry] = db.session.scalars(
        sa.select(AuditEntry)
        .where(
            AuditEntry.object_kind == "connection",
            AuditEntry.object_id == connection.public_id,
            AuditEntry.at < before_ms,
        )
        .order_by(AuditEntry.id.desc())
        .limit(limit + 1)
    ).all()
    for row in rows:
        yield Entry(row.at, "off", "here", row.action, _reason_of(row.after), actor=row.actor_name)


#: What the audit log keeps of an act that people read here; the rest is in the log.
_TOLD = ("reason", "direction")


def _reason_of(after: str | None) -> str:
    try:
        value: dict[str, Any] = orjson.loads(after or "{}")
    except orjson.JSONDecodeError:
        return ""
    return ", ".join(str(value[name]) for name in _TOLD if value.get(name))
