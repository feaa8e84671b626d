"""What views end with: a page, a confirmation, or the way back after something was done."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, flash, make_response, redirect, render_template, request
from flask_wtf import FlaskForm

from app import clock
from app.config import VERSION, settings
from app.models import Workspace
from app.protocol.errors import InternalError, NotFound, Overloaded, Problem, RateLimited
from app.reports import navigation, overview
from app.web.console import gate
from app.web.console.forms import Pointers, place_problem
from app.web.console.preferences import preferences

#: Refusals that are not about what was typed: they are pages of their own.
_PAGES = (NotFound, InternalError, Overloaded, RateLimited)

#: Where a request keeps what needs attention.
_ATTENTION = "tidings.attention"

#: Colours that an instance may have, so that two windows are told apart.
ACCENTS = ("teal", "iris", "plum", "rust", "moss", "slate")


def render(template: str, status: int | None = None, /, **context: Any) -> Response:
    """The page. If `form` is among the context and something in it is wrong, the status is 422.

    template: as "console/events/list.html". It extends console/base.html and gets: instance, workspace,
    workspaces, user, role, nav_counts, attention, prefs, now (ms), and what is handed in. Hand in `active`,
    the entry of the rail ("events", "dead_letters", "replay", …), and `title`.
    """
    form = context.get("form")
    if status is None:
        status = 422 if isinstance(form, FlaskForm) and form.errors else 200
    return make_response(render_template(template, **_look() | _person() | context), status)


def render_bare(template: str, status: int = 200, /, **context: Any) -> Response:
    """A page without rail and bar, for which nothing is looked up: sign-in, setup, faults."""
    form = context.get("form")
    if isinstance(form, FlaskForm) and form.errors and status == 200:
        status = 422
    return make_response(render_template(template, **_look() | context), status)


def redirect_done(url: str, message: str = "") -> Response:
    """To another page after something was done, which is said there."""
    if message:
        flash(message, "done")
    return _see_other(url)


def redirect_refused(url: str, problem: Problem | str) -> Response:
    """To another page after something was refused, which is said there."""
    flash(problem if isinstance(problem, str) else problem.detail or problem.title, "refused")
    return _see_other(url)


def confirm(
    title: str,
    *,
    form: FlaskForm,
    button: str,
    back: str,
    lead: str = "",
    consequences: Sequence[tuple[int | str, str, str]] = (),
    keep: str = "Cancel",
    warning: str = "",
    command: str = "",
    crumbs: Sequence[tuple[str, str]] = (),
    hidden: Mapping[str, str] | None = None,
    active: str = "",
    danger: bool = True,
    url: str | None = None,
    reason_hint: str = "",
) -> Response:
    """A page that asks before something is done.

    form: `confirm_form(...)`. consequences: (how many, what, what becomes of it). button: what is done, in
    words ("Disconnect and cancel 214 deliveries"). back, keep: the way out and its label. hidden: values that
    the POST must bring along, such as a cut-off. command: the same from a shell. url: where to post, this
    page if not given.
    """
    return render(
        "console/confirm.html",
        title=title,
        form=form,
        button=button,
        back=back,
        lead=lead,
        consequences=consequences,
        keep=keep,
        warning=warning,
        same_in_shell=command,
        crumbs=crumbs,
        hidden=hidden or {},
        active=active,
        danger=danger,
        url=url or request.path,
        reason_hint=reason_hint,
    )


@contextlib.contextmanager
def problems(form: FlaskForm, pointers: Pointers | None = None) -> Iterator[None]:
    """Let a service's refusal be told in the form: what follows the block shows the form again.

    pointers: names of fields by the first step of a JSON pointer, where snake case does not give it. What
    is not about the form (nothing there, too often, database away) goes on to its own page.
    """
    try:
        yield
    except _PAGES:
        raise
    except Problem as problem:
        place_problem(form, problem, pointers)


def with_query(**changes: object) -> str:
    """The address of this page with some parameters of its query changed; None takes one away."""
    query = [(name, value) for name, value in request.args.items(multi=True) if name not in changes]
    query += [(name, str(value)) for name, value in changes.items() if value not in (None, "")]
    return request.path + (f"?{urlencode(query)}" if query else "")


def instance_words() -> dict[str, str]:
    """How this instance is shown: name, host, label of its environment, accent."""
    config = settings()
    return {
        "name": config.instance_name,
        "url": config.base_url,
        "host": config.base_url.partition("://")[2],
        "env": config.instance_label,
        "accent": ACCENTS[sum(config.base_url.encode()) % len(ACCENTS)],
    }


def _look() -> dict[str, Any]:
    """What every page shows of the instance and of the request; nothing is looked up for it."""
    return {
        "instance": instance_words(),
        "version": VERSION,
        "prefs": preferences(),
        "now": clock.now_ms(),
        "refresh": _refresh_s(),
        "active": "",
    }


def _person() -> dict[str, Any]:
    """Who is there, where, and what waits for them."""
    memberships = gate.memberships()
    workspace = gate.current_workspace() or (memberships[0].workspace if memberships else None)
    counts = navigation.counts(workspace.id) if workspace is not None else navigation.NOTHING
    return {
        "workspace": workspace,
        "workspaces": [membership.workspace for membership in memberships],
        "user": gate.current_user() if gate.is_signed_in() else None,
        "role": gate.current_role(),
        "nav_counts": counts.by_entry(),
        "attention": len(needs_attention(workspace)) if workspace is not None else 0,
    }


def needs_attention(workspace: Workspace) -> list[overview.Attention]:
    """What needs a person in the workspace; looked up once a request."""
    found: list[overview.Attention] | None = request.environ.get(_ATTENTION)
    if found is None:
        found = request.environ[_ATTENTION] = overview.attention(workspace.id)
    return found


def _refresh_s() -> int | None:
    """`?refresh=10`: the page comes again by itself, without scripts."""
    given = request.args.get("refresh", "")
    return int(given) if given in ("5", "10", "30") else None


def _see_other(url: str) -> Response:
    return make_response(redirect(gate.local_path(url), 303))
