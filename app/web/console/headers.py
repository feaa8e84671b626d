"""Headers of the console's pages: nothing from elsewhere, nothing inline, and no copy left in a cache."""

from typing import TypeVar

from werkzeug.wrappers import Response

CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'"
)

#: First steps of the paths that people, not programs, ask for.
_FIRST_STEPS = frozenset({"", "w", "admin", "login", "logout", "setup", "status", "preferences", "account"})

Answer = TypeVar("Answer", bound=Response)


def secure(response: Answer) -> Answer:
    """The same answer with the headers of a page."""
    response.headers["Content-Security-Policy"] = CSP
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def is_page(path: str) -> bool:
    """Whether a path is one of the console's, so that errors there are told as pages."""
    return path.lstrip("/").partition("/")[0] in _FIRST_STEPS
