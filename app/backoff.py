"""When to try again: the retry schedule, the probes of the breaker, Retry-After (§8). Times in ms."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from random import Random

_SECOND = 1000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE

#: Until an event is this old it is retried; then it is a dead letter.
MAX_RETRY_AGE_MS = 7 * 24 * _HOUR
#: Network or 5xx failures in a row that open the breaker of a connection.
BREAKER_FAILURES = 5

_FIRST_DELAY, _LONGEST_DELAY = 5 * _SECOND, 6 * _HOUR
#: No wait is longer: the longest delay with its spread, ms.
LONGEST_WAIT_MS = _LONGEST_DELAY * 6 // 5
_FIRST_PROBE, _LONGEST_PROBE = 30 * _SECOND, 60 * _MINUTE
_SHORTEST_WAIT, _LONGEST_WAIT = _SECOND, _HOUR


def retry_delay(failures: int, rng: Random) -> int:
    """Wait before the next try: min(6 h, 5 s · 3ⁿ) · U(0.8, 1.2) for n failures in a row, from 0.

    Spread by ±20 % so that a peer that comes back is not hit by all at once.
    """
    # 3**8 · 5 s is past 6 h already; without the bound an old failure makes a huge integer.
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * int(3 ** min(failures, 8)))
    return round(delay * rng.uniform(0.8, 1.2))


def untold_wait(waits: int, rng: Random) -> int:
    """Wait after a 429 or 503 that does not say how long, for so many of them in a row, from 0.

    By the schedule of failures, though it is none, but no longer than Retry-After may ask for.
    """
    return min(_LONGEST_WAIT, retry_delay(waits, rng))


def schedule() -> list[int]:
    """The waits between tries without their spread, up to the longest, which then repeats."""
    waits: list[int] = []
    while not waits or waits[-1] < _LONGEST_DELAY:
        waits.append(min(_LONGEST_DELAY, _FIRST_DELAY * 3 ** len(waits)))
    return waits


def probe_delay(probes: int) -> int:
    """Wait before the next probe of an open breaker: 30 s, then 1, 2, 4 … at most 60 min; `probes` from 0."""
    return min(_LONGEST_PROBE, _FIRST_PROBE * int(2 ** min(probes, 7)))


def is_breaker_open(failures: int) -> bool:
    """Whether so many network or 5xx failures in a row open the breaker."""
    return failures >= BREAKER_FAILURES


def parse_retry_after(value: str | None, now_ms: int) -> int | None:
    """The wait that Retry-After asks for (RFC 9110 §10.2.3), held to 1 s … 1 h; None if unreadable."""
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,18}", text):
        wait = int(text) * _SECOND
    else:
        until = parse_http_date(text)
        if until is None:
            return None
        wait = until - now_ms
    return max(_SHORTEST_WAIT, min(_LONGEST_WAIT, wait))


def parse_http_date(text: str) -> int | None:
    """An HTTP date (RFC 9110 §5.6.7) as Unix ms; None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
