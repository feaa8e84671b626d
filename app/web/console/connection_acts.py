"""What people do to a connection. Each act is a POST; those that end something ask first, on a page."""

import hashlib
from collections.abc import Callable
from uuid import UUID

from flask import request
from flask.typing import ResponseReturnValue

from app import limits
from app.access import users
from app.federation import connections, trust
from app.models import Connection, Direction, Role, Workspace
from app.protocol.errors import NotFound, Problem
from app.protocol.states import WAITING, ConnectionStatus
from app.reports import handshake
from app.reports.peers import WAITING_CAP, host_of, name_of, peer_rows
from app.web.console import gate
from app.web.console.connection_frame import ONE, bp, one, one_url
from app.web.console.connection_pages import show_keys, show_verify
from app.web.console.connections_forms import ComparedForm, KeyReviewForm
from app.web.console.forms import ConfirmForm, confirm_form
from app.web.console.gate import page
from app.web.console.view import confirm, problems, redirect_done, redirect_refused

#: Tries a minute to give one's password again.
_PASSWORDS = 10


@bp.post(f"{ONE}/accept")
@page(Role.ADMIN)
def accept(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Accept a request."""

    def act(connection: Connection) -> str:
        after = connections.accept(connection.id)
        if after.status is ConnectionStatus.ACTIVE:
            return f"{name_of(after)} is connected."
        return "You accepted; it becomes active when they have answered."

    return _act(workspace, connection_id, act)


@bp.post(f"{ONE}/suspend")
@page(Role.ADMIN)
def suspend(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Stop the traffic both ways; a resume takes it back."""

    def act(connection: Connection) -> str:
        connections.suspend(connection.id, _reason())
        return "Suspended. What is to be sent is held until you resume."

    return _act(workspace, connection_id, act)


@bp.post(f"{ONE}/resume")
@page(Role.ADMIN)
def resume(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Take our suspension back."""

    def act(connection: Connection) -> str:
        after = connections.resume(connection.id)
        return "Resumed." if after.status is ConnectionStatus.ACTIVE else "Resumed; waits for their answer."

    return _act(workspace, connection_id, act)


@bp.post(f"{ONE}/ping")
@page(Role.OPERATOR)
def ping(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Ask the peer to answer, and say how long that took."""

    def act(connection: Connection) -> str:
        seen = connections.verify(connection.id)
        if not seen.matched:
            return "They answered, but not to what we asked."
        return (
            f"Round trip {seen.round_trip_ms} ms, signatures verified both ways; they call it {seen.status}."
        )

    return _act(workspace, connection_id, act)


@bp.post(f"{ONE}/retry")
@page(Role.OPERATOR)
def retry(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """End every wait and hold: send now."""

    def act(connection: Connection) -> str:
        connections.retry_now(connection.id)
        return "The back-off is reset; what waits goes out now."

    return _act(workspace, connection_id, act)


@bp.post(f"{ONE}/pause")
@page(Role.ADMIN)
def pause(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Hold one direction here, without telling them."""

    def act(connection: Connection) -> str:
        connections.pause(connection.id, _direction())
        return "Paused here; they were not told."

    return _act(workspace, connection_id, act, "settings")


@bp.post(f"{ONE}/unpause")
@page(Role.ADMIN)
def unpause(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Let one direction go on."""

    def act(connection: Connection) -> str:
        connections.unpause(connection.id, _direction())
        return "It goes on."

    return _act(workspace, connection_id, act, "settings")


@bp.post(f"{ONE}/verify")
@page(Role.ADMIN)
def mark_verified(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Note that the codes were equal, how, and with whom."""
    connection = one(workspace, connection_id)
    form = ComparedForm()
    if form.validate_on_submit():
        given = (form.whom.data or "").strip()
        whom = f", with {given}" if given else ""
        with problems(form):
            trust.mark_verified(connection.id, by=gate.current_user().email, reason=f"{form.how.data}{whom}")
            url = one_url(workspace, connection.public_id, "verify")
            return redirect_done(url, f"{name_of(connection)} is marked as verified.")
    return show_verify(workspace, connection, form)


@bp.post(f"{ONE}/keys/accept")
@page(Role.ADMIN)
def keys_accept(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Trust the new keys."""
    return _decide(workspace, connection_id, trust.accept_keys, "The new key is trusted. Compare it now.")


@bp.post(f"{ONE}/keys/refuse")
@page(Role.ADMIN)
def keys_refuse(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Keep to the keys that were trusted before."""
    return _decide(workspace, connection_id, trust.refuse_keys, "Refused; the key from before counts.")


@bp.route(f"{ONE}/reject", methods=["GET", "POST"])
@page(Role.ADMIN)
def reject(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Refuse a request, with a reason that they are told."""
    connection = one(workspace, connection_id)
    form = confirm_form(reason="Reason, which they are told")
    url = one_url(workspace, connection.public_id)
    if form.validate_on_submit():
        with problems(form):
            connections.reject(connection.id, (form.reason.data or "").strip() or None)
            return redirect_done(url, "Rejected.")
    return confirm(
        f"Reject the request of {name_of(connection)}?",
        form=form,
        button="Reject the request",
        back=url,
        keep="Keep it waiting",
        lead="They may ask again.",
        crumbs=_crumbs(workspace, connection),
        command=f"flask connection reject {connection.public_id} --reason '…'",
        active="connections",
    )


@bp.route(f"{ONE}/disconnect", methods=["GET", "POST"])
@page(Role.ADMIN)
def disconnect(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """End it for good, or take a request back, after its host was typed."""
    connection = one(workspace, connection_id)
    url = one_url(workspace, connection.public_id)
    is_request = connection.status in WAITING
    form = confirm_form(None if is_request else host_of(connection), reason="Reason, which they are told")
    if form.validate_on_submit():
        with problems(form):
            connections.disconnect(connection.id, (form.reason.data or "").strip() or None)
            return redirect_done(url, "The request is taken back." if is_request else "Disconnected.")
    if is_request:
        return _confirm_withdrawal(workspace, connection, form)
    [row] = peer_rows([connection])
    theirs, ours = handshake.subscription_counts(connection.id)
    waiting = f"{WAITING_CAP:,}+" if row.waiting > WAITING_CAP else row.waiting
    return confirm(
        f"Disconnect from {row.name}?",
        form=form,
        button=f"Disconnect and give up {waiting} {'delivery' if waiting == 1 else 'deliveries'}"
        if row.waiting
        else "Disconnect",
        back=url,
        keep="Keep the connection",
        lead="This cannot be undone: to exchange events again, one of you sends a new request.",
        consequences=[
            (waiting, "deliveries that wait", "dead letters, not sent over this connection"),
            (theirs, "subscriptions of theirs", "closed"),
            (ours, "subscriptions of ours", "closed"),
            ("all", "events, acks and signatures", "stay, and stay verifiable"),
        ],
        warning="Only want it to be quiet for a while? Suspend it instead: what waits stays held, and all "
        "subscriptions stay.",
        reason_hint="They are told before it is closed. While they do not answer, they are told for 7 days.",
        crumbs=_crumbs(workspace, connection),
        command=f"flask connection disconnect {connection.public_id} --reason '…'",
        active="connections",
    )


@bp.get(f"{ONE}/differ")
@page(Role.ADMIN)
def differ(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """What to do when the codes are not equal."""
    connection = one(workspace, connection_id)
    is_theirs = connection.status is ConnectionStatus.PENDING
    act = (
        "reject" if is_theirs else "suspend" if connection.status is ConnectionStatus.ACTIVE else "disconnect"
    )
    words = {
        "reject": "Reject the request",
        "suspend": "Suspend the connection",
        "disconnect": "Take it back",
    }
    form = confirm_form(reason="Reason, which they are told")
    form.reason.data = "The pairing codes differ."
    return confirm(
        "The codes differ",
        form=form,
        button=words[act],
        back=one_url(workspace, connection.public_id, "verify"),
        keep="Compare once more",
        lead="Then somebody else's key stands between you, or one of you looks at another connection.",
        consequences=[
            ("1", "Read both codes once more", "on both sides, of this connection"),
            ("2", "If they still differ", f"{words[act].lower()}: nothing flows then"),
            ("3", "Ask their administrator", "for the fingerprint of their key, by another way"),
        ],
        crumbs=_crumbs(workspace, connection),
        url=one_url(workspace, connection.public_id, act),
        active="connections",
    )


def _act(
    workspace: Workspace, connection_id: UUID, act: Callable[[Connection], str], tab: str = ""
) -> ResponseReturnValue:
    """Do it, and go back to the connection, which says what came of it."""
    connection = one(workspace, connection_id)
    url = one_url(workspace, connection.public_id, tab)
    try:
        return redirect_done(url, act(connection))
    except NotFound:
        raise
    except Problem as problem:
        return redirect_refused(url, problem)


def _decide(
    workspace: Workspace, connection_id: UUID, decide: Callable[[int], Connection], said: str
) -> ResponseReturnValue:
    """About a key that nobody vouched for, by somebody who gives the password again."""
    connection = one(workspace, connection_id)
    form = KeyReviewForm()
    if form.validate_on_submit() and _is_me(form):
        with problems(form):
            decide(connection.id)
            return redirect_done(one_url(workspace, connection.public_id, "keys"), said)
    return show_keys(workspace, connection, form)


def _is_me(form: KeyReviewForm) -> bool:
    """Whether the password is that of who is signed in; if not, the form says so."""
    user = gate.current_user()
    account = hashlib.sha256(user.public_id.encode()).hexdigest()[:32]
    limits.check("password-again", account, per_minute=_PASSWORDS)
    if users.password_matches(user, form.password.data):
        return True
    form.password.errors = ["This is not your password."]
    return False


def _confirm_withdrawal(
    workspace: Workspace, connection: Connection, form: ConfirmForm
) -> ResponseReturnValue:
    name = name_of(connection)
    return confirm(
        f"Take back the request to {name}?"
        if connection.status is ConnectionStatus.REQUESTED
        else f"End {name}?",
        form=form,
        button="Take the request back",
        back=one_url(workspace, connection.public_id),
        keep="Keep it waiting",
        lead="Nothing was exchanged yet. You may ask again.",
        crumbs=_crumbs(workspace, connection),
        command=f"flask connection disconnect {connection.public_id}",
        active="connections",
    )


def _crumbs(workspace: Workspace, connection: Connection) -> list[tuple[str, str]]:
    return [
        ("Connections", f"/w/{workspace.slug}/connections"),
        (name_of(connection), one_url(workspace, connection.public_id)),
    ]


def _reason() -> str | None:
    return request.form.get("reason", "").strip() or None


def _direction() -> Direction | None:
    given = request.form.get("direction", "")
    return Direction(given) if given in tuple(Direction) else None
