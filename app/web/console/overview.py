"""Overview: what needs attention first, then how the workspace does."""

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.config import is_loopback, settings
from app.models import Role, Workspace
from app.protocol.states import DeliveryState
from app.reports import overview as report
from app.reports.overview import COUNT_CAP, Attention, Kind
from app.reports.peers import list_peers
from app.reports.times import rfc3339
from app.reports.traffic import PERIODS, Mark, Traffic, thinned, traffic
from app.web.console import charts, words
from app.web.console.gate import page
from app.web.console.view import needs_attention, render

bp = Blueprint("overview", __name__)

#: Types named, and peers shown.
_TYPES = 6
_PEERS = 8

#: Label of the button, and where it leads: below the connection, else the workspace, or from the root.
_WAYS: dict[Kind, tuple[str, str]] = {
    Kind.REDIS_AWAY: ("Open jobs", "/admin/jobs"),
    Kind.NO_WORKER: ("How to start one", "/admin/jobs"),
    Kind.KEY_REVIEW: ("Compare keys", "keys"),
    Kind.HELD: ("Open connection", ""),
    Kind.DEAD_LETTERS: ("Review", "dead-letters"),
    Kind.BREAKER: ("Open connection", ""),
    Kind.FAILING: ("Open connection", ""),
    Kind.MISSING: ("Open stream", "stream"),
    Kind.REQUEST: ("Review request", ""),
    Kind.APPROVAL: ("Review", "subscriptions?direction=outgoing&status=pending"),
    Kind.CLOCK_SKEW: ("Open connection", ""),
    Kind.NOT_COMPARED: ("Verify", "verify"),
    Kind.KEY_ENDING: ("Rotate", "/admin/keys"),
    Kind.ROTATION: ("Go on rotating", "/admin/keys"),
}

_ICONS = {"bad": "x-octagon-fill", "warn": "exclamation-triangle-fill", "wait": "clock"}


class Line(NamedTuple):
    """One line of "needs attention": the item, its icon, its button, and where that leads."""

    item: Attention
    icon: str
    action: str
    href: str
    #: How `item.at` is shown.
    show: str


class Tile(NamedTuple):
    """One card: a number, what it says besides, its line, and the list behind it."""

    label: str
    value: str
    unit: str
    note: str
    line: list[float]
    href: str


@bp.get("/w/<workspace>/")
@page(Role.VIEWER)
def index(workspace: Workspace) -> ResponseReturnValue:
    """The first page of a workspace; `?period=` is 1h, 24h or 7d."""
    period = PERIODS.get(request.args.get("period", ""), PERIODS["24h"])
    seen = traffic(workspace.id, period)
    steps = report.checklist(workspace.id)
    here = f"/w/{workspace.slug}"
    return render(
        "console/overview/index.html",
        title="Overview",
        active="overview",
        lines=[_line(here, item) for item in needs_attention(workspace)],
        steps=[(step, _step_href(here, step)) for step in steps],
        all_done=all(step.is_done for step in steps),
        for_production=_for_production(),
        period=period,
        periods=[(name, f"{here}/?period={name}") for name in PERIODS],
        traffic=seen,
        tiles=_tiles(workspace, seen, here),
        chart=charts.bars(seen, _published_between(here)),
        chart_words=charts.sentence(seen),
        types=seen.types[:_TYPES],
        peers=list_peers(workspace.id, "live", limit=_PEERS),
        here=here,
    )


def _line(here: str, item: Attention) -> Line:
    action, way = _WAYS[item.kind]
    if way.startswith("/"):
        href = way
    elif item.connection_id is not None:
        href = f"{here}/connections/{item.connection_id}" + (f"/{way}" if way else "")
    elif way in ("", "keys", "stream", "verify"):
        href = f"{here}/connections"
    else:
        href = f"{here}/{way}"
    show = "until" if item.kind in (Kind.BREAKER, Kind.FAILING, Kind.KEY_ENDING) else "ago"
    return Line(item, _ICONS[item.tone], action, href, show)


def _step_href(here: str, step: report.Step) -> str:
    return {
        "connection": f"{here}/connections/new",
        "subscription": f"{here}/subscriptions/new",
        "event": f"{here}/events/publish",
        "compared": f"{here}/connections?show=active",
    }.get(step.name, here + "/")


def _for_production() -> list[str]:
    """What is still as on a developer's machine."""
    config = settings()
    found = []
    if is_loopback(config.base_url):
        found.append("BASE_URL: only this machine reaches it; give it an https:// address that peers reach")
    elif not config.base_url.startswith("https://"):
        found.append("BASE_URL is not encrypted; put a server with TLS in front")
    if config.federation_allowed_networks:
        found.append("FEDERATION_ALLOWED_NETWORKS: private addresses may be called")
    return found


def _published_between(here: str) -> Callable[[int, int], str]:
    def href(start_ms: int, end_ms: int) -> str:
        return f"{here}/events?q={quote(f'direction:out after:{rfc3339(start_ms)} before:{rfc3339(end_ms)}')}"

    return href


def _tiles(workspace: Workspace, seen: Traffic, here: str) -> list[Tile]:
    about = "about " if seen.is_estimated else ""
    published, received = sum(seen.published), sum(seen.received)
    delivered, dead = seen.bars[Mark.DELIVERED], seen.bars[Mark.DEAD]
    share, ended = seen.delivered_share(), sum(delivered) + sum(dead)
    p95, median = seen.wait_ms(0.95), seen.wait_ms(0.5)
    waiting = report.count_up_to(workspace.id, (DeliveryState.PENDING, DeliveryState.SENDING))
    dead_now = report.count_up_to(workspace.id, (DeliveryState.DEAD,))
    oldest = report.oldest(workspace.id, DeliveryState.PENDING)
    return [
        Tile(
            "Published",
            f"{published:,}",
            "",
            f"{about}{_per(published, seen)}",
            thinned(seen.published),
            f"{here}/events?q=direction:out",
        ),
        Tile(
            "Received",
            f"{received:,}",
            "",
            f"{about}from {words.count(seen.senders, 'peer')}" if received else "nothing came in",
            thinned(seen.received),
            f"{here}/events?q=direction:in",
        ),
        Tile(
            "Delivered",
            "–" if share is None else f"{_floor(share * 100):g}",
            "" if share is None else "%",
            f"{about}of {words.count(ended, 'delivery', 'deliveries')}",
            thinned([_share(good, bad) for good, bad in zip(delivered, dead, strict=True)]),
            f"{here}/deliveries?state=delivered",
        ),
        Tile(
            "Time to ack, p95",
            *_duration(p95),
            "nothing acknowledged yet" if median is None else f"median {' '.join(_duration(median))}",
            thinned(seen.slowest),
            f"{here}/deliveries",
        ),
        Tile(
            "Waiting",
            f"{waiting:,}" if waiting <= COUNT_CAP else f"{COUNT_CAP:,}+",
            "",
            "nothing waits" if oldest is None else f"oldest {words.when(oldest)}",
            thinned(seen.bars[Mark.WAITING]),
            f"{here}/deliveries?state=open",
        ),
        Tile(
            "Dead letters",
            f"{dead_now:,}" if dead_now <= COUNT_CAP else f"{COUNT_CAP:,}+",
            "",
            "none to look at" if not dead_now else "to send again or discard",
            thinned(dead),
            f"{here}/dead-letters",
        ),
    ]


def _per(number: int, seen: Traffic) -> str:
    minutes = seen.period.buckets * seen.period.step_ms / 60_000
    rate = number / minutes
    if rate >= 1:
        return f"{rate:,.0f} a minute"
    return f"{rate * 60:,.0f} an hour" if rate * 60 >= 1 or not number else "less than one an hour"


def _share(good: int, bad: int) -> float | None:
    return good / (good + bad) if good + bad else 1.0


def _floor(percent: float) -> float:
    """To one digit, downward: 99.98 is not 100."""
    return int(percent * 10) / 10


def _duration(wait_ms: int | None) -> tuple[str, str]:
    """`("184", "ms")`, `("2.4", "s")`, `("34", "min")`."""
    if wait_ms is None:
        return "–", ""
    if wait_ms < 1_000:
        return str(wait_ms), "ms"
    if wait_ms < 60_000:
        return f"{wait_ms / 1_000:.1f}", "s"
    number, _, unit = words.span(wait_ms / 1_000).partition(" ")
    return number, unit
