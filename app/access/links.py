"""One-time links: each signs its user in once, within its time. The database keeps a hash of the secret.

A link is opened by GET and used by POST, so that a mail program or a chat that looks at links uses up none.
"""

import hashlib
import secrets

import sqlalchemy as sa

from app import clock
from app.access import audit, users
from app.config import settings
from app.database import db, transaction
from app.errors import LinkSpent
from app.models import SignInLink, User

#: How long a link lasts unless it is said otherwise, ms: 1 hour.
LIFE_MS = 3_600_000

#: How long the link of an invitation lasts, ms: 3 days.
INVITATION_LIFE_MS = 3 * 86_400_000


def create(user_id: int, life_ms: int = LIFE_MS) -> str:
    """Make a link for the user; older ones that were not used are void. Returns its secret. Commits."""
    secret = secrets.token_urlsafe(32)
    now = clock.now_ms()
    with transaction():
        db.session.execute(
            sa.update(SignInLink)
            .where(SignInLink.user_id == user_id, SignInLink.used_at.is_(None))
            .values(used_at=now)
        )
        db.session.add(
            SignInLink(user_id=user_id, secret_hash=_hash(secret), created_at=now, expires_at=now + life_ms)
        )
    return secret


def url(secret: str) -> str:
    """Where the link with this secret leads."""
    return f"{settings().base_url}/login/link/{secret}"


def find(secret: str) -> User:
    """Whose link it is, while it can be used. Raises LinkSpent."""
    user = db.session.scalar(
        sa.select(User)
        .join(SignInLink, SignInLink.user_id == User.id)
        .where(SignInLink.secret_hash == _hash(secret), *_holds())
    )
    if user is None:
        raise LinkSpent
    return user


def use(secret: str, new_password: str | None = None) -> User:
    """Use the link up, and set a password if one is given; of two who try at once, one gets in. Commits.

    Raises LinkSpent, and InvalidRequest at /password for one that is too short, which uses up nothing.
    """
    hashed = users.hash_password(new_password) if new_password is not None else None
    with transaction():
        user_id = db.session.scalar(
            sa.update(SignInLink)
            .where(SignInLink.secret_hash == _hash(secret), *_holds())
            .values(used_at=clock.now_ms())
            .returning(SignInLink.user_id)
            .execution_options(synchronize_session=False)
        )
        if user_id is None:
            raise LinkSpent
        user = db.session.get_one(User, user_id)
        if hashed is not None:
            user.password_hash = hashed
            audit.record("user.set_password", "user", user.public_id)
    return user


def _holds() -> tuple[sa.ColumnElement[bool], ...]:
    return (SignInLink.used_at.is_(None), SignInLink.expires_at > clock.now_ms())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
