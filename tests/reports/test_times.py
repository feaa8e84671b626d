"""Times: Unix milliseconds to RFC 3339 and back."""

import pytest

from app.reports.times import parse_rfc3339, rfc3339


@pytest.mark.parametrize(
    "text, timestamp_ms",
    [
        ("2026-01-01T00:00:00Z", 1767225600000),
        ("2026-01-01t00:00:00z", 1767225600000),
        ("2026-01-01 00:00:00Z", 1767225600000),
        ("2026-01-01T00:00:00.5Z", 1767225600500),
        ("2026-01-01T00:00:00.123987654Z", 1767225600123),
        ("2026-01-01T02:00:00+02:00", 1767225600000),
        ("2025-12-31T18:30:00-05:30", 1767225600000),
        ("2016-12-31T23:59:60Z", 1483228799000),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_a_time_is_read(text: str, timestamp_ms: int) -> None:
    assert parse_rfc3339(text) == timestamp_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-01-01T25:00:00Z",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00.Z",
        "1767225600000",
        "٢٠٢٦-01-01T00:00:00Z",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text)


def test_a_time_is_written_with_milliseconds() -> None:
    assert rfc3339(1767225600007) == "2026-01-01T00:00:00.007Z"
    assert rfc3339(-1) == "1969-12-31T23:59:59.999Z"
    assert rfc3339(None) is None


def test_a_time_beyond_all_dates_is_told_as_the_last() -> None:
    assert rfc3339(2**53 - 1) == "9999-12-31T23:59:59.999Z"
    assert rfc3339(253_402_300_799_999) == "9999-12-31T23:59:59.999Z"
