"""Roles: what each may do, and who has which where.

viewer looks · operator also publishes, sends again and replays · admin also changes connections,
subscriptions, tokens, members and keys · owner also makes owners
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.database import db
from app.models import Member, Role, Workspace

#: From the lowest; each may do what those before it may.
ORDER: tuple[Role, ...] = (Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.OWNER)


@dataclass(frozen=True, slots=True)
class Membership:
    """A workspace, and the role that somebody has in it."""

    workspace: Workspace
    role: Role


def reaches(role: Role, needed: Role) -> bool:
    """Whether the role may do what the needed one may."""
    return ORDER.index(role) >= ORDER.index(needed)


def highest_role(memberships: Iterable[Membership]) -> Role | None:
    """The highest of the roles, or None if there is none."""
    return max((one.role for one in memberships), key=ORDER.index, default=None)


def memberships_of(user_id: int) -> Sequence[Membership]:
    """The user's workspaces with the role in each, by name. The rows are detached from the session.

    Not those whose invitation waits for its link to be used.
    """
    rows = db.session.execute(
        sa.select(Workspace, Member.role)
        .join(Member, Member.workspace_id == Workspace.id)
        .where(Member.user_id == user_id, Member.is_pending.is_(False))
        .order_by(Workspace.name, Workspace.id)
    ).all()
    for workspace, _ in rows:
        db.session.expunge(workspace)
    return [Membership(workspace, role) for workspace, role in rows]
