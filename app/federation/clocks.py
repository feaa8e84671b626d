"""Clocks: how far a peer's clock is from ours, by every answer that tells it.

An ack has its time in ms, a problem may have `serverTime`, and any answer a `Date` in whole seconds. Compared
is the middle of the call, so a slow network makes no skew; only who is wrong, nobody can tell from one peer.
"""

from typing import Any

from app import clock
from app.backoff import parse_http_date
from app.protocol.http_signature import MAX_SKEW_S
from app.transport.client import Answer

#: Apart by more than this, two clocks refuse each other's requests (§1.4).
REFUSED_MS = MAX_SKEW_S * 1000
#: From here on somebody should look, long before anything is refused.
NOTABLE_MS = 60_000

#: Larger differences than this, some 30 years, are noise.
_ABSURD_MS = 10**12


def skew_ms(answer: Answer, told_ms: Any = None) -> int | None:
    """The peer's clock minus ours; None if the answer does not tell.

    told_ms: its time as the ack or the problem says it; what is no integer counts as not told.
    """
    theirs = told_ms if type(told_ms) is int else _date_of(answer)
    if theirs is None:
        return None
    skew = theirs - (clock.now_ms() - answer.duration_ms // 2)
    return skew if abs(skew) < _ABSURD_MS else None


def _date_of(answer: Answer) -> int | None:
    date = parse_http_date(answer.headers.get("date", ""))
    # Cut to the second, so half a second less than it was.
    return None if date is None else date + 500


def in_words(skew: int) -> str:
    """The skew for people: "12 s ahead of ours", "3 min behind ours"."""
    apart_s = abs(skew) / 1000
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if apart_s >= 2 * seconds:
            return f"{apart_s / seconds:.0f} {unit} {'ahead of' if skew > 0 else 'behind'} ours"
    return f"{apart_s:.1f} s {'ahead of' if skew > 0 else 'behind'} ours"
