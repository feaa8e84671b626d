"""In and out: the front door, signing in by password or by a one-time link, and signing out."""

import hashlib
import logging

from flask import Blueprint, redirect, request
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import EmailField, PasswordField
from wtforms.validators import InputRequired, Length

from app import limits
from app.access import audit, links, setup, users
from app.models import User
from app.web.console import gate
from app.web.console.forms import confirm_form
from app.web.console.view import problems, render_bare

log = logging.getLogger(__name__)

bp = Blueprint("session", __name__)

#: Tries a minute, from one address and for one account.
TRIES_PER_ADDRESS = 10
TRIES_PER_ACCOUNT = 20


class SignInForm(FlaskForm):
    """Who, and the proof of it."""

    email = EmailField("Email", validators=[InputRequired("Type your address."), Length(max=320)])
    password = PasswordField("Password", validators=[InputRequired("Type your password."), Length(max=1_000)])


class FirstPasswordForm(FlaskForm):
    """The password of somebody who has none yet."""

    password = PasswordField(
        "New password", validators=[InputRequired("Choose a password."), Length(max=1_000)]
    )


class OtherPasswordForm(FlaskForm):
    """Another password, if it is wanted."""

    password = PasswordField("New password", validators=[Length(max=1_000)])


@bp.get("/")
def front_door() -> ResponseReturnValue:
    """To the workspace of who is signed in, else to where they can get in."""
    if not gate.is_signed_in():
        return redirect("/setup" if setup.is_open() else "/login", 303)
    memberships = gate.memberships()
    return redirect(f"/w/{memberships[0].workspace.slug}/" if memberships else "/status", 303)


@bp.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Sign in by password, and go on to where the person wanted to be."""
    target = gate.local_path(request.values.get("next"))
    if gate.is_signed_in():
        return redirect(target, 303)
    if setup.is_open():
        return redirect("/setup", 303)
    form = SignInForm()
    if form.validate_on_submit():
        with problems(form):
            user = _by_password(form.email.data, form.password.data)
            if user is not None:
                return _let_in(user, target, "password")
            form.form_errors.append("The address or the password is wrong.")
    return render_bare("console/session/sign_in.html", title="Sign in", form=form, next=target)


@bp.route("/login/link/<secret>", methods=["GET", "POST"])
def link(secret: str) -> ResponseReturnValue:
    """Sign in by a one-time link: a page with a button, so that a look at the link does not use it up."""
    _charge("sign-in", request.remote_addr or "unknown", TRIES_PER_ADDRESS)
    found = links.find(secret)
    if found.needs_sign_in:
        return _join(found, secret)
    form = OtherPasswordForm() if found.user.password_hash else FirstPasswordForm()
    if form.validate_on_submit():
        with problems(form):
            return _let_in(links.use(secret, form.password.data or None), "/", "link")
    return render_bare(
        "console/session/link.html",
        title="Sign in",
        form=form,
        email=found.user.email,
        secret=secret,
        is_new=not found.user.password_hash,
    )


def _join(found: links.Link, secret: str) -> ResponseReturnValue:
    """The invitation of somebody who has an account: accepted by who is signed in with it."""
    here = gate.current_sign_in()
    form = confirm_form()
    if here is not None and here.user.id == found.user.id and form.validate_on_submit():
        with problems(form):
            links.use(secret, signed_in_as=here.user.id)
            return redirect("/" if found.workspace is None else f"/w/{found.workspace.slug}/", 303)
    return render_bare(
        "console/session/join.html",
        title="Invitation",
        form=form,
        email=found.user.email,
        place=found.workspace,
        here=here.user.email if here else None,
        secret=secret,
    )


@bp.post("/logout")
def logout() -> ResponseReturnValue:
    """Sign out of this browser."""
    gate.sign_out()
    return redirect("/login", 303)


def _by_password(email: str, password: str) -> User | None:
    address = request.remote_addr or "unknown"
    account = hashlib.sha256(email.strip().lower().encode()).hexdigest()[:32]
    _charge("sign-in", address, TRIES_PER_ADDRESS)
    _charge("sign-in-account", account, TRIES_PER_ACCOUNT)
    user = users.authenticate(email, password)
    if user is None:
        log.warning("sign_in.refused", extra={"address": address})
    return user


def _charge(bucket: str, key: str, per_minute: int) -> None:
    limits.check(bucket, key, per_minute=per_minute)


def _let_in(user: User, target: str, how: str) -> ResponseReturnValue:
    gate.sign_in(user)
    audit.note("user.sign_in", "user", user.public_id, after={"how": how})
    return redirect(target, 303)
