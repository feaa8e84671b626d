"""Deliveries: what is on its way to whom, and why it is not there yet."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.models import OperationKind, Role, Workspace
from app.protocol.errors import invalid
from app.reports import delivery_list
from app.reports.delivery_list import Chosen, Standing
from app.reports.receivers import list_receivers
from app.web.console.gate import page
from app.web.console.operations import new_key, new_url
from app.web.console.view import render, with_query

bp = Blueprint("deliveries", __name__)

#: Filters of a list beside where the deliveries stand, each a parameter of its address.
FILTERS = ("connection", "type", "error")

#: What "retry all" takes of each tab: the filter's status.
RETRIED = {Standing.OPEN: "open", Standing.HELD: "held", Standing.RETRYING: "pending", Standing.DEAD: "dead"}


@bp.get("/w/<workspace>/deliveries")
@page(Role.VIEWER)
def index(workspace: Workspace) -> ResponseReturnValue:
    """The list; `state`, `connection`, `type` and `error` filter it."""
    standing = read_standing(request.args.get("state", ""), Standing.OPEN)
    chosen = read_filter(standing)
    found = delivery_list.list_rows(workspace.id, chosen, cursor=request.args.get("cursor"))
    names = {peer.id: peer.name for peer in list_receivers(workspace.id)}
    errors = delivery_list.error_codes(workspace.id, standing)
    return render(
        "console/deliveries/index.html",
        title="Deliveries",
        active="deliveries",
        found=found,
        counts=delivery_list.count_open(workspace.id),
        cap=delivery_list.COUNT_CAP,
        bound=delivery_list.BOUND,
        standing=standing,
        chosen=chosen,
        selects=[
            ("connection", "Peer", [("", "Any peer"), *names.items()], chosen.connection_id),
            ("error", "Error", [("", "Any error"), *((code, code) for code in errors)], chosen.error),
        ],
        tokens=tokens(chosen, names),
        retry_all=_retry_all(workspace, chosen),
        key=new_key(),
    )


def _retry_all(workspace: Workspace, chosen: Chosen) -> str | None:
    """Where "retry all that match" leads; None where nothing can be sent again."""
    status = RETRIED.get(chosen.standing)
    if status is None:
        return None
    return new_url(
        workspace, OperationKind.RETRY, status, chosen.connection_id, chosen.event_type, chosen.error
    )


def read_standing(text: str, otherwise: Standing) -> Standing:
    """Where the deliveries are to stand. Raises InvalidRequest at /state."""
    if not text:
        return otherwise
    try:
        return Standing(text)
    except ValueError:
        raise invalid("/state", f"must be one of {', '.join(Standing)}", "choice") from None


def read_filter(standing: Standing) -> Chosen:
    """The filter in the address of this page."""
    connection, event_type, error = (request.args.get(name, "").strip()[:255] for name in FILTERS)
    return Chosen(standing, connection or None, event_type or None, error or None)


def tokens(chosen: Chosen, names: dict[str, str]) -> list[tuple[str, str]]:
    """What is filtered by, and the address without it."""
    found = []
    if chosen.connection_id:
        name = names.get(chosen.connection_id, chosen.connection_id)
        found.append((f"peer: {name}", with_query(connection=None, cursor=None)))
    if chosen.event_type:
        found.append((f"type: {chosen.event_type}", with_query(type=None, cursor=None)))
    if chosen.error:
        found.append((f"error: {chosen.error}", with_query(error=None, cursor=None)))
    return found
