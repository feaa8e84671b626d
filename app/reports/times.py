"""Times as people and JSON read them: RFC 3339 in UTC with milliseconds. Inside they are Unix ms."""

import re
from datetime import UTC, datetime
from typing import overload

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)

#: The last millisecond of the year 9999.
LAST_MS = 253_402_300_799_999


@overload
def rfc3339(timestamp_ms: int) -> str: ...
@overload
def rfc3339(timestamp_ms: None) -> None: ...
@overload
def rfc3339(timestamp_ms: int | None) -> str | None: ...
def rfc3339(timestamp_ms: int | None) -> str | None:
    """`2026-01-01T00:00:00.000Z`; None stays None. Peers may tell later times than RFC 3339 can write.

    >>> rfc3339(1767225600000)
    '2026-01-01T00:00:00.000Z'
    >>> rfc3339(2**53 - 1)
    '9999-12-31T23:59:59.999Z'
    """
    if timestamp_ms is None:
        return None
    milliseconds = min(timestamp_ms, LAST_MS) % 1000
    return f"{moment(timestamp_ms).strftime('%Y-%m-%dT%H:%M:%S')}.{milliseconds:03d}Z"


def moment(timestamp_ms: int) -> datetime:
    """The second that a time is in, in UTC; of what is later than there are dates, the last."""
    return datetime.fromtimestamp(min(timestamp_ms, LAST_MS) // 1000, UTC)


def parse_rfc3339(text: str) -> int:
    """Unix milliseconds of an RFC 3339 time with its offset; microseconds are cut off. Raises ValueError."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("not an RFC 3339 time")
    day, clock, fraction, _zulu, sign, hours, minutes = found.groups()
    if clock.endswith(":60"):  # A leap second, which Unix time does not have.
        clock = clock[:-2] + "59"
    offset_s = 0
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            raise ValueError("an offset is at most 23:59")
        offset_s = (int(hours) * 3600 + int(minutes) * 60) * (1 if sign == "+" else -1)
    moment = datetime.strptime(f"{day}T{clock}", "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return (int(moment.timestamp()) - offset_s) * 1000 + int((fraction or "0").ljust(3, "0")[:3])
