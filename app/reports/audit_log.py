"""The audit log as a list: newest first, filtered by who, what and where."""

from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from typing_extensions import TypedDict

from app.database import db
from app.models import AuditEntry, Workspace
from app.reports.paging import DEFAULT_LIMIT, ListKey, Page, check_limit, cut, read_cursor, write_cursor
from app.reports.times import rfc3339


class AuditRow(TypedDict):
    """One entry. `before` and `after` hold what changed."""

    at: int
    actorKind: str
    actorName: str
    address: str | None
    action: str
    objectKind: str
    objectId: str
    before: dict[str, str]
    after: dict[str, str]
    workspace: str | None
    requestId: str | None


#: Kinds of things that actions begin with, for the filter.
KINDS = (
    "connection",
    "delivery",
    "event",
    "instance",
    "job",
    "key",
    "member",
    "operation",
    "replay",
    "subscription",
    "token",
    "user",
    "workspace",
)


def list_entries(
    workspace_ids: Sequence[int],
    *,
    kind: str | None = None,
    actor: str | None = None,
    object_id: str | None = None,
    workspace_id: int | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[AuditRow]:
    """A page of what was done in these workspaces and to the instance itself.

    kind: what the action begins with, such as "connection". actor: the whole name, in any case. workspace_id:
    one of the workspaces, without the instance. Raises InvalidCursor.
    """
    filters = {"kind": kind, "actor": actor, "object": object_id, "one": workspace_id}
    key = ListKey("audit", 0, filters | {"workspaces": sorted(workspace_ids)})
    after = read_cursor(key, cursor)
    query = sa.select(AuditEntry, Workspace.name).outerjoin(
        Workspace, Workspace.id == AuditEntry.workspace_id
    )
    if workspace_id is not None:
        query = query.where(
            AuditEntry.workspace_id == workspace_id, AuditEntry.workspace_id.in_(workspace_ids)
        )
    else:
        query = query.where(
            sa.or_(AuditEntry.workspace_id.is_(None), AuditEntry.workspace_id.in_(workspace_ids))
        )
    if kind:
        query = query.where(AuditEntry.action.startswith(f"{kind}.", autoescape=True))
    if actor:
        query = query.where(sa.func.lower(AuditEntry.actor_name) == actor.lower())
    if object_id:
        query = query.where(AuditEntry.object_id == object_id)
    if after is not None:
        query = query.where(AuditEntry.id < after[0])
    found = db.session.execute(query.order_by(AuditEntry.id.desc()).limit(check_limit(limit) + 1)).all()
    rows, more = cut(found, limit)
    next_cursor = write_cursor(key, [rows[-1][0].id]) if more else None
    return Page([_row(entry, name) for entry, name in rows], next_cursor, more)


def _row(entry: AuditEntry, workspace: str | None) -> AuditRow:
    return AuditRow(
        at=entry.at,
        actorKind=entry.actor_kind,
        actorName=entry.actor_name,
        address=entry.address,
        action=entry.action,
        objectKind=entry.object_kind,
        objectId=entry.object_id,
        before=_values(entry.before),
        after=_values(entry.after),
        workspace=workspace,
        requestId=entry.request_id,
    )


def _values(text: str | None) -> dict[str, str]:
    """What was recorded; a text that was cut is shown as it is."""
    if text is None:
        return {}
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"…": text}
    named = values if isinstance(values, dict) else {"": values}
    return {name: _shown(name, value) for name, value in named.items() if value is not None}


def _shown(name: str, value: Any) -> str:
    """A value in words; what ends in `_at` is a time in ms."""
    if name.endswith("_at") and isinstance(value, int):
        return rfc3339(value)
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value) if not isinstance(value, bool) else ("yes" if value else "no")
