"""Subscriptions, in both directions: make, approve, end."""

from collections.abc import Callable
from uuid import UUID

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.errors import SubscriptionExists
from app.federation import subscriptions
from app.models import Direction, Role, Subscription, Workspace
from app.protocol.errors import InvalidState, NotFound
from app.protocol.states import SubscriptionStatus
from app.reports import subscription_list
from app.reports.patterns import by_first_segment, meaning, mistake_in
from app.reports.subscription_list import SubscriptionRow
from app.reports.words import visible
from app.web.console import publishing, shell
from app.web.console.forms import confirm_form
from app.web.console.gate import page
from app.web.console.subscriptions_forms import SubscribeForm
from app.web.console.view import confirm, problems, redirect_done, redirect_refused, render, with_query

bp = Blueprint("subscriptions", __name__)

HOME = "/w/<workspace>/subscriptions"
ONE = f"{HOME}/<uuid:subscription_id>"

#: Fields of the API's call by the names of the form.
_POINTERS = {"eventType": "event_type", "connectionId": "connection"}

_STATUSES = (
    ("", "Live ones"),
    ("all", "All"),
    ("pending", "Waiting"),
    ("active", "Active"),
    ("rejected", "Rejected"),
    ("revoked", "Revoked"),
    ("cancelled", "Cancelled"),
    ("expired", "Expired"),
)


@bp.get(HOME)
@page(Role.VIEWER)
def index(workspace: Workspace) -> ResponseReturnValue:
    """What we receive (`?direction=incoming`) or they do, and above both what waits for a decision."""
    direction = Direction.OUTGOING if request.args.get("direction") == "outgoing" else Direction.INCOMING
    given = {name: request.args.get(name, "").strip()[:255] for name in ("status", "peer", "pattern")}
    status = given["status"] if given["status"] in dict(_STATUSES) else ""
    found = subscription_list.list_subscriptions(
        workspace.id,
        direction,
        status=None if status == "all" else status or "live",
        peer=given["peer"] or None,
        pattern=given["pattern"] or None,
        older=request.args.get("older"),
    )
    chosen = [
        (f"{name}:{value}", with_query(**{name: None, "older": None}))
        for name, value in given.items()
        if value
    ]
    return render(
        "console/subscriptions/list.html",
        title="Subscriptions",
        active="subscriptions",
        home=_home(workspace),
        direction=direction,
        found=found,
        asked=subscription_list.list_asked(workspace.id),
        given=given | {"status": status},
        statuses=_STATUSES,
        chosen=chosen,
        is_new=not found.rows and not subscription_list.has_any(workspace.id),
        clear=f"{_home(workspace)}?direction={direction.value}",
        curl=shell.curl(f"/events/subscriptions?direction={direction.value}"),
    )


@bp.route(f"{HOME}/new", methods=["GET", "POST"])
@page(Role.ADMIN)
def new(workspace: Workspace) -> ResponseReturnValue:
    """The form, with what it would bring. A GET with fields, or a POST with `preview`, changes nothing."""
    peers = subscription_list.subscribable(workspace.id)
    is_preview = request.method == "GET" or "preview" in request.form
    form = SubscribeForm(formdata=request.form if request.method == "POST" else request.args or None)
    form.connection.choices = [(one.connection_id, f"{visible(one.peer)[:80]} ({one.host})") for one in peers]
    if not form.connection.data and peers:
        form.connection.data = peers[0].connection_id
    connection, pattern = form.connection.data or "", (form.event_type.data or "").strip()
    if is_preview:
        if pattern:
            mistake = mistake_in(pattern)
            form.event_type.errors = [mistake.detail] if mistake else []
    elif form.validate_on_submit():
        with problems(form, _POINTERS):
            made = subscriptions.subscribe_to_event_type(workspace.id, connection, pattern)
            return redirect_done(f"{_home(workspace)}?direction=incoming", _asked(made))
    mistake = mistake_in(pattern) if pattern else None
    is_known = connection in {one.connection_id for one in peers}
    readable = bool(pattern) and mistake is None and is_known
    return render(
        "console/subscriptions/new.html",
        title="New subscription",
        active="subscriptions",
        form=form,
        home=_home(workspace),
        peer=next((one.peer for one in peers if one.connection_id == connection), ""),
        has_peers=bool(peers),
        marked=mistake.marked(pattern) if mistake else "",
        meaning=meaning(pattern) if readable else "",
        preview=subscription_list.preview(workspace.id, connection, pattern) if readable else None,
        groups=by_first_segment(subscription_list.suggested_types(workspace.id)),
        connection=connection,
        pattern=pattern,
        commands=_commands(connection, pattern),
    )


@bp.post(f"{ONE}/approve")
@page(Role.ADMIN)
def approve(workspace: Workspace, subscription_id: UUID) -> ResponseReturnValue:
    """Grant what a peer asked for."""
    row = _row(workspace, subscription_id, Direction.OUTGOING)
    return _act(
        workspace,
        row,
        lambda: subscriptions.approve(workspace.id, row.id),
        f"{visible(row.peer)[:80]} receives {row.pattern} from now on.",
    )


@bp.route(f"{ONE}/reject", methods=["GET", "POST"])
@page(Role.ADMIN)
def reject(workspace: Workspace, subscription_id: UUID) -> ResponseReturnValue:
    """Refuse what a peer asked for, with a reason that it is told."""
    row = _row(workspace, subscription_id, Direction.OUTGOING)
    form = confirm_form(reason="Reason, which they are told")
    if form.validate_on_submit():
        reason = (form.reason.data or "").strip() or None
        act = _call(subscriptions.reject, workspace, row, reason)
        return _act(
            workspace, row, act, f"{visible(row.peer)[:80]} was told that {row.pattern} is not granted."
        )
    return confirm(
        f"Reject {row.pattern} for {visible(row.peer)[:80]}?",
        form=form,
        button="Reject",
        back=_tab(workspace, row),
        lead="They can ask again.",
        consequences=[(1, "request", "rejected; none of these events go there")],
        active="subscriptions",
        crumbs=[("Subscriptions", _tab(workspace, row))],
        command=f"flask subscription reject {row.id}",
    )


@bp.route(f"{ONE}/revoke", methods=["GET", "POST"])
@page(Role.ADMIN)
def revoke(workspace: Workspace, subscription_id: UUID) -> ResponseReturnValue:
    """Take back a grant; what was not sent yet is withdrawn."""
    row = _row(workspace, subscription_id, Direction.OUTGOING)
    form = confirm_form(reason="Reason, which they are told")
    if form.validate_on_submit():
        reason = (form.reason.data or "").strip() or None
        act = _call(subscriptions.revoke, workspace, row, reason)
        return _act(workspace, row, act, f"{visible(row.peer)[:80]} does not receive {row.pattern} any more.")
    number, is_capped = subscription_list.withdrawn_by(workspace.id, row.id)
    waiting = f"{number:,}{'+' if is_capped else ''}"
    return confirm(
        f"Revoke {row.granted or row.pattern} for {visible(row.peer)[:80]}?",
        form=form,
        button=f"Revoke and withdraw {waiting} {'delivery' if number == 1 else 'deliveries'}"
        if number
        else "Revoke",
        back=_tab(workspace, row),
        lead="They have to ask again to receive these events.",
        consequences=[
            (1, "subscription of theirs", "revoked"),
            (waiting, "deliveries that wait", "withdrawn, never sent"),
            ("all", "events that they have", "stay with them"),
        ],
        active="subscriptions",
        crumbs=[("Subscriptions", _tab(workspace, row))],
        command=f"flask subscription revoke {row.id}",
    )


@bp.route(f"{ONE}/cancel", methods=["GET", "POST"])
@page(Role.ADMIN)
def cancel(workspace: Workspace, subscription_id: UUID) -> ResponseReturnValue:
    """Want a peer's events no longer."""
    row = _row(workspace, subscription_id, Direction.INCOMING)
    form = confirm_form()
    if form.validate_on_submit():
        return _act(
            workspace,
            row,
            lambda: subscriptions.unsubscribe_from_event_type(workspace.id, row.connection_id, row.pattern),
            f"{row.pattern} from {visible(row.peer)[:80]} is cancelled.",
        )
    flowed = f"{row.traffic.lately:,}{'+' if row.traffic.is_capped else ''}"
    return confirm(
        f"Cancel {row.pattern} from {visible(row.peer)[:80]}?",
        form=form,
        button="Cancel the subscription",
        back=_tab(workspace, row),
        keep="Keep it",
        lead="What is under way still arrives. What they publish before you subscribe again is missing.",
        consequences=[
            (1, "subscription of ours", "cancelled"),
            (flowed, "events came through it in 24 hours", "come no more, unless another one covers them"),
            ("all", "events that are here", "stay"),
        ],
        active="subscriptions",
        crumbs=[("Subscriptions", _tab(workspace, row))],
        command=f"flask subscription cancel {row.id}",
    )


def _home(workspace: Workspace) -> str:
    return f"/w/{workspace.slug}/subscriptions"


def _tab(workspace: Workspace, row: SubscriptionRow) -> str:
    return f"{_home(workspace)}?direction={row.direction.value}"


def _row(workspace: Workspace, subscription_id: UUID, direction: Direction) -> SubscriptionRow:
    row = subscription_list.get_subscription_row(workspace.id, str(subscription_id))
    if row.direction is not direction:
        raise NotFound("That is not possible for this direction.")
    return row


def _call(
    decide: Callable[[int, str, str | None], Subscription],
    workspace: Workspace,
    row: SubscriptionRow,
    reason: str | None,
) -> Callable[[], Subscription]:
    return lambda: decide(workspace.id, row.id, reason)


def _act(
    workspace: Workspace, row: SubscriptionRow, act: Callable[[], Subscription], message: str
) -> ResponseReturnValue:
    """Do it, and go back to the list. What somebody else did meanwhile, or this form before, is said."""
    try:
        act()
    except (InvalidState, SubscriptionExists, NotFound) as problem:
        now = subscription_list.get_subscription_row(workspace.id, row.id)
        words = f"Nothing was changed. {problem.detail} It is {now.state_words or now.state}."
        return redirect_refused(_tab(workspace, row), words)
    return redirect_done(_tab(workspace, row), message)


def _asked(made: Subscription) -> str:
    match made.status:
        case SubscriptionStatus.ACTIVE:
            return f"Subscribed: {made.granted_event_type or made.event_type} arrives from now on."
        case SubscriptionStatus.REJECTED:
            return f"They refused {made.event_type}{f': {made.reason}' if made.reason else '.'}"
        case SubscriptionStatus.PENDING:
            return f"Asked for {made.event_type}; somebody there has to approve it."
    return f"Asked for {made.event_type}; no answer yet, it goes on by itself."


def _commands(connection: str, pattern: str) -> tuple[str, str]:
    return publishing.subscribe_commands(connection or "CONNECTION", pattern or "task.*")
