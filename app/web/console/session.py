"""In and out: the front door, signing in by password or by a one-time link, and signing out."""

from flask import Blueprint, redirect
from flask.typing import ResponseReturnValue

from app.web.console import gate

bp = Blueprint("session", __name__)


@bp.get("/")
def front_door() -> ResponseReturnValue:
    """To the workspace of who is signed in, else to the sign-in page."""
    if not gate.is_signed_in():
        return redirect("/login", 303)
    memberships = gate.memberships()
    return redirect(f"/w/{memberships[0].workspace.slug}/" if memberships else "/status", 303)
