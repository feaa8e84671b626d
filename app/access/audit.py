"""The audit log: who did what, to what, before and after, from where. Rows are only ever added.

Whoever changes something calls `record` inside the transaction of the change, so that neither is there
without the other. Who acts is known from the gate that let them in: the console, the API and the command line
say so by `act_as`; without a word it is the instance itself.
"""

import getpass
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import orjson

from app import clock, log
from app.database import db, transaction
from app.models import AuditEntry

#: Characters of a value before or after that are kept.
_VALUE_CHARACTERS = 4_000


class Actor(NamedTuple):
    """Who acts: a user, a token, somebody at the command line, or the instance by itself."""

    #: "user", "token", "system" or "instance".
    kind: str
    #: Public id of the user or token; None for the others.
    id: str | None
    #: As people know them: an address, a token's prefix, the name of an account.
    name: str
    #: Network address, or None.
    address: str | None = None


#: What the sweep, the workers and the start do.
INSTANCE = Actor("instance", None, "this instance")

_actor: ContextVar[Actor] = ContextVar("actor", default=INSTANCE)


def act_as(actor: Actor) -> None:
    """From here on, in this thread, this actor acts."""
    _actor.set(actor)


def act_as_instance() -> None:
    """From here on nobody acts but the instance itself; at the end of each request."""
    _actor.set(INSTANCE)


def shell_account() -> Actor:
    """Who types commands: the account of the operating system."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "unknown"
    return Actor("system", None, name)


def current_actor() -> Actor:
    """Who acts now."""
    return _actor.get()


def record(
    action: str,
    object_kind: str,
    object_id: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    workspace_id: int | None = None,
) -> None:
    """Add an entry; call it in the transaction of the change, which commits.

    action: a dotted verb such as "connection.accept". before, after: only what changed, and never a secret.
    """
    actor = _actor.get()
    db.session.add(
        AuditEntry(
            at=clock.now_ms(),
            actor_kind=actor.kind,
            actor_id=actor.id,
            actor_name=actor.name[:320],
            address=actor.address,
            action=action,
            object_kind=object_kind,
            object_id=object_id[:200],
            before=_text(before),
            after=_text(after),
            workspace_id=workspace_id,
            request_id=log.request_id.get(),
        )
    )


def note(
    action: str,
    object_kind: str,
    object_id: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    workspace_id: int | None = None,
) -> None:
    """`record` in a transaction of its own, for what changes no row. Commits."""
    with transaction():
        record(action, object_kind, object_id, before=before, after=after, workspace_id=workspace_id)


def _text(values: Mapping[str, Any] | None) -> str | None:
    if values is None:
        return None
    return orjson.dumps(values, default=str, option=orjson.OPT_NON_STR_KEYS).decode()[:_VALUE_CHARACTERS]
