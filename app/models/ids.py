"""Public ids of the large tables: UUIDs that are the row number in other clothes.

Events and deliveries are many, and a random UUID of their own would cost one more index each. A version-8
UUID (RFC 9562 section 5.8) may carry what its maker likes: here the kind of row and its number.
"""

import re
from enum import IntEnum


class IdKind(IntEnum):
    """What a public id names."""

    EVENT = 1
    DELIVERY = 2


_PATTERN = re.compile(r"([0-9a-f]{8})-0000-8000-8000-([0-9a-f]{12})")


def public_id(kind: IdKind, number: int) -> str:
    """The UUID of row `number`: 7 of EVENT is 00000001-0000-8000-8000-000000000007."""
    return f"{kind:08x}-0000-8000-8000-{number:012x}"


def row_number(kind: IdKind, text: str) -> int | None:
    """The row number in a public id, or None if it names something else."""
    found = _PATTERN.fullmatch(text)
    if found is None or int(found[1], 16) != kind:
        return None
    return int(found[2], 16)
