"""The first start: an owner, then a look at name and address, at the key, and on to the first connection."""

from flask import Blueprint, redirect, request
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import EmailField, PasswordField, StringField
from wtforms.validators import InputRequired, Length

from app import limits
from app.access import setup, users
from app.config import settings
from app.federation import identity, self_check
from app.models import Role
from app.web.console import gate
from app.web.console.view import problems, render, render_bare

bp = Blueprint("setup", __name__)

#: Tries of the setup token a minute, from one address.
TRIES = 10


class SetupForm(FlaskForm):
    """The proof that one may, and who the first owner is."""

    token = StringField("Setup token", validators=[InputRequired("The log shows it."), Length(max=100)])
    email = EmailField("Email", validators=[InputRequired("Type your address."), Length(max=320)])
    password = PasswordField("Password", validators=[InputRequired("Choose a password."), Length(max=1_000)])


@bp.route("/setup", methods=["GET", "POST"])
def owner() -> ResponseReturnValue:
    """Step 1: the first owner."""
    if not setup.is_open():
        return redirect("/setup/instance" if gate.is_signed_in() else "/login", 303)
    form = SetupForm()
    if form.validate_on_submit():
        with problems(form):
            limits.check("setup", request.remote_addr or "unknown", per_minute=TRIES)
            gate.sign_in(setup.create_first(form.token.data, form.email.data, form.password.data))
            return redirect("/setup/instance", 303)
    return render_bare("console/setup/owner.html", title="Set up", form=form, min_password=users.MIN_PASSWORD)


@bp.get("/setup/instance")
@gate.admin_page(Role.ADMIN)
def instance() -> ResponseReturnValue:
    """Step 2: name and address, and whether the address leads here."""
    return render(
        "console/setup/instance.html",
        title="Name and address",
        config=settings(),
        check=self_check.read_own_document(),
    )


@bp.get("/setup/key")
@gate.admin_page(Role.ADMIN)
def key() -> ResponseReturnValue:
    """Step 3: the key that signs for this instance."""
    return render("console/setup/key.html", title="Your key", local=identity.local_instance())


@bp.get("/setup/connect")
@gate.admin_page(Role.ADMIN)
def connect() -> ResponseReturnValue:
    """Step 4: on to the first connection."""
    return render("console/setup/connect.html", title="Connect", config=settings())
