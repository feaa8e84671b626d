"""What a person likes: theme, height of rows, times. Kept in cookies, so that a page comes as it is liked."""

from typing import NamedTuple

from flask import Blueprint, redirect, request
from flask.typing import ResponseReturnValue

from app.config import settings
from app.web.console.gate import local_path, local_referrer

bp = Blueprint("preferences", __name__)

#: Name of the cookie: what it may say, the default first. live.js reads and writes them too.
CHOICES: dict[str, tuple[str, ...]] = {
    "theme": ("auto", "light", "dark"),
    "density": ("normal", "compact", "comfortable"),
    "times": ("utc", "local"),
    "live": ("5", "10", "30", "0"),
    "keys": ("on", "off"),
}

_YEAR_S = 365 * 86_400


class Preferences(NamedTuple):
    """What the cookies say."""

    theme: str
    density: str
    times: str
    live: str
    keys: str


def preferences() -> Preferences:
    """Of this request; what is no choice is the default."""
    return Preferences(*(_chosen(name) for name in CHOICES))


@bp.post("/preferences")
def choose() -> ResponseReturnValue:
    """Keep what the form says, and go back to where it was."""
    answer = redirect(local_path(request.form.get("next"), local_referrer()), 303)
    for name, choices in CHOICES.items():
        value = request.form.get(name)
        if value in choices:
            answer.set_cookie(
                name,
                value,
                max_age=_YEAR_S,
                secure=settings().base_url.startswith("https://"),
                samesite="Lax",
            )
    return answer


def _chosen(name: str) -> str:
    value = request.cookies.get(name, "")
    return value if value in CHOICES[name] else CHOICES[name][0]
