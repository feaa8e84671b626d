"""Dead letters: what was given up, why, and send again or discard."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.config import settings
from app.models import OperationKind, Role, Workspace
from app.reports import dead_list, delivery_list
from app.reports.delivery_list import Chosen, Standing
from app.reports.receivers import receivers_by_id
from app.web.console.deliveries import read_filter, tokens
from app.web.console.gate import page
from app.web.console.operations import new_key, new_url
from app.web.console.view import render

bp = Blueprint("dead_letters", __name__)


_RETRY, _DISCARD = OperationKind.RETRY, OperationKind.DISCARD


@bp.get("/w/<workspace>/dead-letters")
@page(Role.VIEWER)
def index(workspace: Workspace) -> ResponseReturnValue:
    """By peer and reason, then the letters themselves; `connection`, `type` and `error` filter these."""
    chosen = read_filter(Standing.DEAD)
    found = delivery_list.list_rows(workspace.id, chosen, cursor=request.args.get("cursor"))
    dead = dead_list.group_dead(workspace.id)
    peer = receivers_by_id(workspace.id, [chosen.connection_id] if chosen.connection_id else [])
    return render(
        "console/dead_letters/index.html",
        title="Dead letters",
        active="dead_letters",
        groups=[
            (
                group,
                new_url(workspace, _RETRY, "dead", group.receiver.id, None, group.error),
                new_url(workspace, _DISCARD, "dead", group.receiver.id, None, group.error),
            )
            for group in dead.groups
        ],
        dead=dead,
        retry_all=new_url(workspace, _RETRY, "dead"),
        retry_shown=_shown_url(workspace, _RETRY, chosen),
        discard_shown=_shown_url(workspace, _DISCARD, chosen),
        bound=dead_list.BOUND,
        found=found,
        chosen=chosen,
        peer=peer.get(chosen.connection_id or ""),
        tokens=tokens(chosen, {each.id: each.name for each in peer.values()}),
        retention_days=settings().retention_days,
        key=new_key(),
    )


def _shown_url(workspace: Workspace, kind: OperationKind, chosen: Chosen) -> str:
    """For all that the filter matches."""
    return new_url(workspace, kind, "dead", chosen.connection_id, chosen.event_type, chosen.error)
