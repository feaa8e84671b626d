"""The report: what is kept of a run, and the page and the picture that are made of it.

python -m bench --save      measure, keep, and make them
python -m bench.report      make them anew from what was kept
"""

import csv
import html
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from app.config import ROOT, VERSION

#: What the names of figures of pages begin with.
PAGE = "page "

LATEST = ROOT / "bench" / "latest.json"
HISTORY = ROOT / "bench" / "history.csv"
TEXT = ROOT / "docs" / "explanation" / "performance.md"
PICTURE = ROOT / "docs" / "images" / "performance.svg"

BEGIN, END = "<!-- figures: made by `python -m bench.report` -->", "<!-- end of figures -->"

YARDSTICK = "yardstick: RSA-2048 signatures, one thread"
BATCH, SINGLE = "W1, batches of 100, 2 clients", "W1, one event a call, 8 clients"
LONE, LONE_P99 = "lone event, p50", "lone event, p99"
CPU = "CPU an event in batches, both sides"
REST = "one instance at rest (PSS)"

#: Columns of the history: name there, name of the figure.
COURSE = {
    "batch_x": BATCH,
    "single_x": SINGLE,
    "cpu_ms": CPU,
    "lone_p50_ms": LONE,
    "lone_p99_ms": LONE_P99,
    "rest_mb": REST,
}

#: Others at the same work (5,000 events of 1 KB, stored at the receiver in PostgreSQL), as a multiple of the
#: same yardstick, measured in one run on a machine of this kind with other work beside it, 2026-11-24.
OTHERS = (
    ("NATS JetStream, leaf node, pipelined (no fsync)", 2.60),
    ("RabbitMQ federation, pipelined (unsigned)", 1.66),
    ("NATS JetStream, one a call (no fsync)", 1.12),
    ("RabbitMQ federation, one a call (unsigned)", 0.76),
    ("NATS JetStream, with fsync", 0.40),
    ("Fedify (signed by ActivityPub)", 0.02),
    ("Flask, RQ and requests as first written (signed)", 0.01),
)

_ENGINES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


class Bar(NamedTuple):
    """A line of the picture."""

    label: str
    value: float
    is_ours: bool


def save(figures: Sequence[Mapping[str, Any]]) -> None:
    """Keep a run's figures and add it to the history; then make the page and the picture."""
    run = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "version": VERSION,
        "machine": f"{os.cpu_count()} cores, {_processor()}, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}",
        "load": round(os.getloadavg()[2], 1),
        "figures": list(figures),
    }
    LATEST.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    _remember(run)
    write()


def write() -> None:
    """Make the page and the picture of what is kept."""
    run = json.loads(LATEST.read_text(encoding="utf-8"))
    TEXT.write_text(filled(TEXT.read_text(encoding="utf-8"), run), encoding="utf-8")
    PICTURE.write_text(picture(run), encoding="utf-8")


def filled(text: str, run: Mapping[str, Any]) -> str:
    """The page with the figures of the run between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(run)}\n{END}{after}"


def tables(run: Mapping[str, Any]) -> str:
    """All figures, with what is wanted of each, as Markdown."""
    figures = run["figures"]
    others = [figure for figure in figures if not figure["name"].startswith(PAGE)]
    paged = [figure for figure in figures if figure["name"].startswith(PAGE)]
    # A run alone keeps two cores busy, or three.
    busy = " Other work ran beside it: ratios mean more than figures." if run["load"] > 3 else ""
    parts = [
        f"Run of {run['date']}, version {run['version']}: {run['machine']}; load {run['load']}.{busy}\n",
        _table(others),
    ]
    if paged:
        parts += ["\nThe slowest ten pages and lists, p95:\n", _table(_slowest(paged))]
    return "\n".join(parts)


def _slowest(figures: Sequence[Mapping[str, Any]], number: int = 10) -> list[Mapping[str, Any]]:
    by_name: dict[str, float] = {}
    for figure in figures:
        by_name[figure["name"]] = max(by_name.get(figure["name"], 0.0), figure["measured"])
    names = sorted(by_name, key=lambda name: -by_name[name])[:number]
    return [figure for name in names for figure in figures if figure["name"] == name]


def _table(figures: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(figure["name"] for figure in figures))
    engines = [engine for engine in _ENGINES if any(figure["engine"] == engine for figure in figures)]
    lines = ["| | " + " | ".join(f"{_ENGINES[engine]} | wanted" for engine in engines) + " |"]
    lines.append("|---|" + "---:|---:|" * len(engines))
    for name in names:
        cells = []
        for engine in engines:
            found = next((f for f in figures if f["name"] == name and f["engine"] == engine), None)
            cells += ["", ""] if found is None else [_measured(found), _wanted(found)]
        shown = name.removeprefix(PAGE)
        lines.append(f"| {f'`{shown}`' if shown != name else name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _measured(figure: Mapping[str, Any]) -> str:
    value = figure["measured"]
    text = f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    ratio = "" if figure["ratio"] is None else f" ({figure['ratio']:.2f} ×)"
    shown = f"{text} {figure['unit'].replace('x', '×')}{ratio}"
    return f"**{shown}**" if figure["met"] is False else shown


def _wanted(figure: Mapping[str, Any]) -> str:
    if figure["wanted"] is None:
        return ""
    times = "" if figure["ratio"] is None else " ×"
    return f"{'≤' if figure['at_most'] else '≥'} {figure['wanted']:g}{times}"


def _remember(run: Mapping[str, Any]) -> None:
    """Add a line for each engine to the history."""
    is_new = not HISTORY.exists()
    with HISTORY.open("a", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        if is_new:
            lines.writerow(["date", "version", "engine", "yardstick_per_s", *COURSE])
        for engine in dict.fromkeys(figure["engine"] for figure in run["figures"]):
            figures = {f["name"]: f for f in run["figures"] if f["engine"] == engine}
            row = [run["date"], run["version"], engine, round(figures[YARDSTICK]["measured"])]
            lines.writerow(row + [_course(figures.get(name)) for name in COURSE.values()])


def _course(figure: Mapping[str, Any] | None) -> float | str:
    if figure is None:
        return ""
    return round(figure["measured"] if figure["ratio"] is None else figure["ratio"], 3)


# The picture

_WIDTH, _LINE, _LABEL, _MARGIN = 760, 24, 350, 16
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.ours{fill:#0d6efd}"
    ".others{fill:#8c959f}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ours{fill:#6ea8fe}"
    ".others{fill:#6e7681}}"
)


def picture(run: Mapping[str, Any]) -> str:
    """The main figures as bars, beside those of others: an SVG that follows the reader's light or dark."""
    groups = (
        ("Events a second, as a multiple of RSA-2048 signatures of one core", "×", list(_throughput(run))),
        ("A lone event, from the call to the recorded acknowledgment", "ms", list(_waits(run))),
        ("CPU of both sides for an event, in batches", "ms", list(_of(run, "", CPU))),
    )
    drawn, top = [], _MARGIN
    for title, unit, bars in groups:
        if bars:
            lines, top = _group(title, unit, bars, top)
            drawn += lines
    body = "".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" '
        f'aria-label="What Tidings does, measured on {run["date"]}">'
        f"<style>{_STYLE}</style>{body}</svg>\n"
    )


def _group(title: str, unit: str, bars: Sequence[Bar], top: int) -> tuple[list[str], int]:
    """The lines of a group, and where the next one begins."""
    longest = max(bar.value for bar in bars) or 1.0
    room = _WIDTH - _LABEL - 90
    lines = [f'<text class="title" x="{_MARGIN}" y="{top + 14}">{html.escape(title)}</text>']
    top += _LINE + 4
    for bar in bars:
        width = max(2, round(bar.value / longest * room))
        kind = "ours" if bar.is_ours else "others"
        lines.append(
            f'<text x="{_MARGIN}" y="{top + 14}">{html.escape(bar.label)}</text>'
            f'<rect class="{kind}" x="{_LABEL}" y="{top + 3}" width="{width}" height="14" rx="2"/>'
            f'<text x="{_LABEL + width + 8}" y="{top + 14}">{bar.value:.3g} {unit}</text>'
        )
        top += _LINE
    return lines, top + _MARGIN


def _throughput(run: Mapping[str, Any]) -> Iterator[Bar]:
    ours = [*_of(run, ", batches", BATCH), *_of(run, ", one a call", SINGLE)]
    others = [Bar(name, value, False) for name, value in OTHERS]
    yield from sorted([*ours, *others], key=lambda bar: -bar.value)


def _waits(run: Mapping[str, Any]) -> Iterator[Bar]:
    yield from _of(run, ", p50", LONE)
    yield from _of(run, ", p99", LONE_P99)


def _of(run: Mapping[str, Any], what: str, name: str) -> Iterable[Bar]:
    for figure in run["figures"]:
        if figure["name"] == name:
            value = figure["measured"] if figure["ratio"] is None else figure["ratio"]
            yield Bar(f"Tidings on {_ENGINES[figure['engine']]}{what}", value, True)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    write()
    sys.exit(0)
