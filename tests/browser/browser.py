"""A real browser at a real console: Chromium of the system, driven by Playwright."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.instance import Instance

#: Names under which systems have it, and what to do where it is missing.
_NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no Chromium is on PATH; on Debian: apt-get install chromium"

EMAIL, PASSWORD = "visitor@seeded.example", "a password of the tests"
#: Somebody who may only look.
COLLEAGUE = "viewer@seeded.example"


def executable() -> str | None:
    """Path of the system's Chromium."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """One browser without a window. Its own sandbox does not run as root."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page of the browser, and what went wrong on it so far."""

    page: Page
    base_url: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Go there; the answer must be a page that is 200."""
        answer = self.page.goto(self.base_url + path, wait_until="load")
        assert answer is not None
        assert answer.status == 200, (path, answer.status)

    def sign_in(self, email: str = EMAIL) -> None:
        """By the form, with the keyboard alone."""
        self.open("/login")
        self.page.locator("#email").focus()
        self.page.keyboard.type(email)
        self.page.keyboard.press("Tab")
        self.page.keyboard.type(PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url("**/w/**")


@contextlib.contextmanager
def visit(browser: Browser, base_url: str, **options: Any) -> Iterator[Visit]:
    """A new page, as of somebody who was never here. options: as of `Browser.new_context`."""
    with contextlib.closing(browser.new_context(**options)) as context:
        page = context.new_page()
        page.set_default_timeout(20_000)
        found = Visit(page, base_url)
        # What a policy forbids is told to the console as an error too.
        page.on("console", lambda said: said.type == "error" and found.complaints.append(said.text))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        yield found


def seed(instance: Instance) -> None:
    """Give the instance that is up its made-up history, a token, and people: EMAIL may do everything."""
    instance.cli("seed")
    for email, role in ((EMAIL, "owner"), (COLLEAGUE, "viewer")):
        made = instance.run(
            "user", "create", email, "--workspace", "seeded", "--role", role, "--password-stdin",
            given=f"{PASSWORD}\n",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
    scopes = ("--scope", "events:publish", "--scope", "events:read")
    instance.cli("token", "create", "--workspace", "seeded", "--name", "erp-publisher", *scopes)
