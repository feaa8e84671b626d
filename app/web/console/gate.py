"""The gate of every page: who is there, in which workspace, and may they.

    @bp.get("/w/<workspace>/events")
    @page(Role.VIEWER)
    def events(workspace: Workspace) -> ResponseReturnValue: ...

A page of a workspace asks for a role there; a page of the instance for the highest role that the person has
in any workspace. Whoever is not signed in is led to the sign-in page and back; another workspace is a 404, as
if it were not there; too low a role is a 403 that names the role.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast
from urllib.parse import quote, urlsplit

from flask import g, redirect, request, session
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response

from app.access import audit, people, sessions
from app.access.people import Membership, reaches
from app.errors import RoleNeeded
from app.models import Role, User, Workspace
from app.protocol.errors import NotFound

View = TypeVar("View", bound=Callable[..., ResponseReturnValue])
Wrapped = Callable[..., ResponseReturnValue]

#: Where the secret of the sign-in lies in Flask's signed session cookie.
SESSION_KEY = "sign_in"

_HERE = "tidings.here"


@dataclass(slots=True)
class _Here:
    """What one request found out of its person and place, each once."""

    is_known: bool = False
    identity: sessions.Identity | None = None
    memberships: Sequence[Membership] | None = None
    workspace: Workspace | None = None
    role: Role | None = None


def page(role: Role) -> Callable[[View], Wrapped]:
    """For views below /w/<workspace>/: the view gets the workspace's row first."""

    def wrap(view: View) -> Wrapped:
        @functools.wraps(view)
        def call(workspace: str, **arguments: object) -> ResponseReturnValue:
            if not is_signed_in():
                return to_sign_in()
            membership = next((one for one in memberships() if one.workspace.slug == workspace), None)
            if membership is None:
                raise NotFound(f"There is no workspace {workspace[:64]} that you are a member of.")
            here = _here()
            here.workspace, here.role = membership.workspace, membership.role
            require(role)
            return view(membership.workspace, **arguments)

        return call

    return wrap


def admin_page(role: Role) -> Callable[[View], Wrapped]:
    """For views below /admin/: the role is the highest one that the person has anywhere."""

    def wrap(view: View) -> Wrapped:
        @functools.wraps(view)
        def call(**arguments: object) -> ResponseReturnValue:
            if not is_signed_in():
                return to_sign_in()
            _here().role = people.highest_role(memberships())
            require(role)
            return view(**arguments)

        return call

    return wrap


def is_signed_in() -> bool:
    """Whether the request comes from somebody whose sign-in holds."""
    return _identity() is not None


def current_user() -> User:
    """Who is there; only behind `page` or `admin_page`. The row is detached: reading it costs nothing."""
    identity = _identity()
    if identity is None:
        raise NotFound
    return identity.user


def current_sign_in() -> sessions.Identity | None:
    """The sign-in of this request, or None."""
    return _identity()


def current_role() -> Role | None:
    """The role on this page, or None where there is none."""
    return _here().role


def current_workspace() -> Workspace | None:
    """The workspace of this page, or None outside of one."""
    return _here().workspace


def may(role: Role | str) -> bool:
    """Whether the person's role on this page is this one or a higher one."""
    mine = current_role()
    return mine is not None and reaches(mine, Role(role))


def require(role: Role) -> None:
    """Pass with this role or a higher one. Raises RoleNeeded."""
    if not may(role):
        raise RoleNeeded(role.value)


def memberships() -> Sequence[Membership]:
    """The workspaces of who is there, by slug; looked up once a request."""
    here = _here()
    if here.memberships is None:
        identity = _identity()
        here.memberships = people.memberships_of(identity.user.id) if identity else ()
    return here.memberships


def sign_in(user: User) -> None:
    """Begin a sign-in for the user in this browser.

    Whatever the session held before is dropped, CSRF token included, so a session that somebody
    planted in the browser is worth nothing afterwards.
    """
    sign_out()
    secret = sessions.begin(user.id, request.remote_addr, request.user_agent.string)
    session.clear()
    session[SESSION_KEY] = secret
    forget()
    _act_as(user)


def sign_out() -> None:
    """End the sign-in of this browser, if there is one."""
    identity = _identity()
    if identity is not None:
        sessions.end(identity.session_id)
    session.clear()
    forget()


def forget() -> None:
    """Forget what this request knew of the person."""
    request.environ.pop(_HERE, None)
    g.pop("csrf_token", None)


def to_sign_in() -> Response:
    """To the sign-in page, which leads back. A page that was posted to leads back to where its form was."""
    target = request.full_path.rstrip("?") if request.method in ("GET", "HEAD") else local_referrer()
    return redirect(f"/login?next={quote(target, safe='')}", 303)


def local_referrer(otherwise: str = "/") -> str:
    """Path and query of the page that led here, if it is one of ours."""
    parts = urlsplit(request.referrer or "")
    if parts.netloc != request.host:
        return otherwise
    return local_path(parts.path + (f"?{parts.query}" if parts.query else ""), otherwise)


def local_path(target: str | None, otherwise: str = "/") -> str:
    """The target if it is a path of this site, else the other one: nobody is sent elsewhere from here.

    Browsers read a backslash as a slash and drop tabs and line breaks, so that `/\\host` and `/\t/host`
    would lead to another site.
    """
    text = target or ""
    if not text.startswith("/") or text.startswith("//") or "\\" in text or not text.isprintable():
        return otherwise
    return text


def _identity() -> sessions.Identity | None:
    here = _here()
    if not here.is_known:
        here.is_known = True
        secret = session.get(SESSION_KEY)
        here.identity = sessions.find(secret) if isinstance(secret, str) else None
        if here.identity is not None:
            _act_as(here.identity.user)
    return here.identity


def _act_as(user: User) -> None:
    audit.act_as(audit.Actor("user", user.public_id, user.email, request.remote_addr))


def _here() -> _Here:
    return cast(_Here, request.environ.setdefault(_HERE, _Here()))
