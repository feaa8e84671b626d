"""Replay: events that peers send us again, and that we send them again."""

import uuid
from typing import Any
from uuid import UUID

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.inbox import replays
from app.inbox.replays import Wanted
from app.models import Direction, ReplayState, Role, Workspace
from app.protocol.errors import InvalidState, NotFound, invalid
from app.protocol.members import is_uuid
from app.reconciliation import run
from app.reports import replays as reports
from app.reports.connections import connection_row, streams_of
from app.reports.receivers import list_receivers, receivers_by_id
from app.reports.times import parse_rfc3339, rfc3339
from app.web.console.gate import current_user, page
from app.web.console.replays_forms import ReplayForm
from app.web.console.stream import missing_count, scope
from app.web.console.view import problems, redirect_done, redirect_refused, render

bp = Blueprint("replays", __name__)

_POINTERS = {"fromSequence": "from_sequence", "toSequence": "to_sequence", "eventTypes": "types"}


@bp.get("/w/<workspace>/replay")
@page(Role.VIEWER)
def index(workspace: Workspace) -> ResponseReturnValue:
    """Both kinds, newest first; `direction`, `connection` and `state` filter them."""
    direction = _one_of("direction", Direction)
    state = _one_of("state", ReplayState)
    connection = request.args.get("connection") or None
    found = reports.list_replays(
        workspace.id,
        connection_id=connection,
        direction=direction,
        status=state,
        cursor=request.args.get("cursor"),
    )
    names = {peer.id: peer.name for peer in list_receivers(workspace.id)}
    return render(
        "console/replays/index.html",
        title="Replay",
        active="replay",
        found=found,
        peers=receivers_by_id(workspace.id, {replay["connectionId"] for replay in found.data}),
        scope=scope,
        rate=_rate,
        direction=direction,
        is_filtered=bool(direction or state or connection),
        selects=[
            ("connection", "Peer", [("", "Any peer"), *names.items()], connection),
            ("state", "State", [("", "Any state"), *((each, each) for each in ReplayState)], state),
        ],
    )


@bp.get("/w/<workspace>/replay/new")
@page(Role.OPERATOR)
def new(workspace: Workspace) -> ResponseReturnValue:
    """The form; `connection`, `from` and `to` fill it in."""
    form = _form(workspace, formdata=None)
    form.connection.data = request.args.get("connection") or form.connection.data
    form.from_sequence.data = request.args.get("from", None, int)
    form.to_sequence.data = request.args.get("to", None, int)
    form.key.data = str(uuid.uuid4())
    return _show_form(workspace, form, _dry_run(workspace, form))


@bp.post("/w/<workspace>/replay")
@page(Role.OPERATOR)
def ask(workspace: Workspace) -> ResponseReturnValue:
    """Ask for it, or with `preview` only say what would be asked."""
    form = _form(workspace)
    if not form.validate():
        return _show_form(workspace, form)
    if "preview" in request.form:
        return _show_form(workspace, form, _dry_run(workspace, form))
    key = form.key.data if is_uuid(form.key.data or "") else None
    with problems(form, _POINTERS):
        row = connection_row(workspace.id, form.connection.data)
        made = replays.request(row.id, form.wanted(), requested_by=current_user().email, replay_id=key)
    if form.errors:
        return _show_form(workspace, form)
    url = f"/w/{workspace.slug}/replay"
    if made.state is ReplayState.REFUSED:
        return redirect_refused(url, f"The peer refused it: {made.error_code}. {made.error_detail or ''}")
    if made.state is ReplayState.WAITING:
        return redirect_done(url, "Kept. It is asked for when the replay that runs has ended.")
    if made.state is ReplayState.REQUESTED:
        return redirect_done(url, "Asked. The peer has not answered yet; it is asked again by itself.")
    return redirect_done(url, "The peer sends it again.")


@bp.post("/w/<workspace>/connections/<uuid:connection_id>/stream/compare")
@page(Role.OPERATOR)
def compare(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Compare both directions with what the peer holds; one that runs already goes on."""
    row = connection_row(workspace.id, str(connection_id))
    url = f"/w/{workspace.slug}/connections/{connection_id}/stream"
    begun = 0
    try:
        for direction in Direction:
            if streams_of(row.id, direction)["headSequence"]:
                run.start(row.id, direction)
                begun += 1
    except InvalidState as problem:
        return redirect_refused(url, problem)
    if not begun:
        return redirect_refused(url, "Nothing has been sent over this connection yet.")
    return redirect_done(url, "Both sides compare what they hold; what differs is shown here.")


def _form(workspace: Workspace, **given: Any) -> ReplayForm:
    """The form, with the connections that can be asked."""
    form = ReplayForm(**given)
    form.connection.choices = [
        (peer.id, peer.name) for peer in list_receivers(workspace.id) if not peer.is_ended
    ]
    return form


def _show_form(
    workspace: Workspace, form: ReplayForm, dry_run: list[str] | None = None
) -> ResponseReturnValue:
    return render(
        "console/replays/new.html",
        title="Ask for a replay",
        active="replay",
        form=form,
        dry_run=dry_run or [],
        url=f"/w/{workspace.slug}/replay",
    )


def _dry_run(workspace: Workspace, form: ReplayForm) -> list[str]:
    """What would be asked, and what it may bring, in sentences. Nothing is sent."""
    if not form.connection.data:
        return []
    try:
        row = connection_row(workspace.id, form.connection.data)
    except NotFound:
        return []
    peer = receivers_by_id(workspace.id, [form.connection.data])[form.connection.data]
    stream = streams_of(row.id, Direction.INCOMING)
    wanted = form.wanted()
    missing = missing_count([gap for gap in stream["missing"] if gap["reason"] in ("missing", "lost")])
    return [
        f"{peer.name} is asked for {scope(_named(wanted))}.",
        _expectation(wanted, stream["headSequence"]),
        f"{missing:,} numbers are missing here now." if missing else "No number is missing here now.",
    ]


def _named(wanted: Wanted) -> dict[str, Any]:
    return {
        "fromSequence": wanted.from_sequence,
        "toSequence": wanted.to_sequence,
        "since": rfc3339(wanted.since),
        "until": rfc3339(wanted.until),
        "eventTypes": wanted.event_types,
    }


def _expectation(wanted: Wanted, head: int) -> str:
    first = wanted.from_sequence or 1
    last = min(wanted.to_sequence or head, head)
    most = max(0, last - first + 1)
    narrowed = wanted.since is not None or wanted.until is not None or wanted.event_types
    if not head:
        return "Nothing has come over this connection yet, so nothing may come again."
    fewer = ", fewer by time and type" if narrowed else ""
    return f"At most {most:,} events come again{fewer}; the last number is {head:,}."


def _rate(replay: Any) -> str:
    """Events a second between its first and its last word; empty if that says nothing."""
    took = parse_rfc3339(replay["finishedAt"] or replay["updatedAt"]) - parse_rfc3339(replay["createdAt"])
    return f"{replay['count'] * 1000 / took:,.0f}/s" if replay["count"] and took >= 1000 else ""


def _one_of(name: str, words: Any) -> str | None:
    """A parameter that is one of an enum's words. Raises InvalidRequest."""
    text = request.args.get(name)
    if not text:
        return None
    if text not in tuple(words):
        raise invalid(f"/{name}", f"must be one of {', '.join(words)}", "choice")
    return str(text)
