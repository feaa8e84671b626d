"""How pages write values: times, lengths of time, ids, states. The filters and globals of the templates."""

import json
from typing import Any, NamedTuple

from flask import Flask

from app import clock
from app.reports.times import moment, rfc3339
from app.reports.words import shortened, visible


class Look(NamedTuple):
    """How a state is shown: its group of colours, and its icon."""

    group: str
    icon: str


def _looks() -> dict[str, Look]:
    groups = {
        ("ok", "check-lg"): "delivered active verified acked stored valid working complete done ready",
        ("wait", "clock"): "pending sending requested next queued scheduled started running waiting asked",
        ("warn", "exclamation-triangle-fill"): (
            "retrying failing unverified partial keyReview key_review draining late missing"
        ),
        ("bad", "x-lg"): "dead rejected refused bad_signature revoked failed lost",
        ("hold", "pause-fill"): "suspended paused held",
        ("off", "dash-lg"): (
            "cancelled expired disconnected unsubscribed retired finished idle unknown withdrawn closed ended"
        ),
    }
    return {word: Look(*look) for look, words in groups.items() for word in words.split()}


#: Any value of a state on any page. Amber goes on by itself; red stopped, or a person must act.
STATES: dict[str, Look] = _looks()

_OTHER = Look("off", "dash-lg")

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def look(state: str) -> Look:
    """How a state is shown; one that is not known is grey."""
    return STATES.get(str(state), _OTHER)


def words(state: str) -> str:
    """A state in words: `keyReview` and `key_review` are "key review"."""
    text = str(state).replace("_", " ")
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in text).strip()


def full(timestamp_ms: int) -> str:
    """`24 Nov 2026, 14:08:31.204 UTC`."""
    at = moment(timestamp_ms)
    return f"{at.day} {at:%b %Y, %H:%M:%S}.{timestamp_ms % 1000:03d} UTC"


def span(seconds: float) -> str:
    """A length of time in its largest unit, as live.js writes it: `3 h`."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def countdown(seconds: float) -> str:
    """What is left: `4 min 10 s` below an hour, because people wait for it; the nearest unit above.

    >>> countdown(14 * 86_400 - 1)
    '14 d'
    """
    if 60 <= seconds < 3_600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    half = 43_200 if seconds >= 86_400 else 1_800 if seconds >= 3_600 else 0
    return span(seconds + half)


def when(timestamp_ms: int, show: str = "ago") -> str:
    """A time as the page shows it. show: ago, until, clock, ms, day, date, or anything else for all of it."""
    away_s = (timestamp_ms - clock.now_ms()) / 1000
    at = moment(timestamp_ms)
    match show:
        case "ago":
            return f"{span(-away_s)} ago"
        case "until":
            return f"in {countdown(away_s)}" if away_s > 0 else "now"
        case "clock":
            return f"{at:%H:%M:%S}"
        case "ms":
            return f"{at:%H:%M:%S}.{timestamp_ms % 1000:03d}"
        case "day":
            return f"{at.day} {at:%b %H:%M}"
        case "date":
            return f"{at.day} {at:%b %Y}"
        case "log":
            return f"{at.day} {at:%b %H:%M:%S}.{timestamp_ms % 1000:03d}"
    return full(timestamp_ms)


def middle(value: str) -> str:
    """A long id with its middle left out."""
    return value if len(value) <= 14 else f"{value[:8]}…{value[-4:]}"


def groups(value: str, size: int) -> list[str]:
    """A text in pieces of `size` characters."""
    return [value[start : start + size] for start in range(0, len(value), size)]


def size(bytes_: int) -> str:
    """Bytes for people: `512 B`, `4.2 kB`, `1.5 MB`."""
    if bytes_ < 1_000:
        return f"{bytes_} B"
    return f"{bytes_ / 1_000:.1f} kB" if bytes_ < 1_000_000 else f"{bytes_ / 1_000_000:.1f} MB"


def number(value: int, cap: int | None = None) -> str:
    """A count with its thousands apart; one that was counted up to a cap says so: `10,000+`."""
    return f"{value:,}+" if cap is not None and value >= cap else f"{value:,}"


def count(value: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: `1 event`, `3 events`."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def pretty(value: Any) -> str:
    """JSON over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def leaf(value: Any) -> str:
    """One JSON value on a line."""
    return json.dumps(value, ensure_ascii=False)


def spark_path(values: list[float]) -> str:
    """Values as the path of a line of 64 by 20."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    step = 64 / (len(values) - 1)
    points = (
        (number * step, 18 - 16 * (value - low) / ((high - low) or 1)) for number, value in enumerate(values)
    )
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def strip_mark(share: float | None) -> tuple[str, int]:
    """Colour and height of one day: the share of failures, or None without traffic."""
    if share is None:
        return "off", 1
    return ("ok", 4) if share == 0 else ("warn", 9) if share < 0.5 else ("bad", 14)


def strip_words(days: list[float | None]) -> str:
    """The same days as a sentence."""
    quiet, bad = sum(day is None for day in days), [day for day in days if day]
    text = f"{len(days)} days: {len(days) - quiet - len(bad)} without failures"
    text += f", {len(bad)} with failures (worst {max(bad):.0%})" if bad else ""
    return text + (f", {quiet} without traffic" if quiet else "")


def register(app: Flask) -> None:
    """Give the templates their filters."""
    filters = (
        full,
        when,
        span,
        countdown,
        middle,
        groups,
        size,
        number,
        count,
        pretty,
        leaf,
        spark_path,
        strip_mark,
        strip_words,
        look,
        words,
        shortened,
        visible,
    )
    app.jinja_env.filters |= {one.__name__: one for one in filters} | {"iso": rfc3339}
