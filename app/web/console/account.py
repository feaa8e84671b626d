"""One's own account: another password, and where one is signed in."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import PasswordField
from wtforms.validators import InputRequired, Length

from app import limits
from app.access import sessions, users
from app.models import Role
from app.protocol.errors import NotFound
from app.web.console import gate
from app.web.console.view import problems, redirect_done, render

bp = Blueprint("account", __name__)

#: Tries of the present password a minute.
TRIES = 10


class PasswordForm(FlaskForm):
    """The present password, and another one."""

    current = PasswordField(
        "Present password", validators=[InputRequired("Type your password."), Length(max=1_000)]
    )
    password = PasswordField(
        "New password", validators=[InputRequired("Choose a password."), Length(max=1_000)]
    )


@bp.get("/account")
@gate.admin_page(Role.VIEWER)
def show() -> ResponseReturnValue:
    """Who one is, and where one is signed in."""
    return _page(PasswordForm())


@bp.post("/account/password")
@gate.admin_page(Role.VIEWER)
def password() -> ResponseReturnValue:
    """Another password; other browsers are signed out, since somebody may know the old one."""
    form = PasswordForm()
    if form.validate_on_submit():
        with problems(form):
            limits.check("password", request.remote_addr or "unknown", per_minute=TRIES)
            users.change_password(
                gate.current_user().id,
                form.current.data,
                form.password.data,
                session_id=_here().session_id,
            )
            return redirect_done("/account", "Your password is changed. Other browsers are signed out.")
    return _page(form)


@bp.post("/account/sign-out-elsewhere")
@gate.admin_page(Role.VIEWER)
def sign_out_elsewhere() -> ResponseReturnValue:
    """End all sign-ins but this one."""
    here = _here()
    sessions.end_others(here.user.id, here.session_id)
    return redirect_done("/account", "You are signed in here alone.")


def _here() -> sessions.Identity:
    here = gate.current_sign_in()
    if here is None:
        raise NotFound
    return here


def _page(form: PasswordForm) -> ResponseReturnValue:
    return render(
        "console/account/show.html",
        title="Your account",
        form=form,
        sign_ins=sessions.list_live(gate.current_user().id),
        here=_here().session_id,
        memberships=gate.memberships(),
    )
