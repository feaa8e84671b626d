"""What is handed to Prometheus and Grafana speaks of metrics that are there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask

from app import metrics, queue
from app.config import ROOT, settings
from app.reports import gauges
from tests.exchange import make_scene
from tests.reports.rows import add_delivery, add_event

ALERTS = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/tidings.json"
HOW_TO = ROOT / "docs/how-to/monitor.md"

_NAME = re.compile(r"\btidings_[a-z_]+\b")
_SELECTOR = re.compile(r"(tidings_[a-z_]+)\{([^}]*)\}")
#: Labels that Prometheus adds to whatever it scrapes.
_OF_PROMETHEUS = {"instance", "job"}


@pytest.fixture
def engine() -> str:
    """Names are the same whatever the database is."""
    return "sqlite"


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    return shown + [rule["expr"] for rule in rules()]


@pytest.fixture
def exposed(app: Flask) -> dict[str, set[str]]:
    """Each series of an instance that has done a little of everything: its name and its labels."""
    metrics.start(settings().data_dir / "metrics", fresh=True)
    scene = make_scene()
    add_delivery(add_event(scene.workspace.id), scene.connection)
    queue.beat()
    metrics.count_request("acked", {"acked": 1}, 5)
    metrics.count_received(1, 1, 1)
    for counter in (metrics.EVENTS_PUBLISHED, metrics.BREAKERS_OPENED):
        counter.inc()
    metrics.PEER_REFUSED.inc("clock_skew")
    metrics.HTTP_REQUESTS.inc("ops.healthz", "200")
    metrics.HTTP_SECONDS.observe(0.1, "ops.healthz")
    text = metrics.exposition(settings().data_dir / "metrics", gauges.gauges()).decode()
    metrics.stop()
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"([a-z_]+)(?:\{(.*)\})? ", line).groups()  # type: ignore[union-attr]
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    return found


def test_every_metric_of_a_dashboard_or_an_alert_is_there(exposed: dict[str, set[str]]) -> None:
    named = {name for expression in expressions() for name in _NAME.findall(expression)}

    assert named - set(exposed) == set()


def test_every_label_that_is_chosen_by_is_there(exposed: dict[str, set[str]]) -> None:
    wrong = [
        f"{name}: {label}"
        for expression in expressions()
        for name, chosen in _SELECTOR.findall(expression)
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', chosen))
        if label not in exposed[name] | _OF_PROMETHEUS | {"le"}
    ]

    assert wrong == []


def test_every_metric_is_in_the_dashboard_or_an_alert(exposed: dict[str, set[str]]) -> None:
    named = " ".join(expressions())
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}

    assert {family for family in families if family not in named} == set()


def test_every_alert_says_how_bad_it_is_and_is_explained() -> None:
    explained = HOW_TO.read_text()

    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert f"`{rule['alert']}`" in explained, rule["alert"]
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_every_panel_has_a_unit_and_a_word_of_what_it_is() -> None:
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)


def test_the_files_are_where_the_page_says() -> None:
    named = set(re.findall(r"\b(deploy/[\w./-]+\w)", HOW_TO.read_text()))

    assert named
    assert [path for path in named if not (Path(ROOT) / path).exists()] == []
