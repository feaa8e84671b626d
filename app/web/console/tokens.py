"""API tokens: make one, which is shown once, and end one."""

import uuid

from flask import Blueprint, session, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import HiddenField, SelectMultipleField, StringField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import InputRequired, Length, Regexp

from app.access import tokens
from app.access.tokens import Scope
from app.config import settings
from app.models import Role, Token, Workspace
from app.web.console import gate
from app.web.console.forms import confirm_form
from app.web.console.view import confirm, problems, redirect_done, render
from app.web.console.words import full, when

bp = Blueprint("tokens", __name__)

#: What each scope lets its bearer do, in words.
SCOPES: dict[Scope, str] = {
    Scope.EVENTS_PUBLISH: "publish events",
    Scope.EVENTS_READ: "read events, deliveries, connections and subscriptions",
    Scope.SUBSCRIPTIONS_WRITE: "subscribe, and decide about what others ask for",
    Scope.CONNECTIONS_WRITE: "request, accept, suspend and end connections",
    Scope.DELIVERIES_WRITE: "send again, discard",
    Scope.ADMIN: "all of these",
}

#: Where a new token's secret waits in the browser's signed session for the page that shows it, once.
_SHOWN_ONCE = "token_shown_once"


class TokenForm(FlaskForm):
    """A new token. `once` becomes its id, so that a form that is sent twice makes one token."""

    name = StringField("Name", validators=[InputRequired("Give it a name."), Length(max=200)])
    scopes = SelectMultipleField(
        "May do",
        choices=[SelectChoice(scope.value, f"{scope.value}: {words}") for scope, words in SCOPES.items()],
    )
    once = HiddenField(
        default=lambda: str(uuid.uuid4()), validators=[Regexp("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")]
    )


@bp.get("/w/<workspace>/tokens")
@gate.page(Role.VIEWER)
def list_(workspace: Workspace) -> ResponseReturnValue:
    """All tokens of the workspace, revoked ones last."""
    rows = sorted(tokens.list_tokens(workspace.id), key=lambda row: row.revoked_at is not None)
    return render("console/tokens/list.html", title="API tokens", active="tokens", tokens=rows)


@bp.route("/w/<workspace>/tokens/new", methods=["GET", "POST"])
@gate.page(Role.ADMIN)
def new(workspace: Workspace) -> ResponseReturnValue:
    """Make a token."""
    form = TokenForm()
    if form.validate_on_submit():
        with problems(form):
            row, secret = tokens.create(
                workspace.id, form.name.data.strip(), form.scopes.data, public_id=form.once.data
            )
            if secret:
                session[_SHOWN_ONCE] = [row.public_id, secret]
            return redirect_done(url_for("tokens.detail", workspace=workspace.slug, token_id=row.public_id))
    return render("console/tokens/new.html", title="New token", active="tokens", form=form)


@bp.get("/w/<workspace>/tokens/<token_id>")
@gate.page(Role.VIEWER)
def detail(workspace: Workspace, token_id: str) -> ResponseReturnValue:
    """One token; right after it was made, and only then, with its secret."""
    row = tokens.get_token(workspace.id, token_id)
    kept = session.pop(_SHOWN_ONCE, None)
    return render(
        "console/tokens/detail.html",
        title="Token created" if kept and kept[0] == row.public_id else row.name,
        active="tokens",
        token=row,
        secret=kept[1] if kept and kept[0] == row.public_id else None,
        scopes=[(scope, SCOPES[Scope(scope)]) for scope in row.scopes.split()],
        base_url=settings().base_url,
    )


@bp.route("/w/<workspace>/tokens/<token_id>/revoke", methods=["GET", "POST"])
@gate.page(Role.ADMIN)
def revoke(workspace: Workspace, token_id: str) -> ResponseReturnValue:
    """End a token, after a look at when it was last used."""
    row = tokens.get_token(workspace.id, token_id)
    back = url_for("tokens.list_", workspace=workspace.slug)
    form = confirm_form()
    if form.validate_on_submit():
        tokens.revoke(workspace.id, token_id)
        return redirect_done(back, f"{row.name} is revoked.")
    return confirm(
        f"Revoke {row.name}?",
        form=form,
        button="Revoke the token",
        back=back,
        keep="Keep it",
        lead="Calls with it are refused from then on. This cannot be undone.",
        warning=_last_use(row),
        crumbs=[("Tokens", back)],
        command=f"flask token revoke --workspace {workspace.slug} {row.public_id}",
        active="tokens",
    )


def _last_use(row: Token) -> str:
    if row.last_used_at is None:
        return "It was never used."
    return f"Last used {when(row.last_used_at)}, at {full(row.last_used_at)}. Something may depend on it."
