"""Members: invite by a one-time link, change a role, sign somebody out, take somebody out."""

from flask import Blueprint, session, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import EmailField, SelectField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import InputRequired, Length

from app.access import links, members
from app.access.members import Invitation, MemberDetails
from app.access.people import ORDER, reaches
from app.models import Role, Workspace
from app.protocol.errors import NotFound
from app.web.console import gate
from app.web.console.forms import ConfirmForm, confirm_form
from app.web.console.view import confirm, problems, redirect_done, render

bp = Blueprint("members", __name__)

#: What each role may do, in words.
ROLES: dict[Role, str] = {
    Role.VIEWER: "looks",
    Role.OPERATOR: "looks, publishes, sends again, replays",
    Role.ADMIN: "all of that, and changes connections, subscriptions, tokens, members and keys",
    Role.OWNER: "all of that, and makes owners",
}

#: Where the secret of an invitation waits in the browser's signed session for the page that shows it, once.
_SHOWN_ONCE = "invitation_shown_once"


class InviteForm(FlaskForm):
    """Who, and what they may do."""

    email = EmailField("Email", validators=[InputRequired("Type an address."), Length(max=320)])
    role = SelectField("Role", default=Role.OPERATOR.value)


class RoleForm(FlaskForm):
    """Another role."""

    role = SelectField("Role")


@bp.get("/w/<workspace>/members")
@gate.page(Role.VIEWER)
def list_(workspace: Workspace) -> ResponseReturnValue:
    """Who works here, and as what."""
    return render(
        "console/members/list.html",
        title="Members",
        active="members",
        members=members.list_members(workspace.id),
        roles=ROLES,
        me=gate.current_user().public_id,
        reaches=_reaches,
    )


@bp.route("/w/<workspace>/members/invite", methods=["GET", "POST"])
@gate.page(Role.ADMIN)
def invite(workspace: Workspace) -> ResponseReturnValue:
    """Make a link by which somebody becomes a member."""
    form = InviteForm()
    form.role.choices = _choices()
    if form.validate_on_submit():
        with problems(form):
            made = members.invite(workspace.id, form.email.data, Role(form.role.data), by=_mine())
            return _invited(workspace, made)
    return render(
        "console/members/invite.html", title="Invite somebody", active="members", form=form, roles=ROLES
    )


@bp.get("/w/<workspace>/members/<user_id>/invited")
@gate.page(Role.ADMIN)
def invited(workspace: Workspace, user_id: str) -> ResponseReturnValue:
    """The link of an invitation, once."""
    member = members.get_member(workspace.id, user_id)
    kept = session.pop(_SHOWN_ONCE, None)
    url = links.url(kept[1]) if kept and kept[0] == user_id else None
    return render(
        "console/members/invited.html",
        title=f"{member.email} is invited",
        active="members",
        member=member,
        url=url,
    )


@bp.post("/w/<workspace>/members/<user_id>/invite-again")
@gate.page(Role.ADMIN)
def invite_again(workspace: Workspace, user_id: str) -> ResponseReturnValue:
    """A new link for somebody who has not used theirs."""
    return _invited(workspace, members.invite_again(workspace.id, user_id, by=_mine()))


@bp.route("/w/<workspace>/members/<user_id>/role", methods=["GET", "POST"])
@gate.page(Role.ADMIN)
def change_role(workspace: Workspace, user_id: str) -> ResponseReturnValue:
    """Give somebody another role."""
    member = members.get_member(workspace.id, user_id)
    form = RoleForm(role=member.role.value)
    form.role.choices = _choices()
    if form.validate_on_submit():
        with problems(form):
            members.change_role(workspace.id, user_id, Role(form.role.data), by=_mine())
            return redirect_done(_list_url(workspace), f"{member.email} is {form.role.data} now.")
    return render(
        "console/members/role.html",
        title=f"Role of {member.email}",
        active="members",
        form=form,
        member=member,
        roles=ROLES,
    )


@bp.route("/w/<workspace>/members/<user_id>/remove", methods=["GET", "POST"])
@gate.page(Role.ADMIN)
def remove(workspace: Workspace, user_id: str) -> ResponseReturnValue:
    """Take somebody out of the workspace."""
    member = _still_there(workspace, user_id)
    if member is None:
        return redirect_done(_list_url(workspace))
    form = confirm_form()
    if form.validate_on_submit():
        with problems(form):
            members.remove(workspace.id, user_id, by=_mine())
            return redirect_done(_list_url(workspace), f"{member.email} is no longer a member.")
    return _ask(
        workspace,
        form,
        title=f"Remove {member.email}?",
        button="Remove from the workspace",
        lead=f"They lose access to {workspace.name}. What they did stays in the audit log.",
    )


@bp.route("/w/<workspace>/members/<user_id>/sign-out", methods=["GET", "POST"])
@gate.page(Role.ADMIN)
def sign_out(workspace: Workspace, user_id: str) -> ResponseReturnValue:
    """End all sign-ins of somebody."""
    member = members.get_member(workspace.id, user_id)
    form = confirm_form()
    if form.validate_on_submit():
        with problems(form):
            members.end_sign_ins(workspace.id, user_id, by=_mine())
            return redirect_done(_list_url(workspace), f"{member.email} is signed out everywhere.")
    return _ask(
        workspace,
        form,
        title=f"Sign {member.email} out everywhere?",
        button="End all sign-ins",
        lead=f"They are signed in in {member.sign_ins} browsers, and can sign in again.",
    )


def _ask(
    workspace: Workspace, form: ConfirmForm, *, title: str, button: str, lead: str
) -> ResponseReturnValue:
    back = _list_url(workspace)
    return confirm(
        title, form=form, button=button, lead=lead, back=back, crumbs=[("Members", back)], active="members"
    )


def _still_there(workspace: Workspace, user_id: str) -> MemberDetails | None:
    """The member, or None if the other of two equal posts was quicker."""
    try:
        return members.get_member(workspace.id, user_id)
    except NotFound:
        return None


def _invited(workspace: Workspace, made: Invitation) -> ResponseReturnValue:
    session[_SHOWN_ONCE] = [made.user.public_id, made.secret]
    return redirect_done(url_for("members.invited", workspace=workspace.slug, user_id=made.user.public_id))


def _choices() -> list[SelectChoice]:
    """The roles that the person may give."""
    return [SelectChoice(role.value, role.value) for role in ORDER if reaches(_mine(), role)]


def _mine() -> Role:
    role = gate.current_role()
    if role is None:
        raise NotFound
    return role


def _reaches(role: Role) -> bool:
    mine = gate.current_role()
    return mine is not None and reaches(mine, role)


def _list_url(workspace: Workspace) -> str:
    return url_for("members.list_", workspace=workspace.slug)
