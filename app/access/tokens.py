"""Tokens: `tdg_` and 256 random bits, for the software and the scripts of one workspace.

The database keeps a hash, so a token is shown once, when it is made. The secret is random and long, so a
fast hash is enough: there is nothing to guess.
"""

import hashlib
import secrets
import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from app import clock
from app.access import audit
from app.database import db, transaction
from app.models import Token
from app.protocol.errors import NotFound, invalid

#: What every token begins with, so that scanners for leaked secrets can know it.
PREFIX = "tdg_"

#: How long a token that was found is believed without looking again, s. A token that was revoked by another
#: process is refused after this long at the latest.
CACHE_S = 0.1

#: Tokens kept in the cache of a process; beyond it the cache starts anew.
CACHE_SIZE = 1024

#: `last_used_at` is written at most this often, ms.
LAST_USED_EVERY_MS = 60_000


class Scope(StrEnum):
    """What a token may do."""

    EVENTS_PUBLISH = "events:publish"  #: publish events
    EVENTS_READ = "events:read"  #: read events, deliveries, connections and subscriptions
    SUBSCRIPTIONS_WRITE = "subscriptions:write"  #: subscribe, unsubscribe, approve, reject, revoke
    CONNECTIONS_WRITE = "connections:write"  #: request, accept, reject, suspend, resume, disconnect, verify
    DELIVERIES_WRITE = "deliveries:write"  #: send again, discard
    ADMIN = "admin"  #: all of these


@dataclass(frozen=True, slots=True)
class Bearer:
    """A live token as its bearer is known: no secret, no database row behind it."""

    token_id: int
    public_id: str
    workspace_id: int
    prefix: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether it has this scope, or `admin`, which has them all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


def create(
    workspace_id: int,
    name: str = "token",
    scopes: Iterable[str] = (Scope.ADMIN,),
    *,
    public_id: str | None = None,
) -> tuple[Token, str]:
    """Make a token. Returns the row and the secret, which nobody can read again. Commits.

    public_id: its id, a UUID that the caller made up, so that asking twice makes one token; the second time
    the secret is empty. Raises InvalidRequest for an empty name, no scope, an unknown scope, or an id of
    another workspace's.
    """
    wanted = _checked_scopes(scopes)
    if not 1 <= len(name) <= 200:
        raise invalid("/name", "a token's name has 1 to 200 characters")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        public_id=public_id or str(uuid.uuid4()),
        workspace_id=workspace_id,
        name=name,
        prefix=secret[:12],
        secret_hash=_hash(secret),
        scopes=" ".join(wanted),
        created_at=clock.now_ms(),
    )
    with transaction():
        made = db.session.scalar(sa.select(Token).where(Token.public_id == token.public_id))
        if made is not None:
            if made.workspace_id != workspace_id:
                raise invalid("/once", "this form was used already")
            return made, ""
        db.session.add(token)
        db.session.flush()
        audit.record(
            "token.create",
            "token",
            token.public_id,
            after={"name": name, "prefix": token.prefix, "scopes": wanted},
            workspace_id=workspace_id,
        )
    return token, secret


def find(secret: str) -> Bearer | None:
    """The live token with this secret, or None: unknown and revoked ones are not told apart.

    Remembered for CACHE_S seconds. Writes the time of the last use, at most once a minute, in a transaction
    of its own.
    """
    if not secret.startswith(PREFIX) or len(secret) > 100:
        return None
    secret_hash = _hash(secret)
    known = _cache.get(secret_hash)
    if known is not None:
        return known
    row = db.session.execute(_BY_HASH, {"secret_hash": secret_hash}).one_or_none()
    if row is None:
        return None
    bearer = Bearer(row.id, row.public_id, row.workspace_id, row.prefix, frozenset(row.scopes.split()))
    _cache.put(secret_hash, bearer)
    _note_use(row.id, row.last_used_at)
    return bearer


def get_token(workspace_id: int, public_id: str) -> Token:
    """One token of the workspace. Raises NotFound."""
    token = db.session.scalar(
        sa.select(Token).where(Token.workspace_id == workspace_id, Token.public_id == public_id)
    )
    if token is None:
        raise NotFound("this workspace has no such token")
    return token


def list_tokens(workspace_id: int) -> Sequence[Token]:
    """All tokens of a workspace, revoked ones too, newest first."""
    return db.session.scalars(
        sa.select(Token).where(Token.workspace_id == workspace_id).order_by(Token.id.desc())
    ).all()


def revoke(workspace_id: int, public_id: str) -> Token:
    """End a token. Revoking it again changes nothing. Commits. Raises NotFound."""
    with transaction():
        token = db.session.scalar(
            sa.select(Token).where(Token.workspace_id == workspace_id, Token.public_id == public_id)
        )
        if token is None:
            raise NotFound("this workspace has no such token")
        if token.revoked_at is None:
            token.revoked_at = clock.now_ms()
            audit.record(
                "token.revoke",
                "token",
                token.public_id,
                before={"name": token.name, "prefix": token.prefix, "last_used_at": token.last_used_at},
                workspace_id=workspace_id,
            )
    _cache.forget(token.secret_hash)
    return token


class _Cache:
    """Tokens found lately, each with the time until which it is believed."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Bearer, float]] = {}
        self._lock = threading.Lock()

    def get(self, secret_hash: str) -> Bearer | None:
        entry = self._entries.get(secret_hash)
        if entry is None or entry[1] < clock.monotonic():
            return None
        return entry[0]

    def put(self, secret_hash: str, bearer: Bearer) -> None:
        with self._lock:
            if len(self._entries) >= CACHE_SIZE:
                self._entries.clear()
            self._entries[secret_hash] = (bearer, clock.monotonic() + CACHE_S)

    def forget(self, secret_hash: str) -> None:
        with self._lock:
            self._entries.pop(secret_hash, None)


_cache = _Cache()

_BY_HASH = sa.select(
    Token.id, Token.public_id, Token.workspace_id, Token.prefix, Token.scopes, Token.last_used_at
).where(Token.secret_hash == sa.bindparam("secret_hash"), Token.revoked_at.is_(None))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _checked_scopes(scopes: Iterable[str]) -> list[str]:
    wanted = sorted(set(scopes))
    if not wanted:
        raise invalid("/scopes", f"name at least one scope: {', '.join(Scope)}")
    for scope in wanted:
        if scope not in set(Scope):
            raise invalid("/scopes", f"there is no scope {scope}; there are {', '.join(Scope)}")
    return wanted


def _note_use(token_id: int, last_used_at: int | None) -> None:
    now = clock.now_ms()
    if last_used_at is not None and now - last_used_at < LAST_USED_EVERY_MS:
        return
    with transaction():
        db.session.execute(sa.update(Token).where(Token.id == token_id).values(last_used_at=now))
