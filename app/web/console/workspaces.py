"""Workspaces: those one is a member of, and a new one."""

from flask import Blueprint
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import StringField
from wtforms.validators import InputRequired, Length

from app.access import workspaces
from app.models import Role
from app.web.console import gate
from app.web.console.view import problems, redirect_done, render

bp = Blueprint("workspaces", __name__)


class WorkspaceForm(FlaskForm):
    """A new workspace."""

    slug = StringField("Slug", validators=[InputRequired("Give it a slug."), Length(max=64)])
    name = StringField("Name", validators=[Length(max=200)])


@bp.get("/admin/workspaces")
@gate.admin_page(Role.VIEWER)
def list_() -> ResponseReturnValue:
    """The person's workspaces, with the role in each."""
    return render("console/workspaces/list.html", title="Workspaces", memberships=gate.memberships())


@bp.route("/admin/workspaces/new", methods=["GET", "POST"])
@gate.admin_page(Role.ADMIN)
def new() -> ResponseReturnValue:
    """Make a workspace, and be its owner."""
    form = WorkspaceForm()
    if form.validate_on_submit():
        with problems(form):
            made = workspaces.create_for(
                gate.current_user().id, form.slug.data.strip(), form.name.data.strip() or None
            )
            return redirect_done(f"/w/{made.slug}/", f"The workspace {made.name} is there, and you own it.")
    return render("console/workspaces/new.html", title="New workspace", form=form)
