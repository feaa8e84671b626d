"""The console in a real browser: what no request alone can tell."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.browser.browser import Visit, visit
from tests.e2e.instance import Instance

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

#: Pages that the navigation does not lead to; CONNECTION and EVENT stand for the first of each.
MORE = (
    "/w/seeded/events/publish",
    "/w/seeded/connections/new",
    "/w/seeded/subscriptions/new",
    "CONNECTION",
    "CONNECTION/verify",
    "CONNECTION/keys",
    "CONNECTION/history",
    "CONNECTION/stream",
    "EVENT",
    "EVENT/payload",
    "EVENT/signature",
    "/account",
    "/status",
)


def paths(visitor: Visit) -> list[str]:
    """Every page of the navigation, and more."""
    visitor.open("/w/seeded/")
    links = visitor.page.locator("nav.rail a.nav-item").evaluate_all("all => all.map(a => a.pathname)")
    first = {}
    for word, where in (("CONNECTION", "connections"), ("EVENT", "events")):
        visitor.open(f"/w/seeded/{where}")
        found = visitor.page.locator("main a").evaluate_all("all => all.map(a => a.pathname)")
        first[word] = next(path for path in found if len(path.rpartition("/")[2]) == 36)
    more = [path for path in MORE]
    for word, path in first.items():
        more = [one.replace(word, path) for one in more]
    return list(dict.fromkeys([*links, *more]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_quiet(browser: Browser, seeded: Instance, scheme: str) -> None:
    found: list[str] = []
    with visit(browser, seeded.base_url, color_scheme=scheme) as visitor:
        visitor.sign_in()

        for path in paths(visitor):
            visitor.open(path)
            violations = Axe().run(visitor.page).response["violations"]
            found += [
                f"{path}: {one['id']}: {one['nodes'][0]['html'][:160]}"
                for one in violations
                if one["impact"] in ("serious", "critical")
            ]
            found += [f"{path}: {complaint}" for complaint in visitor.complaints]
            visitor.complaints.clear()

    assert found == []


def test_no_page_scrolls_sideways_on_a_phone(browser: Browser, seeded: Instance) -> None:
    wide: list[str] = []
    with visit(browser, seeded.base_url, viewport={"width": 390, "height": 844}) as visitor:
        visitor.sign_in()

        for path in paths(visitor):
            visitor.open(path)
            width = visitor.page.evaluate("document.documentElement.scrollWidth")
            wide += [f"{path}: {width} px"] if width > 390 else []

    assert wide == []


def test_an_event_is_published_with_the_keyboard_alone(visitor: Visit) -> None:
    visitor.open("/w/seeded/events/publish")
    keyboard = visitor.page.keyboard
    visitor.page.locator("#event_type").focus()

    keyboard.press("Control+A")
    keyboard.type("customer.updated")
    for _ in range(12):
        keyboard.press("Tab")
        if visitor.page.evaluate("document.activeElement.textContent.trim()") == "Publish":
            break
    keyboard.press("Enter")

    visitor.page.wait_for_url("**/events/*-*-*-*-*")
    expect(visitor.page.locator("h1")).to_contain_text("customer.updated")
    assert visitor.complaints == []


def test_a_destructive_act_asks_first_and_does_nothing_when_it_is_left(visitor: Visit) -> None:
    visitor.open("/w/seeded/connections?show=active")
    link = visitor.page.locator("main a", has_text="Harbour").first.get_attribute("href")
    assert link is not None

    visitor.open(f"{link}/disconnect")
    expect(visitor.page.locator("main form button.btn-danger")).to_be_visible()
    visitor.page.locator("main [data-cancel]").click()
    visitor.open(link)

    expect(visitor.page.locator("main")).to_contain_text("active")
    assert visitor.complaints == []
