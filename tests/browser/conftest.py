"""One browser and one seeded instance for all tests here; skipped where there is no Chromium."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import browser as browsers
from tests.browser.browser import Visit, visit
from tests.e2e.instance import Instance


@pytest.fixture
def engine() -> str:
    """Pages are the same whatever the database is."""
    return "sqlite"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that is up, with the small history."""
    if browsers.executable() is None:
        pytest.skip(browsers.MISSING)
    instance = Instance("tidings", tmp_path_factory.mktemp("browser"))
    try:
        instance.start()
        browsers.seed(instance)
        yield instance
    finally:
        instance.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium."""
    if browsers.executable() is None:
        pytest.skip(browsers.MISSING)
    with browsers.chromium() as started:
        yield started


@pytest.fixture
def visitor(browser: Browser, seeded: Instance) -> Iterator[Visit]:
    """Somebody who is signed in."""
    with visit(browser, seeded.base_url) as found:
        found.sign_in()
        yield found
