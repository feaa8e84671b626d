"""One-time links: each signs its user in once, within its time. The database keeps a hash of the secret.

A link is opened by GET and used by POST, so that a mail program or a chat that looks at links uses up none.

The link of an invitation makes its user a member of the workspace, and lets in only who is new. Who has a
password accepts it signed in: whoever invites an address has the link too, and must not become, by it, who
that address is in other workspaces. Nor does a role wait for whoever took the address elsewhere before.
"""

import hashlib
import secrets
from dataclasses import dataclass

import sqlalchemy as sa

from app import clock
from app.access import audit, sessions, users
from app.config import settings
from app.database import db, transaction
from app.errors import LinkSpent, SignInFirst
from app.models import Member, SignInLink, User, Workspace
from app.protocol.errors import invalid

#: How long a link lasts unless it is said otherwise, ms: 1 hour.
LIFE_MS = 3_600_000

#: How long the link of an invitation lasts, ms: 3 days.
INVITATION_LIFE_MS = 3 * 86_400_000


@dataclass(frozen=True, slots=True)
class Link:
    """A link that can be used."""

    user: User
    #: The workspace whose invitation it is, or None.
    workspace: Workspace | None

    @property
    def needs_sign_in(self) -> bool:
        """Whether only who is signed in as its user can use it."""
        return self.workspace is not None and bool(self.user.password_hash)


def create(user_id: int, life_ms: int = LIFE_MS, workspace_id: int | None = None) -> str:
    """Make a link for the user; older ones of its kind that were not used are void. Commits.

    Returns its secret. workspace_id: whose invitation it is; without, it signs the user in.
    """
    secret = secrets.token_urlsafe(32)
    now = clock.now_ms()
    with transaction():
        void(user_id, workspace_id)
        db.session.add(
            SignInLink(
                user_id=user_id,
                secret_hash=_hash(secret),
                workspace_id=workspace_id,
                created_at=now,
                expires_at=now + life_ms,
            )
        )
    return secret


def void(user_id: int, workspace_id: int | None) -> None:
    """End the user's links of a workspace, or those that only sign in, that were not used. Commits."""
    with transaction():
        db.session.execute(
            sa.update(SignInLink)
            .where(
                SignInLink.user_id == user_id,
                SignInLink.workspace_id.is_not_distinct_from(workspace_id),
                SignInLink.used_at.is_(None),
            )
            .values(used_at=clock.now_ms())
        )


def url(secret: str) -> str:
    """Where the link with this secret leads."""
    return f"{settings().base_url}/login/link/{secret}"


def find(secret: str) -> Link:
    """The link with this secret, while it can be used. Raises LinkSpent."""
    row = db.session.execute(
        sa.select(User, Workspace)
        .select_from(SignInLink)
        .join(User, SignInLink.user_id == User.id)
        .outerjoin(Workspace, SignInLink.workspace_id == Workspace.id)
        .where(SignInLink.secret_hash == _hash(secret), *_holds())
    ).one_or_none()
    if row is None:
        raise LinkSpent
    return Link(row[0], row[1])


def use(secret: str, new_password: str | None = None, *, signed_in_as: int | None = None) -> User:
    """Use the link up: set a password if one is given, and join the workspace that invited. Commits.

    Of two who try at once, one gets in. A new password ends all sign-ins that there are. signed_in_as: row
    number of the user who tries.

    Raises LinkSpent; SignInFirst if only its user, signed in, may use it; and InvalidRequest at /password for
    one that is too short or missing: both use up nothing.
    """
    hashed = users.hash_password(new_password) if new_password is not None else None
    with transaction():
        taken = db.session.execute(
            sa.update(SignInLink)
            .where(SignInLink.secret_hash == _hash(secret), *_holds())
            .values(used_at=clock.now_ms())
            .returning(SignInLink.user_id, SignInLink.workspace_id)
            .execution_options(synchronize_session=False)
        ).one_or_none()
        if taken is None:
            raise LinkSpent
        user = db.session.scalars(
            sa.select(User).where(User.id == taken.user_id).with_for_update(), execution_options=_FRESH
        ).one()
        if taken.workspace_id is not None:
            _join(user, taken.workspace_id, hashed, signed_in_as)
        if hashed is not None:
            user.password_hash = hashed
            sessions.end_all(user.id)
            audit.record("user.set_password", "user", user.public_id)
    return user


#: What this session read of the user before may be older than a password set meanwhile.
_FRESH = {"populate_existing": True}


def _join(user: User, workspace_id: int, hashed: str | None, signed_in_as: int | None) -> None:
    """Let the invitation's role count, if it is still there."""
    if user.password_hash and (hashed is not None or signed_in_as != user.id):
        raise SignInFirst(f"This invitation is for {user.email}. Sign in as that, and open the link again.")
    if not user.password_hash and hashed is None:
        raise invalid("/password", "choose a password")
    joined = db.session.execute(
        sa.update(Member)
        .where(Member.user_id == user.id, Member.workspace_id == workspace_id)
        .values(is_pending=False)
        .returning(Member.id)
    ).one_or_none()
    if joined is None:
        raise LinkSpent
    audit.record("member.join", "user", user.public_id, workspace_id=workspace_id)


def _holds() -> tuple[sa.ColumnElement[bool], ...]:
    return (SignInLink.used_at.is_(None), SignInLink.expires_at > clock.now_ms())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
