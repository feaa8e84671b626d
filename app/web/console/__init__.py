"""The console: pages for people. Every page works without scripts; with them, it is live.

A view asks its gate who is there, makes one call, and renders or redirects. What is posted carries a token
against forgery; the API and the peers' endpoints carry none, because no browser vouches for them by itself.
"""

import hashlib
from collections.abc import Sequence

from flask import Blueprint, Flask, request
from flask_bootstrap import Bootstrap5
from flask_wtf.csrf import CSRFProtect, generate_csrf

from app.access.audit import act_as_instance
from app.protocol.errors import InvalidRequest
from app.web.console import (
    account,
    audit,
    connections,
    dead_letters,
    deliveries,
    events,
    gate,
    jobs,
    keys,
    members,
    operations,
    overview,
    pictures,
    preferences,
    replays,
    session,
    settings,
    setup,
    shell,
    status,
    subscriptions,
    tokens,
    view,
    words,
    workspaces,
)
from app.web.console.headers import secure

#: Pages, all behind a token against forged posts.
PAGES: Sequence[Blueprint] = (
    overview.bp,
    events.bp,
    deliveries.bp,
    dead_letters.bp,
    operations.bp,
    replays.bp,
    connections.bp,
    subscriptions.bp,
    jobs.bp,
    keys.bp,
    preferences.bp,
    session.bp,
    account.bp,
    setup.bp,
    tokens.bp,
    members.bp,
    workspaces.bp,
    audit.bp,
    settings.bp,
    status.bp,
)

#: The rail: group, then (entry, label, icon, path below the workspace or from the root).
NAV = (
    ("", (("overview", "Overview", "speedometer2", ""),)),
    (
        "Traffic",
        (
            ("events", "Events", "activity", "events"),
            ("deliveries", "Deliveries", "send", "deliveries"),
            ("dead_letters", "Dead letters", "envelope-x", "dead-letters"),
            ("replay", "Replay", "arrow-counterclockwise", "replay"),
        ),
    ),
    (
        "Federation",
        (
            ("connections", "Connections", "diagram-2", "connections"),
            ("subscriptions", "Subscriptions", "bookmark", "subscriptions"),
        ),
    ),
    (
        "System",
        (
            ("jobs", "Jobs", "stack", "/admin/jobs"),
            ("keys", "Keys", "key", "/admin/keys"),
            ("audit", "Audit", "clipboard-check", "/admin/audit"),
            ("settings", "Settings", "sliders", "/admin/settings"),
        ),
    ),
    (
        "Workspace",
        (("tokens", "Tokens", "shield-lock", "tokens"), ("members", "Members", "people", "members")),
    ),
)

_csrf = CSRFProtect()


def register(app: Flask) -> None:
    """Give the app its console."""
    base_url = app.extensions["tidings"].base_url
    is_https = base_url.startswith("https://")
    app.config.update(
        # Cookies know no ports: two instances on one host would sign each other out under one name.
        SESSION_COOKIE_NAME=("__Host-" if is_https else "") + f"tidings_{_short_hash(base_url)}",
        BOOTSTRAP_SERVE_LOCAL=True,
        # The posts of the console's pages are checked in `_protect`, and no others.
        WTF_CSRF_CHECK_DEFAULT=False,
        # As long as the sign-in: a page that was left open overnight still works.
        WTF_CSRF_TIME_LIMIT=None,
        # Behind a proxy that ends TLS our own scheme is http; the token alone decides.
        WTF_CSRF_SSL_STRICT=False,
    )
    Bootstrap5(app)
    _csrf.init_app(app)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    words.register(app)
    app.jinja_env.globals.update(
        NAV=NAV,
        may=gate.may,
        sprite=pictures.sprite_url,
        asset=pictures.asset,
        csrf_token=generate_csrf,
        nav_href=nav_href,
        with_query=view.with_query,
        in_shell=shell.in_shell,
        curl_line=shell.curl,
    )
    for name in (blueprint.name for blueprint in PAGES):
        app.before_request_funcs.setdefault(name, []).append(_protect)
        app.after_request_funcs.setdefault(name, []).append(secure)
    app.after_request(pictures.keep_marked)
    app.teardown_request(lambda _error: act_as_instance())
    for blueprint in (*PAGES, pictures.bp):
        app.register_blueprint(blueprint)


def nav_href(path: str, workspace: str | None) -> str:
    """Where an entry of the rail leads from this workspace."""
    if path.startswith("/"):
        return path
    return f"/w/{workspace}/{path}" if workspace else "/"


def _protect() -> None:
    """Refuse a post that did not come from a page of ours, or that has a NUL, which no page sends."""
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        _csrf.protect()
        if any("\0" in value for _, value in request.form.items(multi=True)):
            raise InvalidRequest("A field has a NUL in it.")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
