"""Pages of a list by keyset: a cursor says after which row to go on, so page 10,000 costs what page 1 costs.

A cursor is opaque and signed. It belongs to one list with one set of filters of one workspace: what it is
used with besides is `invalid_cursor`, since a position in one list means nothing in another. It never
expires and needs no memory here.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy import Select

from app.config import settings
from app.database import is_sqlite
from app.errors import InvalidCursor
from app.protocol.errors import invalid

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

#: Bytes of the MAC in a cursor; forging one gains nothing but a wrong page of one's own rows.
_MAC_BYTES = 12

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page. `has_more` says that a next one is not empty now; a consumer's list always has a cursor."""

    data: list[Row]
    next_cursor: str | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class ListKey:
    """Which list a cursor belongs to: its name, the workspace, and its filters; None is no filter."""

    name: str
    workspace_id: int
    filters: Mapping[str, Any]

    def digest(self) -> bytes:
        """The same for the same list, filters and order, on every process of the instance."""
        filters = {name: value for name, value in self.filters.items() if value is not None}
        text = orjson.dumps([self.name, self.workspace_id, filters], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).digest()


def write_cursor(key: ListKey, position: Sequence[int]) -> str:
    """The cursor that goes on after `position` (row numbers) in the list."""
    body = orjson.dumps(list(position))
    return base64.urlsafe_b64encode(_mac(key, body) + body).decode().rstrip("=")


def read_cursor(key: ListKey, cursor: str | None, size: int = 1) -> tuple[int, ...] | None:
    """The position in a cursor, `size` numbers; None for no cursor. Raises InvalidCursor."""
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise _not_ours() from None
    mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, body)):
        raise _not_ours()
    position = tuple(orjson.loads(body))
    if len(position) != size:
        raise _not_ours()
    return position


def check_limit(limit: int) -> int:
    """The limit itself, or InvalidRequest."""
    if 1 <= limit <= MAX_LIMIT:
        return limit
    raise invalid("/limit", f"must be a whole number from 1 to {MAX_LIMIT}", "range")


def cut(rows: Sequence[Row], limit: int) -> tuple[list[Row], bool]:
    """Of limit + 1 rows asked for: the page, and whether there is more."""
    return list(rows[:limit]), len(rows) > limit


def by_index(
    query: Select[Any], column: Any, value: Any, number: Any, after: int | None, *, newest_first: bool = True
) -> Select[Any]:
    """The query for rows whose column has the value, by their numbers, from beyond `after` on.

    column: the last one of an index before the number. PostgreSQL believes that such rows lie evenly among
    all and would rather read the table by its numbers until it has met enough of them, which is the whole
    table where they are all old. From and to the same value is not one value to it: then only the index has
    the order by column and number, and a pair tells where in it to begin.
    """
    if is_sqlite():
        query = query.where(column == value)
        if after is not None:
            query = query.where(number < after if newest_first else number > after)
        return query.order_by(number.desc() if newest_first else number)
    query = query.where(column >= value, column <= value)
    if after is not None:
        here, there = sa.tuple_(column, number), sa.tuple_(sa.literal(value, column.type), sa.literal(after))
        query = query.where(here < there if newest_first else here > there)
    return query.order_by(*((column.desc(), number.desc()) if newest_first else (column, number)))


def _mac(key: ListKey, body: bytes) -> bytes:
    secret = hashlib.sha256(b"tidings cursor " + settings().secret_key.encode()).digest()
    return hmac.digest(secret, key.digest() + body, "sha256")[:_MAC_BYTES]


def _not_ours() -> InvalidCursor:
    return InvalidCursor(
        "Take nextCursor from an answer to the same list with the same filters, or leave it out."
    )
