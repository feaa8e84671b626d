"""Text of a peer that wants to be more than text: on every page that shows it, in a real browser.

It lies in the database as if it had come by messages, at the largest that is kept of each. The pages are
looked at on a phone, where what cannot wrap is seen first.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.browser import Visit, visit
from tests.browser.places import paths
from tests.e2e.instance import Instance

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

#: Markup that acts if it is taken for markup, marks that turn lines around, and no place to wrap.
MARKUP = (
    '"><img src=x onerror="document.hostile=1"><script>document.hostile=1</script>{{ 7*7 }}'
    "\u202eevil\u2066\u200b"
)
#: A name is at most 200 characters, a reason or note 500; of answers and errors 64 KiB are kept.
NAME = (MARKUP + "N" * 200)[:200]
REASON = (MARKUP + "R" * 500)[:500]
LONG = MARKUP + "W" * 65_536
PHONE_PX = 390

#: Which columns hold what peers say, by table.
COLUMNS = {
    "peer": {"name": NAME},
    "connection": {
        "note": REASON,
        "reason": REASON,
        "hold_detail": REASON,
        "wait_detail": REASON,
        "remote_workspace_name": NAME,
    },
    "subscription": {"reason": REASON},
    "delivery": {"error_detail": LONG},
    "attempt": {"error_detail": LONG, "response_body": LONG},
    "attempt_entry": {"error_detail": LONG},
    "control_out": {"error_detail": LONG, "answer": LONG},
}


@pytest.fixture(scope="module")
def hostile(seeded: Instance) -> Instance:
    """The seeded instance, once its peers have said what they wanted."""
    file = seeded.folder / "data" / "tidings.db"
    with contextlib.closing(sqlite3.connect(file, timeout=30)) as database, database:
        for table, columns in COLUMNS.items():
            changes = ", ".join(f"{column} = ?" for column in columns)
            database.execute(f"UPDATE {table} SET {changes}", tuple(columns.values()))  # noqa: S608
        for number, body in database.execute("SELECT id, body FROM event").fetchall():
            message = json.loads(body) | {"subject": NAME, "payload": {MARKUP: MARKUP, "long": "P" * 60_000}}
            database.execute("UPDATE event SET body = ? WHERE id = ?", (json.dumps(message), number))
    return seeded


@pytest.fixture(scope="module")
def reader(browser: Browser, hostile: Instance) -> Iterator[Visit]:
    """Somebody who reads all of it on a phone."""
    with visit(browser, hostile.base_url, viewport={"width": PHONE_PX, "height": 844}) as found:
        found.sign_in()
        yield found


def test_it_stays_text_on_every_page_and_moves_nothing(reader: Visit) -> None:
    dialogs: list[str] = []
    reader.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    shown, acted, wide, turned = 0, [], [], []

    for path in paths(reader):
        reader.open(path)
        text = reader.page.locator("main").inner_text()
        shown += "onerror=" in text
        acted += [path] if reader.page.evaluate("document.hostile || document.images.length") else []
        turned += [path] if any(mark in text for mark in "\u202e\u2066\u200b") else []
        width = reader.page.evaluate("document.documentElement.scrollWidth")
        wide += [f"{path}: {width} px"] if width > PHONE_PX else []

    assert shown > 15
    assert (acted, turned, wide, dialogs) == ([], [], [], [])
    assert reader.complaints == []
