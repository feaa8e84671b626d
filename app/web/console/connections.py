"""Connections: the list, and asking somebody for one after a look at who they are.

The pages of one connection are in `connection_pages`, what is done to it in `connection_acts`; all three
share the blueprint of `connection_frame`.
"""

from flask import request
from flask.typing import ResponseReturnValue

from app.errors import ConnectionExists
from app.federation import asking, identity
from app.federation.look import Look, look
from app.models import Role, Workspace
from app.protocol.keys import Algorithm
from app.reports.our_keys import WORDS
from app.reports.peers import TABS, list_peers, tab_counts
from app.web.console import connection_acts, connection_pages
from app.web.console.connection_frame import bp, one_url
from app.web.console.connections_forms import AddressForm, RequestForm
from app.web.console.gate import page
from app.web.console.view import problems, redirect_done, render, with_query

__all__ = ["bp", "connection_acts", "connection_pages"]

HOME = "/w/<workspace>/connections"

_TAB_WORDS = {
    "all": "All",
    "in": "Requests in",
    "out": "Requests out",
    "active": "Active",
    "failing": "Failing",
    "suspended": "Suspended",
    "closed": "Closed",
}


@bp.get(HOME)
@page(Role.VIEWER)
def index(workspace: Workspace) -> ResponseReturnValue:
    """The list; `?show=` is one of its tabs."""
    show = request.args.get("show", "all")
    show = show if show in TABS else "all"
    found = list_peers(workspace.id, show, cursor=request.args.get("cursor"))
    counts = tab_counts(workspace.id)
    here = f"/w/{workspace.slug}"
    return render(
        "console/connections/list.html",
        title="Connections",
        active="connections",
        here=here,
        show=show,
        tab_word=_TAB_WORDS[show],
        tabs=[
            (name, word, f"{here}/connections" + ("" if name == "all" else f"?show={name}"), counts[name])
            for name, word in _TAB_WORDS.items()
        ],
        counts=counts,
        rows=found.data,
        older=with_query(cursor=found.next_cursor) if found.has_more else None,
        form=AddressForm(),
    )


@bp.get(f"{HOME}/new")
@page(Role.ADMIN)
def new(workspace: Workspace) -> ResponseReturnValue:
    """Whom to ask: the first of two steps. `?address=` fills it in."""
    form = AddressForm(address=request.args.get("address", "")[:300])
    return _show_new(workspace, form, None)


@bp.post(f"{HOME}/new")
@page(Role.ADMIN)
def preview(workspace: Workspace) -> ResponseReturnValue:
    """Look at who is there: the second step, or the first one again with what is wrong. Stores nothing."""
    form = AddressForm()
    if not form.validate_on_submit():
        return _show_new(workspace, form, None)
    seen = look(form.address.data)
    if seen.failed is not None or seen.preview is None:
        return _show_new(workspace, form, seen)
    sending = RequestForm(formdata=None, address=seen.preview.base_url, fingerprint=seen.preview.fingerprint)
    return _show_preview(workspace, sending, seen)


@bp.post(f"{HOME}/request")
@page(Role.ADMIN)
def send(workspace: Workspace) -> ResponseReturnValue:
    """Send the request. A second post of the same form leads to what the first one made."""
    form = RequestForm()
    if form.validate_on_submit():
        with problems(form):
            try:
                made = asking.initiate(
                    workspace.id,
                    form.address.data,
                    _text(form.to_workspace.data),
                    _text(form.note.data),
                    form.replace.data,
                    form.fingerprint.data,
                )
            except ConnectionExists as problem:
                return _exists(workspace, form, problem)
            url = one_url(workspace, made.public_id)
            return redirect_done(url, "The request is sent; its state stands here.")
    seen = look(form.address.data or "")
    if seen.preview is None:
        return _show_new(workspace, AddressForm(formdata=None, address=seen.typed), seen)
    return _show_preview(workspace, form, seen)


def _text(given: str | None) -> str | None:
    return (given or "").strip() or None


def _exists(workspace: Workspace, form: RequestForm, problem: ConnectionExists) -> ResponseReturnValue:
    """To the connection that is there; an open one may be asked to be replaced."""
    url = one_url(workspace, str(problem.extras["connectionId"]))
    return redirect_done(url, f"Nothing was sent. {problem.detail}")


def _show_new(workspace: Workspace, form: AddressForm, seen: Look | None) -> ResponseReturnValue:
    return render(
        "console/connections/new.html",
        422 if form.errors or seen is not None else 200,
        title="Request a connection",
        active="connections",
        here=f"/w/{workspace.slug}",
        form=form,
        look=seen,
    )


def _show_preview(workspace: Workspace, form: RequestForm, seen: Look) -> ResponseReturnValue:
    return render(
        "console/connections/preview.html",
        title="Request a connection",
        active="connections",
        here=f"/w/{workspace.slug}",
        form=form,
        look=seen,
        preview=seen.preview,
        kind=WORDS.get(Algorithm(seen.preview.algorithm), "") if seen.preview else "",
        ours=identity.local_instance(),
    )
