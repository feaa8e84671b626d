"""Requests and answers over HTTP, as a foreign peer sends and sees them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.conformance import wire
from tests.conformance.wire import FEDERATION, Message

EVENT = f"{FEDERATION}/incoming/event"
EVENTS = f"{FEDERATION}/incoming/events"
EVENT_ACK = f"{FEDERATION}/incoming/event/ack"
CONNECTION = f"{FEDERATION}/incoming/connection"
SUBSCRIPTION = f"{FEDERATION}/incoming/subscription"

#: Status and `retryable` of every code of §9.
PROBLEMS = {
    "invalid_request": (400, False),
    "unsupported_version": (400, False),
    "authentication_failed": (401, False),
    "key_untrusted": (401, True),
    "clock_skew": (401, True),
    "invalid_issuer": (403, False),
    "access_denied": (403, True),
    "blocked": (403, False),
    "connection_suspended": (403, True),
    "not_subscribed": (403, False),
    "not_found": (404, False),
    "method_not_allowed": (405, False),
    "message_id_conflict": (409, False),
    "invalid_state": (409, False),
    "sequence_conflict": (409, False),
    "connection_closed": (410, False),
    "event_expired": (410, False),
    "replay_gone": (410, False),
    "too_large": (413, False),
    "unsupported_media_type": (415, False),
    "payload_invalid": (422, False),
    "rate_limited": (429, True),
    "internal_error": (500, True),
    "overloaded": (503, True),
}


class Refused(Exception):
    """This peer refuses a request with a code of §9."""

    def __init__(self, code: str, pointer: str = "", **extras: Any) -> None:
        super().__init__(code)
        self.code = code
        self.extras = extras
        if pointer:
            self.extras["errors"] = [{"pointer": pointer, "code": "invalid", "detail": "is not allowed"}]


@dataclass(frozen=True)
class Reply:
    """What this peer answers. `hangs` keeps the connection open and says nothing."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    hangs: bool = False
    closes: bool = False

    @property
    def value(self) -> Any:
        return wire.decode(self.body) if self.body else None


def reply(value: Any, status: int = 200) -> Reply:
    """A JSON answer."""
    return Reply(status, wire.encode(value))


def problem(code: str, *, status: int | None = None, retry_after: str | None = None, **members: Any) -> Reply:
    """A problem document of §9; `members` replace or add."""
    usual_status, retryable = PROBLEMS.get(code, (status or 400, False))
    body = {
        "type": f"urn:tidings:error:{code}",
        "title": code,
        "status": status or usual_status,
        "detail": "said by a foreign peer",
        "code": code,
        "retryable": retryable,
        "requestId": "r-1",
        **members,
    }
    headers = [("Content-Type", "application/problem+json")]
    if retry_after is not None:
        headers.append(("Retry-After", retry_after))
    return Reply(status or usual_status, wire.encode(wire.with_members(body, {})), tuple(headers))


@dataclass
class Answer:
    """What the other side answered to a request of this peer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body) if self.body else None

    @property
    def code(self) -> str | None:
        """The code of the problem document, None for anything else."""
        is_problem = self.headers.get("content-type", "").startswith("application/problem+json")
        return self.value["code"] if is_problem else None

    @property
    def pointers(self) -> list[str]:
        return [error["pointer"] for error in self.value.get("errors", [])]


@dataclass
class Received:
    """A request that came in and what it was answered."""

    method: str
    target: str
    path: str
    query: dict[str, list[str]]
    headers: list[tuple[str, str]]
    raw: bytes
    value: Any = None
    reply: Reply = field(default_factory=Reply)
    taken: bool = False
    wrong: str | None = None

    @property
    def type(self) -> str | None:
        """The type of a control message."""
        return self.value.get("type") if isinstance(self.value, dict) else None

    @property
    def payload(self) -> Message:
        return self.value["payload"]

    @property
    def events(self) -> list[Message]:
        """The events of a batch."""
        return [entry["event"] for entry in self.value["events"]]

    @property
    def sequences(self) -> list[int]:
        return [entry["sequence"] for entry in self.value["events"]]


def exchange(
    base_url: str,
    method: str,
    path: str,
    headers: Iterable[tuple[str, str]],
    body: bytes | None,
    timeout_s: float = 20.0,
) -> Answer:
    """One HTTP request on a connection of its own; headers may occur twice."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


def matcher(match: Callable[[Received], bool] | str) -> Callable[[Received], bool]:
    """A predicate from a control type, a path, or a predicate."""
    if callable(match):
        return match
    return lambda one: match in (one.path, one.type)
