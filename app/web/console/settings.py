"""Settings: what is in force, where it comes from, and nothing secret."""

from dataclasses import replace

from flask import Blueprint
from flask.typing import ResponseReturnValue

from app import backoff
from app.config import effective, settings
from app.federation import identity
from app.models import Role
from app.web.console import gate
from app.web.console.view import render
from app.web.console.words import span

bp = Blueprint("settings", __name__)


@bp.get("/admin/settings")
@gate.admin_page(Role.VIEWER)
def show() -> ResponseReturnValue:
    """All settings, and the schedule of retries that they do not change."""
    config = settings()
    if config.instance_id is None:
        # Kept in the database, and in force all the same.
        config = replace(config, instance_id=identity.local_instance().instance_id)
    return render(
        "console/settings/show.html",
        title="Settings",
        active="settings",
        rows=effective(config),
        schedule=", ".join(span(wait_ms / 1000) for wait_ms in backoff.schedule()),
        gives_up_after=span(backoff.MAX_RETRY_AGE_MS / 1000),
        breaker_failures=backoff.BREAKER_FAILURES,
    )
