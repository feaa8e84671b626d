"""What is so for every request: no NUL comes in, pages load nothing from elsewhere, nobody frames them."""

from flask import Flask, Response, request

from app.protocol.errors import InvalidRequest, NotFound

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_PAIRS = [(name.lower(), (name, value)) for name, value in HEADERS.items()]


def register(app: Flask) -> None:
    """Refuse what has a NUL, and add the headers to every answer; a view that set one keeps its own."""
    app.before_request(_refuse_nul)

    @app.after_request
    def add_headers(response: Response) -> Response:
        # Looked up once for all of them: `setdefault` reads all headers for each.
        given = {name.lower() for name, _ in response.headers}
        response.headers.extend([pair for lower, pair in _PAIRS if lower not in given])
        return response


def _refuse_nul() -> None:
    """No text of ours has a NUL, and PostgreSQL takes none, not even to find nothing."""
    if "\0" in request.path:
        raise NotFound("There is nothing at a path with a NUL in it.")
    if b"%00" in request.query_string or b"\0" in request.query_string:
        raise InvalidRequest("The query has a NUL in it.")
