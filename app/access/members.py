"""Members: who works in a workspace, invited by a one-time link.

Nobody gives or touches a role above their own, and a workspace always keeps an owner.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from app import clock
from app.access import audit, links, sessions, users
from app.access.people import reaches
from app.database import db, transaction
from app.errors import InvalidState, RoleNeeded
from app.models import Member, Role, SignIn, User, Workspace
from app.protocol.errors import NotFound, invalid


@dataclass(frozen=True, slots=True)
class MemberDetails:
    """A member as lists show them."""

    user_id: str
    email: str
    role: Role
    last_sign_in_at: int | None
    #: Browsers in which they are signed in now.
    sign_ins: int
    #: Invited, and the link was not used yet.
    is_invited: bool
    #: A member of another workspace too.
    is_elsewhere: bool


@dataclass(frozen=True, slots=True)
class Invitation:
    """Who was invited, and the secret of their link."""

    user: User
    secret: str


def list_members(workspace_id: int) -> Sequence[MemberDetails]:
    """All members of a workspace, by address."""
    live = (
        sa.select(sa.func.count())
        .select_from(SignIn)
        .where(SignIn.user_id == User.id, *sessions.holds())
        .scalar_subquery()
    )
    rows = db.session.execute(
        sa.select(User, Member, live, _elsewhere(Member.workspace_id))
        .join(Member, Member.user_id == User.id)
        .where(Member.workspace_id == workspace_id)
        .order_by(User.email)
    )
    return [_details(*row) for row in rows]


def get_member(workspace_id: int, user_id: str) -> MemberDetails:
    """One member. Raises NotFound."""
    user, member = _member(workspace_id, user_id)
    is_elsewhere = _is_member_anywhere(user.id, but=workspace_id)
    return _details(user, member, len(sessions.list_live(user.id)), is_elsewhere)


def invite(workspace_id: int, email: str, role: Role, *, by: Role) -> Invitation:
    """Make a link by which somebody becomes a member; until it is used they are none. Commits.

    by: the role of who invites. Raises InvalidRequest at /email for an address that is none or is a member
    already, RoleNeeded for a role above one's own.
    """
    _check_reach(by, role)
    address = users.checked_email(email)
    with transaction():
        user = users.by_email(address)
        if user is None:
            user = User(
                public_id=str(uuid.uuid4()), email=address, password_hash="", created_at=clock.now_ms()
            )
            db.session.add(user)
            db.session.flush()
        elif _find(workspace_id, user.id) is not None:
            raise invalid("/email", f"{address} is a member already", "taken")
        # Who uses this link is who was meant; who has an account of this address may be anybody.
        db.session.add(Member(user_id=user.id, workspace_id=workspace_id, role=role, is_pending=True))
        audit.record(
            "member.invite",
            "user",
            user.public_id,
            after={"email": address, "role": role},
            workspace_id=workspace_id,
        )
        secret = links.create(user.id, links.INVITATION_LIFE_MS, workspace_id)
    return Invitation(user, secret)


def invite_again(workspace_id: int, user_id: str, *, by: Role) -> Invitation:
    """A new link for a member who has not used theirs; the old one is void. Commits.

    Raises NotFound, RoleNeeded, InvalidState if they have.
    """
    with transaction():
        user, member = _member(workspace_id, user_id)
        _check_reach(by, member.role)
        if not _is_invited(user, member):
            raise InvalidState(f"{user.email} is a member, and needs no invitation.")
        audit.record("member.invite_again", "user", user.public_id, workspace_id=workspace_id)
        secret = links.create(user.id, links.INVITATION_LIFE_MS, workspace_id)
    return Invitation(user, secret)


def change_role(workspace_id: int, user_id: str, role: Role, *, by: Role) -> None:
    """Give a member another role. Commits. Raises NotFound, RoleNeeded, InvalidState for the last owner."""
    with transaction():
        _lock(workspace_id)
        user, member = _member(workspace_id, user_id)
        if member.role is role:
            return
        _check_reach(by, member.role)
        _check_reach(by, role)
        if member.role is Role.OWNER and not member.is_pending:
            _keep_an_owner(workspace_id)
        audit.record(
            "member.change_role",
            "user",
            user.public_id,
            before={"role": member.role},
            after={"role": role},
            workspace_id=workspace_id,
        )
        member.role = role


def remove(workspace_id: int, user_id: str, *, by: Role) -> None:
    """Take somebody out of the workspace; who is in no other one is signed out everywhere. Commits.

    Raises NotFound, RoleNeeded, InvalidState for the last owner.
    """
    with transaction():
        _lock(workspace_id)
        user, member = _member(workspace_id, user_id)
        _check_reach(by, member.role)
        if member.role is Role.OWNER and not member.is_pending:
            _keep_an_owner(workspace_id)
        audit.record(
            "member.remove",
            "user",
            user.public_id,
            before={"email": user.email, "role": member.role},
            workspace_id=workspace_id,
        )
        db.session.delete(member)
        db.session.flush()
        links.void(user.id, workspace_id)
        if not _is_member_anywhere(user.id):
            sessions.end_all(user.id)


def end_sign_ins(workspace_id: int, user_id: str, *, by: Role) -> int:
    """Sign a member out everywhere; how many browsers that were. Commits.

    Raises NotFound, RoleNeeded, InvalidState for who works in another workspace too: a sign-in is one for
    all, and this workspace has no say there.
    """
    with transaction():
        user, member = _member(workspace_id, user_id)
        _check_reach(by, member.role)
        if member.is_pending or _is_member_anywhere(user.id, but=workspace_id):
            raise InvalidState(
                f"{user.email} works in another workspace too. Remove them from this one,"
                " or ask them to sign out."
            )
        ended = sessions.end_all(user.id)
        audit.record(
            "member.end_sign_ins", "user", user.public_id, after={"ended": ended}, workspace_id=workspace_id
        )
    return ended


def _details(user: User, member: Member, sign_ins: int, is_elsewhere: bool) -> MemberDetails:
    return MemberDetails(
        user.public_id,
        user.email,
        member.role,
        user.last_sign_in_at,
        # What somebody does who is not here yet is nothing to show.
        0 if member.is_pending else sign_ins,
        _is_invited(user, member),
        is_elsewhere,
    )


def _is_invited(user: User, member: Member) -> bool:
    """Whether the link was not used yet. Who was made by the command line has a password."""
    return member.is_pending or not user.password_hash


def _elsewhere(workspace_id: sa.SQLColumnExpression[int]) -> sa.ColumnElement[bool]:
    other = aliased(Member)
    return sa.exists().where(
        other.user_id == User.id, other.workspace_id != workspace_id, other.is_pending.is_(False)
    )


def _check_reach(mine: Role, theirs: Role) -> None:
    if not reaches(mine, theirs):
        raise RoleNeeded(theirs.value)


def _lock(workspace_id: int) -> None:
    """Two owners who remove each other at once would leave none."""
    db.session.execute(sa.select(Workspace.id).where(Workspace.id == workspace_id).with_for_update())


def _keep_an_owner(workspace_id: int) -> None:
    owners = db.session.scalar(
        sa.select(sa.func.count())
        .select_from(Member)
        .where(Member.workspace_id == workspace_id, Member.role == Role.OWNER, Member.is_pending.is_(False))
    )
    if (owners or 0) < 2:
        raise InvalidState("This is the last owner of the workspace. Make somebody else an owner first.")


def _member(workspace_id: int, user_id: str) -> tuple[User, Member]:
    row = db.session.execute(
        sa.select(User, Member)
        .join(Member, Member.user_id == User.id)
        .where(Member.workspace_id == workspace_id, User.public_id == user_id)
    ).one_or_none()
    if row is None:
        raise NotFound("This workspace has no such member.")
    return row[0], row[1]


def _find(workspace_id: int, user_id: int) -> Member | None:
    return db.session.scalar(
        sa.select(Member).where(Member.workspace_id == workspace_id, Member.user_id == user_id)
    )


def _is_member_anywhere(user_id: int, but: int | None = None) -> bool:
    """Whether somebody is a member of a workspace, not only invited to it."""
    query = sa.select(Member.id).where(Member.user_id == user_id, Member.is_pending.is_(False))
    if but is not None:
        query = query.where(Member.workspace_id != but)
    return db.session.scalar(query.limit(1)) is not None
