"""The first five minutes with two instances, in two windows: from the printed links to a failure that healed.

It is one story and so one test: each part begins where the one before has ended, in the same process.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import browser as browsers
from tests.browser.browser import Visit, visit
from tests.browser.pair import Demo

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

#: Two windows update each other within 5 s: the page asks every 5 s, and its answer takes a moment.
LIVE_MS = 7_000
#: What two machines do together, on a busy one.
WORK_MS = 45_000


class Windows(NamedTuple):
    """Two windows side by side."""

    alpha: Visit
    beta: Visit


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Both instances of `flask demo`."""
    if browsers.executable() is None:
        pytest.skip(browsers.MISSING)
    started = Demo(tmp_path_factory.mktemp("demo"))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def windows(browser: Browser, demo: Demo) -> Iterator[Windows]:
    """A window at each of them; nobody has signed in yet."""
    with contextlib.ExitStack() as both:
        alpha, beta = (both.enter_context(visit(browser, link.partition("/login")[0])) for link in demo.links)
        yield Windows(alpha, beta)


def test_five_minutes_lead_from_the_printed_links_to_a_failure_that_healed(
    demo: Demo, windows: Windows
) -> None:
    each_link_signs_in_once_and_the_checklist_begins(demo, windows)
    a_request_appears_in_the_other_window_with_the_same_code_and_is_accepted(windows)
    a_test_ping_tells_the_round_trip(windows)
    a_subscription_is_asked_for_and_approved(windows)
    an_event_slides_in_and_both_windows_say_who_signed_what(windows)
    what_a_broken_peer_missed_arrives_when_it_is_healed_and_all_are_retried(demo, windows)
    comparing_the_code_on_both_sides_ends_the_checklist(windows)


def each_link_signs_in_once_and_the_checklist_begins(demo: Demo, windows: Windows) -> None:
    for window, link, name in zip(windows, demo.links, ("alpha", "beta"), strict=True):
        window.open(link.removeprefix(window.base_url))
        window.page.get_by_role("button", name="Sign in").click()
        window.page.wait_for_url("**/w/default/")
        expect(window.page.locator(".topbar .instance")).to_contain_text(f"{name}DEMO")
        expect(window.page.locator("#top")).to_contain_text("1 of 5 done")

    accents = [window.page.locator("html").get_attribute("data-accent") for window in windows]
    again = windows.alpha.page.context.request.get(demo.links.alpha)

    assert accents[0] != accents[1]
    assert "cannot be used" in again.text() or again.status in (404, 410)


def a_request_appears_in_the_other_window_with_the_same_code_and_is_accepted(windows: Windows) -> None:
    alpha, beta = windows.alpha.page, windows.beta.page
    alpha.get_by_role("link", name="Connect to a peer").click()
    alpha.get_by_label("Address").fill(windows.beta.base_url)
    alpha.keyboard.press("Enter")
    send = alpha.get_by_role("button", name="Send request to beta")
    expect(send).to_be_visible(timeout=WORK_MS)
    shown = _code(alpha)
    send.click()
    expect(alpha.locator("main")).to_contain_text("Waiting for them to accept; the request expires in 14 d")

    # Nobody touches beta's window.
    expect(beta.locator("#attention")).to_contain_text("alpha wants to connect", timeout=LIVE_MS)
    expect(beta.locator(".attention-link")).to_contain_text("1 needs attention")
    expect(beta.locator('.rail [data-nav="connections"]')).to_contain_text("1 request to review")
    beta.get_by_role("link", name="Review request").click()
    beta.wait_for_url("**/connections/*-*")
    code = _code(beta)
    beta.get_by_role("button", name="Accept").click()

    # Nor alpha's.
    expect(alpha.locator("#connection .status").first).to_contain_text("active", timeout=LIVE_MS + WORK_MS)
    assert re.fullmatch(r"\d{5}( \d{5}){5}", code)
    assert code == shown


def a_test_ping_tells_the_round_trip(windows: Windows) -> None:
    windows.alpha.page.get_by_role("button", name="Send test ping").click()

    said = windows.alpha.page.get_by_role("status").filter(has_text="Round trip")
    expect(said).to_contain_text(re.compile(r"Round trip \d+ ms, signatures verified both ways"))


def a_subscription_is_asked_for_and_approved(windows: Windows) -> None:
    alpha, beta = windows.alpha.page, windows.beta.page
    windows.alpha.open("/w/default/")
    windows.beta.open("/w/default/subscriptions/new")
    beta.get_by_label("Event type or pattern").press_sequentially("task.*")
    expect(beta.locator("#preview")).to_contain_text("task with exactly one more segment")
    expect(beta.locator("#preview")).to_contain_text("Types that we do not get yet cannot be counted here")
    beta.get_by_role("button", name="Ask alpha").click()
    expect(beta.locator("main")).to_contain_text("task.*")

    expect(alpha.locator("#attention")).to_contain_text("beta task.*", timeout=LIVE_MS + WORK_MS)
    alpha.locator("#attention").get_by_role("link", name="Review").last.click()
    expect(alpha.locator("#asked")).to_contain_text(re.compile(r"\d+ of our last \d+ events"))
    alpha.get_by_role("button", name="Approve").click()
    expect(alpha.locator("main")).to_contain_text("beta receives task.* from now on.")

    expect(beta.locator("#subs")).to_contain_text("active", timeout=LIVE_MS + WORK_MS)


def an_event_slides_in_and_both_windows_say_who_signed_what(windows: Windows) -> None:
    alpha, beta = windows.alpha.page, windows.beta.page
    windows.beta.open("/w/default/events?tail=1")
    windows.alpha.open("/w/default/events")
    alpha.locator("main").get_by_role("link", name="Publish a first event").click()
    alpha.get_by_role("button", name="Publish").click()
    alpha.wait_for_url("**/events/*-*-*-*-*")

    row = beta.locator("#events-found tbody tr").first
    expect(row).to_contain_text("task.created", timeout=LIVE_MS + WORK_MS)
    row.locator("a.main").click()
    expect(beta.locator("main")).to_contain_text("alpha sent it, and has our signed ack.")
    beta.get_by_role("link", name="Payload").click()
    expect(beta.locator("main")).to_contain_text("title")
    beta.get_by_role("link", name="Signature").click()
    expect(beta.locator("main")).to_contain_text("Valid. alpha said exactly this")

    expect(alpha.locator("#event-state")).to_contain_text(
        "beta has it and has signed for it.", timeout=LIVE_MS + WORK_MS
    )
    expect(alpha.locator('.rail [data-nav="deliveries"] .nav-count')).to_have_count(0, timeout=LIVE_MS)
    windows.alpha.open("/w/default/")
    expect(alpha.locator("#top")).to_contain_text("4 of 5 done")


def what_a_broken_peer_missed_arrives_when_it_is_healed_and_all_are_retried(
    demo: Demo, windows: Windows
) -> None:
    alpha, beta = windows.alpha.page, windows.beta.page
    demo.tell("break", "beta")
    for _ in range(3):
        windows.alpha.open("/w/default/events/publish")
        alpha.get_by_role("button", name="Publish").click()
        alpha.wait_for_url("**/events/*-*-*-*-*")
    expect(alpha.locator("#event-state")).to_contain_text("retrying", timeout=LIVE_MS + WORK_MS)
    windows.alpha.open("/w/default/deliveries")
    expect(alpha.locator("#deliveries tbody tr")).to_have_count(3)
    until = alpha.locator("#deliveries tbody time[data-until]").first
    expect(until).to_contain_text(re.compile(r"in \d+ (s|min)|now"))
    expect(alpha.locator("#deliveries")).to_contain_text("connection_refused")
    windows.alpha.open("/w/default/")
    expect(alpha.locator("#attention")).to_contain_text(re.compile("beta (fails|does not answer)"))

    demo.tell("heal", "beta")
    windows.alpha.open("/w/default/deliveries")
    _retry_all_that_match(alpha)
    windows.alpha.open("/w/default/events")
    delivered = alpha.locator("#events tbody tr").filter(has_text="1/1")

    expect(delivered).to_have_count(4, timeout=WORK_MS)
    windows.beta.open("/login") if "/login" in beta.url else windows.beta.open("/w/default/events")
    expect(beta.locator("#events tbody tr")).to_have_count(4, timeout=LIVE_MS)


def comparing_the_code_on_both_sides_ends_the_checklist(windows: Windows) -> None:
    for window in windows:
        window.open("/w/default/connections")
        window.page.locator("#connections a.main").first.click()
        window.page.get_by_role("link", name="Compare", exact=True).click()
        window.page.get_by_label("by phone").check()
        window.page.get_by_role("button", name="The codes are equal").click()
        expect(window.page.locator("main")).to_contain_text("is marked as verified")
        window.open("/w/default/")

    expect(windows.alpha.page.locator("#top")).to_contain_text("5 of 5 done")
    expect(windows.alpha.page.locator("#top")).to_contain_text("Before others rely on it")
    assert windows.alpha.complaints == []
    assert [said for said in windows.beta.complaints if "ERR_CONNECTION_REFUSED" not in said] == []


def _retry_all_that_match(page: Page) -> None:
    """By the dialog that counts them first; what went by itself meanwhile needs nobody."""
    link = page.get_by_role("link", name="Retry all that match")
    if not link.is_visible():
        return
    link.click()
    dialog = page.get_by_role("dialog")
    button, none_left = dialog.get_by_role("button", name="Retry"), dialog.get_by_text("Nothing to retry")
    expect(button.or_(none_left)).to_be_visible()
    if button.is_visible():
        button.click()
        expect(page.locator("main")).to_contain_text("sent again")


def _code(page: Page) -> str:
    """The pairing code that a page shows."""
    groups: Locator = page.locator(".pairing span")
    return " ".join(groups.all_inner_texts())
