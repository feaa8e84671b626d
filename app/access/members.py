"""Members: who works in a workspace, invited by a one-time link.

Nobody gives or touches a role above their own, and a workspace always keeps an owner.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

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


@dataclass(frozen=True, slots=True)
class Invitation:
    """Who was invited. `secret` is that of the link; None if they can sign in already."""

    user: User
    secret: str | None


def list_members(workspace_id: int) -> Sequence[MemberDetails]:
    """All members of a workspace, by address."""
    live = (
        sa.select(sa.func.count())
        .select_from(SignIn)
        .where(SignIn.user_id == User.id, *sessions.holds())
        .scalar_subquery()
    )
    rows = db.session.execute(
        sa.select(User, Member.role, live)
        .join(Member, Member.user_id == User.id)
        .where(Member.workspace_id == workspace_id)
        .order_by(User.email)
    )
    return [_details(user, role, sign_ins) for user, role, sign_ins in rows]


def get_member(workspace_id: int, user_id: str) -> MemberDetails:
    """One member. Raises NotFound."""
    user, member = _member(workspace_id, user_id)
    return _details(user, member.role, len(sessions.list_live(user.id)))


def invite(workspace_id: int, email: str, role: Role, *, by: Role) -> Invitation:
    """Make somebody a member, and a link for them if they have no password yet. Commits.

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
        # Somebody who waits for the link of another workspace gets none from this one: whoever makes a link
        # could use it, and be what they are there.
        is_new = not user.password_hash and not _is_member_anywhere(user.id)
        db.session.add(Member(user_id=user.id, workspace_id=workspace_id, role=role))
        audit.record(
            "member.invite",
            "user",
            user.public_id,
            after={"email": address, "role": role},
            workspace_id=workspace_id,
        )
        secret = links.create(user.id, links.INVITATION_LIFE_MS) if is_new else None
    return Invitation(user, secret)


def invite_again(workspace_id: int, user_id: str, *, by: Role) -> Invitation:
    """A new link for a member who has not used theirs; the old one is void. Commits.

    Raises NotFound, RoleNeeded, InvalidState if they can sign in, or are a member of another workspace too.
    """
    with transaction():
        user, member = _member(workspace_id, user_id)
        _check_reach(by, member.role)
        if user.password_hash:
            raise InvalidState(f"{user.email} has a password, and needs no invitation.")
        if _is_member_anywhere(user.id, but=workspace_id):
            raise InvalidState(f"{user.email} was invited by another workspace too, whose link is theirs.")
        audit.record("member.invite_again", "user", user.public_id, workspace_id=workspace_id)
        secret = links.create(user.id, links.INVITATION_LIFE_MS)
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
        if member.role is Role.OWNER:
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
        if member.role is Role.OWNER:
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
        if not _is_member_anywhere(user.id):
            sessions.end_all(user.id)


def end_sign_ins(workspace_id: int, user_id: str, *, by: Role) -> int:
    """Sign a member out everywhere; how many browsers that were. Commits. Raises NotFound, RoleNeeded."""
    with transaction():
        user, member = _member(workspace_id, user_id)
        _check_reach(by, member.role)
        ended = sessions.end_all(user.id)
        audit.record(
            "member.end_sign_ins", "user", user.public_id, after={"ended": ended}, workspace_id=workspace_id
        )
    return ended


def _details(user: User, role: Role, sign_ins: int) -> MemberDetails:
    return MemberDetails(
        user.public_id, user.email, role, user.last_sign_in_at, sign_ins, is_invited=not user.password_hash
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
        .where(Member.workspace_id == workspace_id, Member.role == Role.OWNER)
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
    query = sa.select(Member.id).where(Member.user_id == user_id)
    if but is not None:
        query = query.where(Member.workspace_id != but)
    return db.session.scalar(query.limit(1)) is not None
