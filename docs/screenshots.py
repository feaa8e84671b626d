"""Take the pictures of docs/images anew: `python -m docs.screenshots`.

A real instance with the history of `flask seed`, seen by the system's Chromium in light and dark.
"""

import sys
import tempfile
from pathlib import Path

from tests.browser import browser as browsers
from tests.e2e.instance import Instance

IMAGES = Path(__file__).parent / "images"

#: Name of the picture, and the page.
PAGES = {
    "overview": "/w/seeded/",
    "connections": "/w/seeded/connections",
    "subscriptions": "/w/seeded/subscriptions",
    "events": "/w/seeded/events",
    "dead-letters": "/w/seeded/dead-letters",
    "keys": "/admin/keys",
    "jobs": "/admin/jobs",
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
        for name, page in PAGES.items():
            path = IMAGES / f"{name}-{scheme}.png"
            visitor.open(page)
            visitor.page.screenshot(path=path)
            if path.stat().st_size > MOST:
                large.append(path)
    return large


if __name__ == "__main__":
    sys.exit(main())
