"""Sign-ins: each is a row, so that it can be ended from here, whatever the browser keeps.

The browser holds a random secret in a signed cookie; the database holds its hash. A sign-in ends when the
person signs out, when somebody ends it, after IDLE_MS without a request, and after LONGEST_MS in any case.
"""

import hashlib
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.models import SignIn, User

#: A sign-in that nobody used for this long has ended, ms: 7 days.
IDLE_MS = 7 * 86_400_000

#: A sign-in ends after this long, used or not, ms: 30 days.
LONGEST_MS = 30 * 86_400_000

#: `last_seen_at` is written at most this often, ms.
SEEN_EVERY_MS = 60_000

#: Characters of a browser's name for itself that are kept.
_AGENT_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Identity:
    """A sign-in that holds, and whose it is. The user's row is detached from the session."""

    session_id: int
    public_id: str
    user: User


def begin(user_id: int, address: str | None, agent: str) -> str:
    """Begin a sign-in. Returns the secret for the browser. Commits."""
    now = clock.now_ms()
    secret = secrets.token_urlsafe(32)
    with transaction():
        db.session.add(
            SignIn(
                public_id=str(uuid.uuid4()),
                user_id=user_id,
                secret_hash=_hash(secret),
                address=(address or "")[:64],
                agent=agent[:_AGENT_CHARACTERS],
                created_at=now,
                last_seen_at=now,
            )
        )
        db.session.execute(sa.update(User).where(User.id == user_id).values(last_sign_in_at=now))
    return secret


def find(secret: str) -> Identity | None:
    """The sign-in with this secret if it holds. Notes that it was seen, in a transaction of its own."""
    row = db.session.execute(
        sa.select(SignIn.id, SignIn.public_id, SignIn.last_seen_at, User)
        .join(User, User.id == SignIn.user_id)
        .where(SignIn.secret_hash == _hash(secret), *holds())
    ).one_or_none()
    if row is None:
        return None
    session_id, public_id, last_seen_at, user = row
    db.session.expunge(user)
    now = clock.now_ms()
    if now - last_seen_at >= SEEN_EVERY_MS:
        with transaction():
            db.session.execute(sa.update(SignIn).where(SignIn.id == session_id).values(last_seen_at=now))
    return Identity(session_id, public_id, user)


def list_live(user_id: int) -> Sequence[SignIn]:
    """The user's sign-ins that hold, the one seen last first."""
    return db.session.scalars(
        sa.select(SignIn)
        .where(SignIn.user_id == user_id, *holds())
        .order_by(SignIn.last_seen_at.desc(), SignIn.id.desc())
    ).all()


def end(session_id: int) -> None:
    """End one sign-in. Ending it again changes nothing. Commits."""
    with transaction():
        _end(SignIn.id == session_id)


def end_all(user_id: int) -> int:
    """End all sign-ins of a user; how many there were. Commits."""
    with transaction():
        return _end(SignIn.user_id == user_id)


def end_others(user_id: int, session_id: int) -> int:
    """End all sign-ins of a user but this one; how many there were. Commits."""
    with transaction():
        return _end(sa.and_(SignIn.user_id == user_id, SignIn.id != session_id))


def _end(which: sa.ColumnElement[bool]) -> int:
    ended = db.session.execute(
        sa.update(SignIn)
        .where(which, *holds())
        .values(ended_at=clock.now_ms())
        .returning(SignIn.id)
        .execution_options(synchronize_session=False)
    )
    return len(ended.all())


def holds() -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions under which a row is a sign-in that holds now."""
    now = clock.now_ms()
    return (
        SignIn.ended_at.is_(None),
        SignIn.last_seen_at > now - IDLE_MS,
        SignIn.created_at > now - LONGEST_MS,
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
