"""What pages load: files whose addresses change with what is in them, and the icons.

Of the 2,000 icons in the package's sprite (1.1 MB) only those are served that our pages name, as one small
file. It is cut once per process, when the first page is made: an icon is named in a template or a view as a
quoted word.
"""

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
    folder = _PACKAGE if endpoint == "bootstrap.static" else ROOT / "static"
    return url_for(endpoint, filename=filename, v=_mark(folder / filename))


def keep_marked(response: Response) -> Response:
    """Let browsers keep files whose address has such a mark: another content has another address."""
    if (
        request.endpoint in ("static", "bootstrap.static")
        and "v" in request.args
        and response.status_code == 200
    ):
        response.headers["Cache-Control"] = _FOR_EVER
    return response


@lru_cache(maxsize=16)
def _mark(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def sprite_url() -> str:
    """Where templates point."""
    return url_for("pictures.icons", version=version())


@bp.get("/console/icons-<version>.svg", endpoint="icons")
def serve(version: str) -> Response:
    """The sprite, whatever version is asked for: an old page still finds its icons."""
    return Response(sprite(), mimetype="image/svg+xml", headers={"Cache-Control": _FOR_EVER})


def _named() -> set[str]:
    """Quoted words of our templates and views; those that are no icon match no symbol."""
    places = (*(ROOT / "templates").rglob("*.html"), *(ROOT / "app" / "web" / "console").rglob("*.py"))
    return {word for place in places for word in _QUOTED.findall(place.read_text(encoding="utf-8"))}
