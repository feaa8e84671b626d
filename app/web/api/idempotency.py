"""Idempotency keys: a publish call that is made twice publishes once.

The row of the key is written first thing in the transaction that stores the events, so the two are there
together or not at all. A second call with the same key waits for that transaction (SQLite has one writer;
PostgreSQL lets it wait at the unique index) and then finds the first one's answer.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa
from flask import Request
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from app import clock
from app.database import db, is_sqlite, table_of, transaction
from app.errors import IdempotencyInProgress, IdempotencyKeyReused, InvalidRequest
from app.models import IdempotencyKey
from app.protocol.errors import FieldError

#: How long a key stands for its call, ms.
KEPT_MS = 24 * 3600 * 1000

#: How long a second call waits for the first, seconds.
WAIT_S = 10

MAX_KEY_LENGTH = 255

#: Old rows that each new key takes with it.
_FORGET = 20

_KEY = table_of(IdempotencyKey)

_IN_PROGRESS = "The first call with this key has not ended yet; try again."


class Outcome(NamedTuple):
    """The answer's body, and whether it is an earlier call's."""

    body: bytes
    replayed: bool


def read_key(request: Request) -> str | None:
    """The Idempotency-Key header, None if there is none. Raises InvalidRequest."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (1 <= len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        detail = f"The header Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable ASCII characters."
        raise InvalidRequest(detail, errors=[FieldError("", "format", detail)])
    return key


def fingerprint(path: str, raw: bytes) -> str:
    """What the same call has in common with itself."""
    return hashlib.sha256(path.encode() + b"\n" + raw).hexdigest()


def once(workspace_id: int, key: str | None, call: str, act: Callable[[], bytes], status: int) -> Outcome:
    """What `act` answers, or what it answered to the same call before. Without a key it is simply done.

    call: fingerprint. Raises IdempotencyKeyReused for another call under the key, IdempotencyInProgress
    if the first one did not end within WAIT_S. An `act` that raises leaves the key unused.
    """
    if key is None:
        return Outcome(act(), False)
    known = _kept_answer(workspace_id, key, call)
    if known is not None:
        return Outcome(known, True)
    with transaction():
        if not _take(workspace_id, key, call, status):
            known = _kept_answer(workspace_id, key, call)
            if known is None:
                raise IdempotencyInProgress(_IN_PROGRESS)
            return Outcome(known, True)
        answer = act()
        db.session.execute(
            sa.update(IdempotencyKey)
            .where(_KEY.c.workspace_id == workspace_id, _KEY.c.key == key)
            .values(answer=answer.decode())
        )
    return Outcome(answer, False)


def _kept_answer(workspace_id: int, key: str, call: str) -> bytes | None:
    row = db.session.execute(
        sa.select(_KEY.c.fingerprint, _KEY.c.answer).where(
            _KEY.c.workspace_id == workspace_id,
            _KEY.c.key == key,
            _KEY.c.created_at > clock.now_ms() - KEPT_MS,
        )
    ).one_or_none()
    if row is None:
        return None
    if row.fingerprint != call:
        raise IdempotencyKeyReused("The key stands for another call of the last 24 hours; take a new one.")
    answer: str = row.answer
    return answer.encode()


def _forget_old(before_ms: int, workspace_id: int, key: str) -> None:
    """Delete this key's old row, and a few others' while here: more than come, so that none pile up."""
    old = (
        sa.select(_KEY.c.id)
        .where(_KEY.c.created_at <= before_ms)
        .order_by(_KEY.c.created_at)
        .limit(_FORGET)
        .with_for_update(skip_locked=True)
    )
    same = sa.and_(_KEY.c.workspace_id == workspace_id, _KEY.c.key == key, _KEY.c.created_at <= before_ms)
    db.session.execute(sa.delete(IdempotencyKey).where(sa.or_(same, _KEY.c.id.in_(old))))


def _take(workspace_id: int, key: str, call: str, status: int) -> bool:
    """Whether the key is ours now; False if another call has it."""
    now = clock.now_ms()
    insert = sqlite.insert if is_sqlite() else postgresql.insert
    _forget_old(now - KEPT_MS, workspace_id, key)
    take = (
        insert(IdempotencyKey)
        .values(
            workspace_id=workspace_id,
            key=key,
            fingerprint=call,
            status_code=status,
            answer="",
            created_at=now,
        )
        .on_conflict_do_nothing()
        .returning(_KEY.c.id)
    )
    if is_sqlite():
        return db.session.scalar(take) is not None
    db.session.execute(sa.text(f"SET LOCAL lock_timeout = '{WAIT_S}s'"))
    try:
        taken = db.session.scalar(take) is not None
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
            raise
        raise IdempotencyInProgress(_IN_PROGRESS) from None
    db.session.execute(sa.text("SET LOCAL lock_timeout = DEFAULT"))
    return taken
