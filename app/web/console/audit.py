"""The audit log: who did what, to what, before and after, from where."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.models import Role
from app.reports import audit_log
from app.web.console import gate
from app.web.console.view import render, with_query

bp = Blueprint("audit", __name__)


@bp.get("/admin/audit")
@gate.admin_page(Role.VIEWER)
def entries() -> ResponseReturnValue:
    """What was done in the person's workspaces, and to the instance itself."""
    workspaces = {one.workspace.slug: one.workspace for one in gate.memberships()}
    given = {
        name: request.args.get(name, "").strip()[:200] for name in ("kind", "actor", "object", "workspace")
    }
    chosen = workspaces.get(given["workspace"])
    page = audit_log.list_entries(
        [one.id for one in workspaces.values()],
        kind=given["kind"] or None,
        actor=given["actor"] or None,
        object_id=given["object"] or None,
        workspace_id=(chosen.id if chosen else -1) if given["workspace"] else None,
        cursor=request.args.get("cursor") or None,
    )
    return render(
        "console/audit/list.html",
        title="Audit log",
        active="audit",
        page=page,
        given=given,
        kinds=[("", "Everything"), *((kind, kind) for kind in audit_log.KINDS)],
        choices=[("", "All workspaces"), *((one.slug, one.name) for one in workspaces.values())],
        chosen=[
            (f"{name}:{value}", with_query(**{name: None, "cursor": None}))
            for name, value in given.items()
            if value
        ],
    )
