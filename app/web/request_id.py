"""Request ids, one log line and one count per request, and the trace that a caller hands on.

A caller's `X-Request-Id` is kept if it is plain, else one is made. It is echoed, stands in every log line and
in every problem document. A W3C `traceparent` is kept for the events that the request publishes.
"""

import logging
import re
import uuid

from flask import Flask, Response, g, request

from app import clock, log, metrics

_log = logging.getLogger(__name__)

_PLAIN = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
#: W3C Trace Context, level 1: version, trace id, parent id, flags; ids of zeros and version ff are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

#: Of a path that is logged; anybody may ask for a longer one.
_PATH_CHARACTERS = 256

#: Paths that monitors ask every few seconds: counted, not logged.
_QUIET = frozenset({"ops.healthz", "ops.readyz", "ops.metrics_page", "static"})

#: Paths that go on with a secret.
_SECRET_BEHIND = ("/login/link/",)


def register(app: Flask) -> None:
    """Give every request of the app its id, its log line and its place in the metrics."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_forget)


def is_traceparent(text: str) -> bool:
    """Whether it is a traceparent of W3C Trace Context that may be sent on."""
    return _TRACEPARENT.fullmatch(text) is not None


def current_traceparent() -> str | None:
    """The caller's traceparent, or None: one that is none is ignored, as W3C says."""
    given = request.headers.get("traceparent", "")
    return given if is_traceparent(given) else None


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _PLAIN.fullmatch(given) else str(uuid.uuid4())
    g.request_begun = clock.monotonic()
    log.request_id.set(g.request_id)


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    seconds = clock.monotonic() - g.request_begun
    endpoint = request.endpoint or "none"
    metrics.HTTP_REQUESTS.inc(endpoint, str(response.status_code))
    metrics.HTTP_SECONDS.observe(seconds, endpoint)
    if endpoint not in _QUIET:
        _log.info(
            "http.answered",
            extra={
                "method": request.method,
                "path": shown_path(),
                "endpoint": endpoint,
                "status": response.status_code,
                "ms": round(seconds * 1000, 1),
            },
        )
    return response


def shown_path() -> str:
    """The path for the log, without what is a secret in it."""
    for prefix in _SECRET_BEHIND:
        if request.path.startswith(prefix):
            return f"{prefix}***"
    return request.path[:_PATH_CHARACTERS]


def _forget(_error: BaseException | None) -> None:
    log.request_id.set(None)
