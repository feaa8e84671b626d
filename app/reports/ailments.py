"""Ailments: what keeps events from going over a connection now, in words, and what ends that.

kind           since                 ends
not_active     it never was, or ended
suspended      one side stopped it   whoever suspended resumes
paused         a person, here        `unpause`
key_review     an unvouched key      a person's decision
lost           24 h of denial        a person: ask the other side, or disconnect
held           a refusal             a person's `retry-now`, or the peer when it speaks to us
clock_skew     a refusal             somebody sets a clock; it is tried again meanwhile
breaker        5 failures in a row   a probe that passes, the peer when it speaks to us, `retry-now`
failing        the last failures     the same
asked_to_wait  429 or 503            the time that the peer named
"""

from typing import NamedTuple

from app import clock
from app.federation import clocks
from app.models import Connection
from app.protocol.errors import ClockSkew
from app.protocol.states import ConnectionStatus
from app.reports.times import rfc3339

#: So long a peer answers that it does not know the connection until it is said to have lost it (§4), ms.
LOST_AFTER_MS = 24 * 3_600_000

#: Kinds of what is held, so that no attempt is made at all.
HELD = frozenset({"not_active", "suspended", "paused", "key_review", "lost", "held"})

_RETRY = "`flask connection retry-now` tries at once."


class Ailment(NamedTuple):
    """One thing that keeps events from going. The words hold a peer's own: text, never markup."""

    kind: str
    detail: str
    #: What a person can do about it; empty if nothing.
    do: str = ""
    #: Since when, and when the next request goes by itself, ms.
    since: int | None = None
    next_at: int | None = None


def is_lost(connection: Connection) -> bool:
    """Whether the peer has said for a day that it does not know this connection (§4)."""
    since = connection.denied_since
    return since is not None and since <= clock.now_ms() - LOST_AFTER_MS


def what_ails(connection: Connection) -> Ailment | None:
    """What keeps our events from going over the connection, the worst if there are several; None: nothing."""
    return _what_holds(connection) or _what_delays(connection)


def _what_holds(connection: Connection) -> Ailment | None:
    status = connection.status
    if status is ConnectionStatus.SUSPENDED:
        by = "us" if connection.suspended_by_me else "the other side"
        do = "`flask connection resume` ends it." if connection.suspended_by_me else ""
        return Ailment("suspended", f"The connection is suspended by {by}; it goes when it is resumed.", do)
    if status is not ConnectionStatus.ACTIVE:
        return Ailment("not_active", f"The connection is {status.value}.")
    if connection.paused_outgoing:
        return Ailment("paused", "Sending is paused here.", "`flask connection unpause` goes on.")
    if connection.key_review:
        return Ailment(
            "key_review",
            "The other side has a key that nobody vouches for.",
            "`flask connection trust` accepts it.",
        )
    if is_lost(connection):
        return Ailment(
            "lost",
            f"The other side has lost this connection: it says so since {rfc3339(connection.denied_since)}.",
            "Ask its people: if they restored a backup without it, `flask connection disconnect` this one "
            "and request a new one; its dead letters can be sent over that.",
            connection.denied_since,
        )
    if connection.hold_code is not None:
        return Ailment(
            "held",
            f"The other side answered {connection.hold_code} ({connection.hold_detail or 'no detail'}).",
            "`flask connection retry-now` tries again.",
            connection.hold_since,
        )
    return None


def _what_delays(connection: Connection) -> Ailment | None:
    if connection.retry_at <= clock.now_ms():
        return None
    next_at = connection.retry_at
    at = f"next try at {rfc3339(next_at)}"
    if connection.wait_code == ClockSkew.code:
        return Ailment("clock_skew", f"{_clocks(connection)}; {at}.", f"{_SET_CLOCK} {_RETRY}", None, next_at)
    cause = connection.wait_code or "no answer"
    if connection.breaker_opened_at is not None:
        return Ailment(
            "breaker",
            f"The other side failed {connection.failures} times in a row ({cause}), so only single events "
            f"are tried since {rfc3339(connection.breaker_opened_at)}; {at}.",
            f"It goes on by itself when the other side is back. {_RETRY}",
            connection.breaker_opened_at,
            next_at,
        )
    if connection.failures:
        return Ailment(
            "failing",
            f"The other side failed {connection.failures} times in a row ({cause}); {at}.",
            _RETRY,
            None,
            next_at,
        )
    return Ailment("asked_to_wait", f"The other side asked to wait ({cause}); {at}.", _RETRY, None, next_at)


_SET_CLOCK = "Compare both with a time server (NTP) and set the wrong one; nothing is lost meanwhile."


def _clocks(connection: Connection) -> str:
    skew = connection.clock_skew_ms
    if skew is None or abs(skew) < clocks.REFUSED_MS:
        return "The other side says that our clocks differ by more than 5 minutes"
    return f"The other side's clock is {clocks.in_words(skew)}, and more than 5 minutes is refused"
