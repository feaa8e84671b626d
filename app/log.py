"""Logs: one line per stage, a constant name, fields beside it.

    log = logging.getLogger(__name__)
    log.info("delivery.attempted", extra={"connection_id": 7, "outcome": "acked", "ms": 12})

A terminal gets `12:00:01.234 info delivery.attempted connection_id=7 outcome=acked ms=12`, anything else one
JSON object a line: `time` (RFC 3339, UTC), `level`, `event`, `logger`, the request's id, and the fields.
Payloads, keys and tokens are never handed in; a field whose name speaks of a secret is masked all the same.
"""

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import orjson

#: Id of the HTTP request, or name of the job, that this line belongs to.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

#: What every LogRecord has; the rest are fields.
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {
    "message",
    "asctime",
    "taskName",
}
_SECRET_WORDS = ("secret", "token", "password", "authorization", "private", "payload")
_MASK = "***"

#: What would print every statement and every job below WARNING, and rows, with payloads and keys, below INFO.
TALKATIVE = ("sqlalchemy", "alembic", "rq", "urllib3", "requests")

#: Longest text of one field; a peer's words can be long.
_FIELD_CHARACTERS = 4_096


def configure(stream: TextIO | None = None, as_json: bool | None = None, level: int = logging.INFO) -> None:
    """Send all logs to `stream` (standard error). JSON unless it is a terminal. Safe to repeat."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        JsonLines() if (not stream.isatty() if as_json is None else as_json) else ConsoleLines()
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, JsonLines | ConsoleLines)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; what JSON cannot say is written as text."""
        line: dict[str, Any] = {
            "time": _rfc3339(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class ConsoleLines(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the traceback if there is one."""
        fields = " ".join(f"{name}={_word(value)}" for name, value in _fields(record).items())
        line = f"{_rfc3339(record)[11:-1]} {record.levelname.lower()} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {
        name: _MASK if _is_secret(name) else _shown(value)
        for name, value in vars(record).items()
        if name not in _STANDARD
    }
    current = request_id.get()
    return {"request_id": current, **fields} if current else fields


@lru_cache(maxsize=512)
def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return value[:_FIELD_CHARACTERS] if isinstance(value, str) else value


def _word(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)


def _rfc3339(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
