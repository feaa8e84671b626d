"""Status: one word for everybody, the checks of `flask doctor` for who is signed in."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from app.reports.health import doctor, readiness
from app.web.console import gate
from app.web.console.view import render, render_bare

bp = Blueprint("status", __name__)


@bp.get("/status")
def show() -> ResponseReturnValue:
    """Whether all is well; a page that comes even if the database does not."""
    if not all(check["ok"] for check in readiness()[:1]) or not gate.is_signed_in():
        checks = readiness()
        missing = sum(not check["ok"] for check in checks)
        return render_bare("console/status/public.html", title="Status", missing=missing)
    checks = doctor()
    return render(
        "console/status/checks.html",
        title="Status",
        checks=sorted(checks, key=lambda check: check["ok"]),
        missing=sum(not check["ok"] for check in checks),
    )
