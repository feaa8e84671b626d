"""For those who watch: is the process there, is the instance ready, and what are its numbers."""

from flask import Blueprint, Response

from app import metrics
from app.config import settings
from app.reports.gauges import gauges
from app.reports.health import readiness
from app.web.json import Answer

bp: Blueprint = Blueprint("ops", __name__)

_NO_STORE = {"Cache-Control": "no-store"}


@bp.get("/healthz")
def healthz() -> Response:
    """200 while the process answers; says nothing about the rest."""
    return Answer({"status": "ok"}, headers=_NO_STORE)


@bp.get("/readyz")
def readyz() -> Response:
    """200 when the instance can do its work, else 503 that names what is missing."""
    checks = readiness()
    missing = [check["name"] for check in checks if not check["ok"]]
    body = {"status": "missing" if missing else "ready", "missing": missing, "checks": checks}
    return Answer(body, 503 if missing else 200, _NO_STORE)


@bp.get("/metrics")
def metrics_page() -> Response:
    """The numbers of all processes, in Prometheus' text format."""
    text = metrics.exposition(settings().data_dir / "metrics", gauges())
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8", headers=_NO_STORE)
