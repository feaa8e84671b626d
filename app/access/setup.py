"""The first start: an instance without a user belongs to whoever holds the token that its log shows.

The token is made from the secret key, so every process knows it and nothing is kept; it is worth something
only while there is no user.
"""

import base64
import hashlib
import hmac

import sqlalchemy as sa

from app.access import audit, users, workspaces
from app.config import settings
from app.database import db, transaction
from app.errors import SetupDone
from app.models import Role, User, Workspace
from app.protocol.errors import invalid


def is_open() -> bool:
    """Whether nobody can sign in yet."""
    return db.session.scalar(sa.select(User.id).limit(1)) is None


def token() -> str:
    """What the log shows and the setup page asks for: four groups of five letters and digits."""
    digest = hmac.digest(settings().secret_key.encode(), b"tidings setup token", hashlib.sha256)
    text = base64.b32encode(digest)[:20].decode().lower()
    return "-".join(text[start : start + 5] for start in range(0, 20, 5))


def create_first(given_token: str, email: str, password: str) -> User:
    """Make the first user, owner of the default workspace. Commits.

    Raises SetupDone if there is a user already, InvalidRequest at /token, /email and /password.
    """
    if not hmac.compare_digest(given_token.strip().lower().encode(), token().encode()):
        raise invalid("/token", "this is not the token that the log shows")
    default = workspaces.ensure_default()
    with transaction():
        # One after the other, should two people hold the token.
        db.session.execute(sa.select(Workspace.id).where(Workspace.id == default.id).with_for_update())
        if not is_open():
            raise SetupDone
        user, _ = users.create(email, password, workspace_id=default.id, role=Role.OWNER)
        audit.record("instance.setup", "user", user.public_id, after={"email": user.email})
    return user
