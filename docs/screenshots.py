"""Take the pictures of docs/images anew: `python -m docs.screenshots`.

A real instance with the history of `flask seed`, seen by the system's Chromium in light and dark.
"""

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.browser import browser as browsers
from tests.e2e.instance import Instance

IMAGES = Path(__file__).parent / "images"


class Picture(NamedTuple):
    """A page, and the link on it that leads to the one that is meant; empty if it is the page itself."""

    page: str
    link: str = ""


#: Name of the picture, and what it shows.
PICTURES = {
    "overview": Picture("/w/seeded/"),
    "connections": Picture("/w/seeded/connections"),
    "request": Picture("/w/seeded/connections?show=in", "#connections a.main"),
    "subscriptions": Picture("/w/seeded/subscriptions"),
    "events": Picture("/w/seeded/events"),
    "proof": Picture("/w/seeded/events?q=direction:out+status:delivered", "#events a.main"),
    "dead-letters": Picture("/w/seeded/dead-letters"),
    "send-again": Picture("/w/seeded/dead-letters", "#groups a[data-dialog]"),
    "keys": Picture("/admin/keys"),
    "jobs": Picture("/admin/jobs"),
    "members": Picture("/w/seeded/members"),
}

#: A picture is no larger, bytes.
MOST = 250_000


def main() -> int:
    """Write all pictures; 1 if there is no browser or a picture is too large."""
    if browsers.executable() is None:
        print(browsers.MISSING, file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        instance = Instance("tidings", Path(folder))
        try:
            instance.start()
            browsers.seed(instance)
            large = [path for scheme in ("light", "dark") for path in _take(instance, scheme)]
        finally:
            instance.stop()
    for path in large:
        print(f"{path} has more than {MOST:,} bytes", file=sys.stderr)
    return 1 if large else 0


def _take(instance: Instance, scheme: str) -> list[Path]:
    """The pictures of one scheme; those that are too large."""
    size = {"width": 1280, "height": 800}
    large = []
    with (
        browsers.chromium() as browser,
        browsers.visit(browser, instance.base_url, color_scheme=scheme, viewport=size) as visitor,
    ):
        visitor.sign_in()
        for name, picture in PICTURES.items():
            path = IMAGES / f"{name}-{scheme}.png"
            visitor.open(picture.page)
            if picture.link:
                visitor.open(visitor.page.locator(picture.link).first.get_attribute("href") or "")
            visitor.page.screenshot(path=path)
            if path.stat().st_size > MOST:
                large.append(path)
    return large


if __name__ == "__main__":
    sys.exit(main())
