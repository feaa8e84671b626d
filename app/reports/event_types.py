"""Which event types a workspace has seen: found by leaps through an index, not by reading the events."""

import sqlalchemy as sa

from app.database import db
from app.protocol.event_types import matches

#: Types that are looked up at most.
MAX_TYPES = 500

#: Each step asks the index for the next type: as many look-ups as there are types, however many events.
_LEAPS = sa.text(
    "WITH RECURSIVE leap(name, n) AS ("
    " SELECT min(event_type), 1 FROM event WHERE workspace_id = :workspace"
    " UNION ALL"
    " SELECT (SELECT min(event_type) FROM event WHERE workspace_id = :workspace AND event_type > leap.name),"
    " leap.n + 1 FROM leap WHERE leap.name IS NOT NULL AND leap.n < :most"
    ") SELECT name FROM leap WHERE name IS NOT NULL"
)


def seen_types(workspace_id: int, most: int = MAX_TYPES) -> list[str]:
    """Event types of the workspace's events, ours and those of peers, in alphabetical order."""
    return sorted(db.session.scalars(_LEAPS, {"workspace": workspace_id, "most": most}))


def types_of(workspace_id: int, patterns: tuple[str, ...]) -> list[str] | None:
    """The seen types that one of the patterns covers; None if there are too many types to tell."""
    exact = [pattern for pattern in patterns if "*" not in pattern]
    if len(exact) == len(patterns):
        return sorted(set(exact))
    seen = seen_types(workspace_id, MAX_TYPES + 1)
    if len(seen) > MAX_TYPES:
        return None
    found = {name for name in seen if any(matches(pattern, name) for pattern in patterns)}
    return sorted(found | set(exact))
