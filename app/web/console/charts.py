"""Charts: numbers as places in a picture. The pictures themselves are SVG in the templates' macros.

Widths are percentages and heights pixels, so that text keeps its size whatever the page's width.
"""

from collections.abc import Callable, Sequence
from typing import Any

from app.reports.times import moment
from app.reports.traffic import Mark, Traffic

#: Pixels from the top to the base line, and of the highest bar.
BASE = 124
FULL = 112
#: A bar that stands for something is never lower than this, pixels.
_LEAST = 2
_DAY_MS = 86_400_000


def bars(traffic: Traffic, href: Callable[[int, int], str]) -> dict[str, Any]:
    """The deliveries of a period as stacked bars, one link a bucket. href: from beginning and end, in ms."""
    lines = [traffic.bars[Mark.DELIVERED], traffic.bars[Mark.WAITING], traffic.bars[Mark.DEAD]]
    top = round_up(max(map(sum, zip(*lines, strict=True)), default=0))
    step = 100 / traffic.period.buckets
    buckets, rows = [], []
    for number, start_ms in enumerate(traffic.starts()):
        values = tuple(line[number] for line in lines)
        end_ms = start_ms + traffic.period.step_ms
        delivered, waiting, dead = values
        words = f"{_clock(start_ms)} to {_clock(end_ms)} UTC: "
        ok, warn, bad = stack(values, top)
        if any(values):
            buckets.append(
                {
                    "x": round(number * step, 3),
                    "step": round(step, 3),
                    "width": round(step * 0.78, 3),
                    "href": href(start_ms, end_ms),
                    "title": f"{words}{delivered:,} delivered, {waiting:,} waiting, {dead:,} dead",
                    "ok": ok,
                    "warn": warn,
                    "bad": bad,
                }
            )
            rows.append((start_ms, href(start_ms, end_ms), *values))
    return {
        "buckets": buckets,
        "ticks": [(BASE, "0"), (BASE - FULL // 2, f"{top // 2:,}"), (BASE - FULL, f"{top:,}")],
        "hours": _hours(traffic),
        "rows": rows[::-1],
    }


def stack(values: Sequence[int], top: int) -> list[tuple[float, float]]:
    """Top edge and height of each part of a bar, from the base line up."""
    parts, y = [], float(BASE)
    for value in values:
        height = max(round(value / top * FULL, 1), _LEAST) if value else 0
        y = round(y - height, 1)
        parts.append((y, height))
    return parts


def round_up(value: int) -> int:
    """The next number that reads well on an axis, and whose half does too; at least 4."""
    if value <= 4:
        return 4
    size: int = 10 ** (len(str(value)) - 1)
    return next(step for step in (size, 2 * size, 4 * size, 6 * size, 8 * size, 10 * size) if step >= value)


def sentence(traffic: Traffic) -> str:
    """What the bars show, for who does not see them."""
    totals = [traffic.total(mark) for mark in Mark]
    if not any(totals):
        return f"No deliveries in the {traffic.period.words}."
    sums = [sum(parts) for parts in zip(*traffic.bars.values(), strict=True)]
    highest = sums.index(max(sums))
    at = _clock(traffic.starts()[highest])
    return (
        f"{totals[0]:,} delivered, {totals[1]:,} waiting, {totals[2]:,} dead; most, {max(sums):,} per "
        f"{traffic.period.step_words}, from {at} UTC."
    )


def _hours(traffic: Traffic) -> list[tuple[int, str]]:
    """Four times below the base line, short enough for a narrow screen, and the end."""
    starts = traffic.starts()
    form = "%-d %b" if traffic.period.step_ms * traffic.period.buckets > _DAY_MS else "%H:%M"
    return [
        *((share, _moment(starts[len(starts) * share // 100], form)) for share in (0, 25, 50, 75)),
        (100, "now"),
    ]


def _clock(timestamp_ms: int) -> str:
    return _moment(timestamp_ms, "%-d %b %H:%M")


def _moment(timestamp_ms: int, form: str) -> str:
    return moment(timestamp_ms).strftime(form)
