"""Everything a peer can be told went wrong: one class for each code of the protocol's §9.

    Problem
     ├ InvalidRequest  UnsupportedVersion                                         400
     ├ AuthenticationFailed  KeyUntrusted  ClockSkew                              401
     ├ InvalidIssuer  AccessDenied  Blocked  ConnectionSuspended  NotSubscribed   403
     ├ NotFound 404  MethodNotAllowed 405
     ├ MessageIdConflict  InvalidState  SequenceConflict                          409
     ├ EventExpired  ReplayGone  ConnectionClosed                                 410
     ├ TooLarge 413  UnsupportedMediaType 415  PayloadInvalid 422
     └ RateLimited 429  InternalError 500  Overloaded 503

The class carries the decision (status, retryable), the instance the fact (`detail`, `errors`).
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import orjson

#: Longest `detail` on the wire, in code points (§1.1).
MAX_DETAIL = 1000


class FieldError(NamedTuple):
    """One bad field: its JSON pointer (RFC 6901), a short code, and one sentence."""

    pointer: str
    code: str
    detail: str

    def to_wire(self) -> dict[str, str]:
        """The member of `errors` in a problem document."""
        return {"pointer": self.pointer, "code": self.code, "detail": self.detail}


class Problem(Exception):
    """A refusal that somebody is told, as RFC 9457 problem document or as entry of an ack.

    `extras` become members of the document and are named as on the wire.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str = "", *, errors: Sequence[FieldError] = (), **extras: Any) -> None:
        self.detail = (detail or self.title)[:MAX_DETAIL]
        self.errors = tuple(errors)
        self.extras = extras
        super().__init__(self.detail)

    def to_wire(self, request_id: str | None = None) -> dict[str, Any]:
        """The problem document (RFC 9457 §3)."""
        document: dict[str, Any] = {
            "type": f"urn:tidings:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
            "requestId": request_id,
        }
        if self.errors:
            document["errors"] = [error.to_wire() for error in self.errors]
        return document | self.extras


class InvalidRequest(Problem):
    """The request or message is malformed; `errors` name the first bad field."""

    code = "invalid_request"
    status = 400
    title = "Invalid request"


class UnsupportedVersion(Problem):
    """The message is of a version that is not spoken here."""

    code = "unsupported_version"
    status = 400
    title = "Unsupported version"


class AuthenticationFailed(Problem):
    """A signature is missing, malformed or wrong, or its key is not known.

    What exactly failed would be an oracle, so the document never says it. `reason` does,
    for the local log alone.
    """

    code = "authentication_failed"
    status = 401
    title = "Authentication failed"

    def __init__(self, reason: str = "") -> None:
        super().__init__()
        self.reason = reason


class KeyUntrusted(Problem):
    """The key is not pinned, or may not sign this (§2); an operator may still trust it."""

    code = "key_untrusted"
    status = 401
    title = "Key is not trusted"
    retryable = True


class ClockSkew(Problem):
    """`created` is more than 300 s from the clock here; `serverTime` tells that clock (ms)."""

    code = "clock_skew"
    status = 401
    title = "Clocks differ too much"
    retryable = True

    def __init__(self, *, server_time_ms: int) -> None:
        super().__init__(serverTime=server_time_ms)


class InvalidIssuer(Problem):
    """The message names another instance than the one that signed the request."""

    code = "invalid_issuer"
    status = 403
    title = "Message of another instance"


class AccessDenied(Problem):
    """The connection is unknown, or somebody else's: both read the same."""

    code = "access_denied"
    status = 403
    title = "No such connection of yours"
    retryable = True


class Blocked(Problem):
    """The instance or its origin is on the block list here."""

    code = "blocked"
    status = 403
    title = "Blocked"


class ConnectionSuspended(Problem):
    """The connection is suspended; it may be resumed."""

    code = "connection_suspended"
    status = 403
    title = "Connection is suspended"
    retryable = True


class NotSubscribed(Problem):
    """Nobody here asked for events of this type."""

    code = "not_subscribed"
    status = 403
    title = "Not subscribed"


class NotFound(Problem):
    """There is no such thing."""

    code = "not_found"
    status = 404
    title = "Not found"


class MethodNotAllowed(Problem):
    """The resource has no such method; `allow` lists those it has."""

    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"

    def __init__(self, detail: str = "", *, allow: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.allow = tuple(allow)


class MessageIdConflict(Problem):
    """The messageId was used before, for another content."""

    code = "message_id_conflict"
    status = 409
    title = "Message id was used for another message"


class InvalidState(Problem):
    """The move is not possible from the state that the connection or subscription has."""

    code = "invalid_state"
    status = 409
    title = "Not possible in this state"


class SequenceConflict(Problem):
    """The number was used before; of a control message, the last one is told."""

    code = "sequence_conflict"
    status = 409
    title = "Sequence number was used before"

    def __init__(self, detail: str = "", *, last_control_sequence: int | None = None) -> None:
        if last_control_sequence is None:
            super().__init__(detail)
        else:
            super().__init__(detail, lastControlSequence=last_control_sequence)


class EventExpired(Problem):
    """The event is older than 8 days and belongs to no replay that was asked for."""

    code = "event_expired"
    status = 410
    title = "Event is too old"


class ReplayGone(Problem):
    """What was asked for is beyond retention, or of an unknown epoch."""

    code = "replay_gone"
    status = 410
    title = "No longer kept"

    def __init__(self, detail: str = "", *, stream_epoch: str | None, oldest_sequence: int) -> None:
        super().__init__(detail, streamEpoch=stream_epoch, oldestSequence=oldest_sequence)


class ConnectionClosed(Problem):
    """The connection has ended."""

    code = "connection_closed"
    status = 410
    title = "Connection has ended"


class TooLarge(Problem):
    """The request, batch or event is over a limit of this instance."""

    code = "too_large"
    status = 413
    title = "Too large"


class UnsupportedMediaType(Problem):
    """The body is not plain application/json."""

    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"


class PayloadInvalid(Problem):
    """The payload does not fit the receiver's own schema."""

    code = "payload_invalid"
    status = 422
    title = "Payload does not fit the schema"


class RateLimited(Problem):
    """Too much at once; `retry_after_s` goes into Retry-After."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"
    retryable = True

    def __init__(self, detail: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class InternalError(Problem):
    """A fault of this instance."""

    code = "internal_error"
    status = 500
    title = "Internal error"
    retryable = True


class Overloaded(Problem):
    """This instance cannot decide now; `retry_after_s` goes into Retry-After."""

    code = "overloaded"
    status = 503
    title = "Overloaded"
    retryable = True

    def __init__(self, detail: str = "", *, retry_after_s: int = 5) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


#: Every code of §9 and its class.
CODES: dict[str, type[Problem]] = {problem.code: problem for problem in Problem.__subclasses__()}


def invalid(pointer: str, detail: str, code: str = "invalid") -> InvalidRequest:
    """An InvalidRequest that names one bad field."""
    return InvalidRequest(f"{pointer or 'message'}: {detail}", errors=[FieldError(pointer, code, detail)])


class ProblemAnswer(NamedTuple):
    """What a peer's problem document says. `extras` holds all its other members, unchecked."""

    status: int
    code: str
    retryable: bool
    detail: str
    extras: dict[str, Any]


def read_problem(status: int, body: bytes, content_type: str | None) -> ProblemAnswer | None:
    """Read a peer's problem document; None if it is none, which counts as 5xx (§8).

    It is unsigned, so it may steer retries and alerts and never a state. A known code counts
    only under its own status; any other is for the reader to take by status (§9).
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if status < 400 or media_type != "application/problem+json":
        return None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("code"), str):
        return None
    code = document["code"][:64]
    detail = document.get("detail")
    extras = {name: value for name, value in document.items() if name not in _PROBLEM_MEMBERS}
    return ProblemAnswer(
        status,
        code,
        _is_retryable(status, code),
        detail[:MAX_DETAIL] if isinstance(detail, str) else "",
        extras,
    )


_PROBLEM_MEMBERS = frozenset({"type", "title", "status", "detail", "code", "retryable"})


def _is_retryable(status: int, code: str) -> bool:
    known = CODES.get(code)
    if known is not None and known.status == status:
        return known.retryable
    return status == 429 or status >= 500
