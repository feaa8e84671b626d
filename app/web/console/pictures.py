"""What pages load: files whose addresses change with what is in them, and the icons.

Of the 2,000 icons in the package's sprite (1.1 MB) only those are served that our pages name, as one small
file. It is cut once per process, when the first page is made: an icon is named in a template or a view as a
quoted word.
"""

import gzip
import hashlib
import re
from functools import lru_cache
from pathlib import Path

import flask_bootstrap
from flask import Blueprint, Response, request, url_for

from app.config import ROOT

bp = Blueprint("pictures", __name__)

_PACKAGE = Path(flask_bootstrap.__file__).parent / "static" / "bootstrap5"
_WHOLE = _PACKAGE / "icons" / "bootstrap-icons.svg"
_SYMBOL = re.compile(r'<symbol[^>]*\bid="([a-z0-9-]+)".*?</symbol>', re.S)
_QUOTED = re.compile(r"""["']([a-z][a-z0-9-]*)["']""")

_FOLDERS = {"static": ROOT / "static", "bootstrap.static": _PACKAGE}
_PACKABLE = ("text/css", "text/javascript", "application/javascript", "image/svg+xml")

#: Its address changes with what is in it, so browsers may keep it for a year.
_FOR_EVER = "public, max-age=31536000, immutable"


@lru_cache(maxsize=1)
def sprite() -> bytes:
    """The icons of our pages as SVG symbols."""
    named = _named()
    symbols = [found[0] for found in _SYMBOL.finditer(_WHOLE.read_text()) if found[1] in named]
    return ('<svg xmlns="http://www.w3.org/2000/svg">' + "".join(symbols) + "</svg>").encode()


@lru_cache(maxsize=1)
def version() -> str:
    """Changes when the icons do."""
    return hashlib.sha256(sprite()).hexdigest()[:12]


def asset(filename: str, endpoint: str = "static") -> str:
    """The address of a file of ours or of the package, with a mark of its content."""
    return url_for(endpoint, filename=filename, v=_mark(_FOLDERS[endpoint] / filename))


def keep_marked(response: Response) -> Response:
    """Let browsers keep files whose address has such a mark, and send them packed.

    Another content has another address. Pages themselves are not packed: together with what somebody else
    may put into them, the length of a packed page would tell of the secrets in it.
    """
    folder = _FOLDERS.get(request.endpoint or "")
    if folder is None or "v" not in request.args or response.status_code != 200:
        return response
    response.headers["Cache-Control"] = _FOR_EVER
    if response.mimetype in _PACKABLE and _takes_packed():
        _send_packed(response, _packed(folder / (request.view_args or {})["filename"]))
    return response


def _takes_packed() -> bool:
    return request.accept_encodings["gzip"] > 0


def _send_packed(response: Response, body: bytes) -> None:
    response.close()  # the file that it would have sent
    response.direct_passthrough = False
    response.set_data(body)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers.pop("ETag", None)


@lru_cache(maxsize=16)
def _packed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), mtime=0)


@lru_cache(maxsize=1)
def _packed_sprite() -> bytes:
    return gzip.compress(sprite(), mtime=0)


@lru_cache(maxsize=16)
def _mark(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def sprite_url() -> str:
    """Where templates point."""
    return url_for("pictures.icons", version=version())


@bp.get("/console/icons-<version>.svg", endpoint="icons")
def serve(version: str) -> Response:
    """The sprite, whatever version is asked for: an old page still finds its icons."""
    response = Response(sprite(), mimetype="image/svg+xml", headers={"Cache-Control": _FOR_EVER})
    if _takes_packed():
        _send_packed(response, _packed_sprite())
    return response


def _named() -> set[str]:
    """Quoted words of our templates and views; those that are no icon match no symbol."""
    places = (*(ROOT / "templates").rglob("*.html"), *(ROOT / "app" / "web" / "console").rglob("*.py"))
    return {word for place in places for word in _QUOTED.findall(place.read_text(encoding="utf-8"))}
