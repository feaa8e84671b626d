"""Users: people who sign in, and the roles they have in workspaces."""

import re
import secrets
import threading
import uuid
from functools import lru_cache

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from app import clock
from app.access import audit, sessions
from app.database import db, transaction
from app.models import Member, Role, User
from app.protocol.errors import invalid

#: Shortest password that a person may choose.
MIN_PASSWORD = 12

#: Only the form that tells an address from a slip of the finger; whether mail arrives shows elsewhere.
_EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,255}")

#: argon2id with the parameters of RFC 9106, second choice: 64 MiB, about 0.1 s.
_hasher = PasswordHasher()

#: Passwords of one process that are hashed at once: each takes 64 MiB.
_room = threading.BoundedSemaphore(2)

#: More characters than this are no password, but work for us.
_MAX_PASSWORD = 1_000


def create(
    email: str, password: str | None = None, *, workspace_id: int, role: Role = Role.OWNER
) -> tuple[User, str]:
    """Make a user with a role in a workspace; without a password, one is made up. Commits.

    Returns the user and the password. Raises InvalidRequest for an address that is none or is taken,
    and for a password under 12 characters.
    """
    address = checked_email(email)
    secret = password if password is not None else secrets.token_urlsafe(15)
    hashed = hash_password(secret)
    with transaction():
        if by_email(address) is not None:
            raise invalid("/email", f"there is a user {address} already", "taken")
        user = User(
            public_id=str(uuid.uuid4()), email=address, password_hash=hashed, created_at=clock.now_ms()
        )
        db.session.add(user)
        db.session.flush()
        db.session.add(Member(user_id=user.id, workspace_id=workspace_id, role=role))
        audit.record(
            "user.create",
            "user",
            user.public_id,
            after={"email": address, "role": role},
            workspace_id=workspace_id,
        )
    return user, secret


def checked_email(email: str) -> str:
    """The address as it is kept, in lower case. Raises InvalidRequest at /email if it is none."""
    address = email.strip().lower()
    if not _EMAIL.fullmatch(address):
        raise invalid("/email", "this is no e-mail address")
    return address


def hash_password(password: str) -> str:
    """What is kept of a password. Takes about 0.1 s. Raises InvalidRequest at /password."""
    if len(password) < MIN_PASSWORD:
        raise invalid("/password", f"a password has at least {MIN_PASSWORD} characters")
    if len(password) > _MAX_PASSWORD:
        raise invalid("/password", f"a password has at most {_MAX_PASSWORD} characters")
    with _room:
        return _hasher.hash(password)


def change_password(user_id: int, current: str, password: str, *, session_id: int) -> None:
    """Give a user another password, and end all their sign-ins but this one. Commits.

    Raises InvalidRequest at /current if that is not the present one, at /password for one that cannot be.
    """
    user = db.session.get_one(User, user_id)
    if not password_matches(user, current):
        raise invalid("/current", "this is not your password")
    hashed = hash_password(password)
    with transaction():
        db.session.execute(sa.update(User).where(User.id == user_id).values(password_hash=hashed))
        sessions.end_others(user_id, session_id)
        audit.record("user.set_password", "user", user.public_id)


def authenticate(email: str, password: str) -> User | None:
    """The user with this address and password, or None: which of the two was wrong does not show.

    Not even by the time it takes: for an address that nobody has, a password is hashed too.
    """
    user = by_email(email)
    if user is None or not user.password_hash:
        _matches(_nobodys_hash(), password)
        return None
    return user if password_matches(user, password) else None


def by_email(email: str) -> User | None:
    """The user with this address, in whatever case it is written."""
    return db.session.scalar(sa.select(User).where(User.email == email.strip().lower()))


def first_owner(workspace_id: int) -> User | None:
    """The oldest owner of a workspace, or None while it has none."""
    return db.session.scalar(
        sa.select(User)
        .join(Member, Member.user_id == User.id)
        .where(Member.workspace_id == workspace_id, Member.role == Role.OWNER, Member.is_pending.is_(False))
        .order_by(User.id)
        .limit(1)
    )


def password_matches(user: User, password: str) -> bool:
    """Whether this is the user's password. Takes about 0.1 s, right or wrong."""
    return _matches(user.password_hash, password)


def _matches(hashed: str, password: str) -> bool:
    if len(password) > _MAX_PASSWORD:
        return False
    try:
        with _room:
            return _hasher.verify(hashed, password)
    except (VerifyMismatchError, InvalidHashError):
        return False


@lru_cache(maxsize=1)
def _nobodys_hash() -> str:
    """The hash of a password that nobody knows."""
    return _hasher.hash(secrets.token_urlsafe(32))
