"""The console in a real browser: what no request alone can tell."""

import re
from dataclasses import dataclass, field

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.browser.browser import COLLEAGUE, Visit, visit
from tests.browser.places import ASKING, kind_of, paths, questions
from tests.e2e.instance import Instance

#: Width of a phone.
PHONE_PX = 390

#: What of all that ends something the seeded workspace has, at least.
ENDING = {
    "/w/seeded/connections/*/disconnect",
    "/w/seeded/connections/*/reject",
    "/w/seeded/subscriptions/*/cancel",
    "/w/seeded/subscriptions/*/reject",
    "/w/seeded/subscriptions/*/revoke",
    "/w/seeded/members/*/remove",
    "/w/seeded/tokens/*/revoke",
    "/admin/keys/*/revoke",
}

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]


@dataclass
class Seen:
    """What is wrong with any of the pages, each with its address."""

    faults: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def seen(browser: Browser, seeded: Instance) -> Seen:
    """Every page, looked at once: in light, in dark, and as narrow as a phone."""
    found = Seen()
    with visit(browser, seeded.base_url) as visitor:
        visitor.sign_in()
        for path in paths(visitor):
            visitor.open(path)
            for scheme in ("light", "dark"):
                visitor.page.emulate_media(color_scheme=scheme)
                found.faults += [f"{path} ({scheme}): {fault}" for fault in faults(visitor)]
            visitor.page.set_viewport_size({"width": PHONE_PX, "height": 844})
            width = visitor.page.evaluate("document.documentElement.scrollWidth")
            found.wide += [f"{path}: {width} px"] if width > PHONE_PX else []
            visitor.page.set_viewport_size({"width": 1280, "height": 800})
            found.complaints += [f"{path}: {complaint}" for complaint in visitor.complaints]
            visitor.complaints.clear()
    return found


def test_axe_finds_nothing_serious_on_any_page_light_or_dark(seen: Seen) -> None:
    assert seen.faults == []


def test_no_page_complains_to_the_console_or_breaks_the_policy(seen: Seen) -> None:
    assert seen.complaints == []


def test_no_page_scrolls_sideways_on_a_phone(seen: Seen) -> None:
    assert seen.wide == []


def faults(visitor: Visit) -> list[str]:
    """What axe finds on the page that is serious or worse."""
    violations = Axe().run(visitor.page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:160]}"
        for one in violations
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(
    ("fault", "script"),
    [
        ("select-name", "document.querySelector('label[for=f-direction]').remove()"),
        ("color-contrast", "document.querySelector('h1').className = 'planted'"),
        ("button-name", "document.querySelector('.filters button').textContent = ''"),
    ],
)
def test_a_planted_fault_is_found(visitor: Visit, fault: str, script: str) -> None:
    visitor.open("/w/seeded/events")
    sheet = (
        "const sheet = new CSSStyleSheet(); sheet.replaceSync('.planted { color: #ccc }');"
        "document.adoptedStyleSheets = [sheet];"
    )
    before = faults(visitor)

    visitor.page.evaluate(f"{{ {sheet} {script} }}")

    assert before == []
    assert any(found.startswith(f"{fault}:") for found in faults(visitor))


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


def test_every_act_that_ends_something_asks_first_in_a_dialog(visitor: Visit) -> None:
    known = paths(visitor, asking=False)
    found = questions(visitor, known)
    kinds = set(found)

    for path in known:
        visitor.open(path)
        links = visitor.page.locator(ASKING)
        for place, link in enumerate(links.evaluate_all("all => all.map(a => a.pathname + a.search)")):
            if found.get(kind_of(link)) != link:
                continue
            del found[kind_of(link)]
            links.nth(place).click()
            dialog = visitor.page.get_by_role("dialog")
            expect(dialog.locator("h1")).to_be_visible()
            expect(dialog.locator("form[method=post] :is(.btn-danger, .btn-primary)")).to_be_visible()
            dialog.locator("[data-cancel]").click()
            expect(dialog).to_have_count(0)
            expect(links.nth(place)).to_be_focused()

    assert found == {}
    assert kinds >= ENDING
    assert visitor.complaints == []


def test_what_a_confirmation_names_is_done_when_its_name_was_typed(visitor: Visit) -> None:
    visitor.open("/w/seeded/tokens")
    row = visitor.page.locator("tr", has_text="erp-publisher")

    row.get_by_role("link", name="Revoke").click()
    visitor.page.get_by_role("dialog").locator("button.btn-danger").click()

    expect(visitor.page.get_by_role("status").first).to_be_visible()
    expect(visitor.page.locator("tr", has_text="erp-publisher")).to_contain_text("revoked")
    assert visitor.complaints == []


def test_shortcuts_lead_and_select_and_the_dialog_of_all_closes_with_escape(visitor: Visit) -> None:
    page, keyboard = visitor.page, visitor.page.keyboard
    visitor.open("/w/seeded/")

    keyboard.press("g")
    keyboard.press("d")
    page.wait_for_url("**/deliveries")
    picked = page.locator("[data-picked]")
    for _ in range(6):  # What is being sent just now cannot be selected.
        keyboard.press("j")
        keyboard.press("x")
        if picked.inner_text():
            break
    expect(picked).to_have_text("1 selected")
    keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
    keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    keyboard.type("type:order.*")
    keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/events\?q=type"))

    assert visitor.complaints == []


def test_dead_letters_are_sent_again_with_the_keyboard_alone(visitor: Visit) -> None:
    visitor.open("/w/seeded/dead-letters")
    link = visitor.page.locator("#groups a[data-dialog]").first
    link.focus()

    visitor.page.keyboard.press("Enter")
    dialog = visitor.page.get_by_role("dialog")
    expect(dialog.locator("h1")).to_be_visible()
    for _ in range(20):
        visitor.page.keyboard.press("Tab")
        if visitor.page.evaluate("document.activeElement.matches('dialog .btn-primary')"):
            break
    visitor.page.keyboard.press("Enter")

    expect(visitor.page.locator("main")).to_contain_text("sent again")
    assert visitor.complaints == []


def test_somebody_who_may_only_look_sees_what_they_may_not_do(browser: Browser, seeded: Instance) -> None:
    with visit(browser, seeded.base_url) as viewer:
        viewer.sign_in(COLLEAGUE)
        viewer.open("/w/seeded/connections")
        refused = viewer.page.locator("main [aria-disabled=true]").first

        expect(refused).to_contain_text("needs the role admin")
        expect(viewer.page.locator("main form[method=post]")).to_have_count(0)
        assert faults(viewer) == []
        assert viewer.complaints == []
