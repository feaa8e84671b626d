"""Where to go in the seeded workspace: every page of the console, found by its links."""

import re

from tests.browser.browser import Visit

#: Pages that the navigation does not lead to; REQUEST, CONNECTION and EVENT stand for one of each.
MORE = (
    "/w/seeded/events/publish",
    "/w/seeded/events?q=type:nobody.says.this",
    "/w/seeded/deliveries?state=held",
    "/w/seeded/deliveries?state=delivered",
    "/w/seeded/operations",
    "/w/seeded/replay/new",
    "/w/seeded/connections/new",
    "/w/seeded/connections?show=suspended",
    "/w/seeded/subscriptions?direction=incoming",
    "/w/seeded/subscriptions?direction=outgoing&status=all",
    "/w/seeded/subscriptions/new",
    "/w/seeded/tokens/new",
    "/w/seeded/members/invite",
    "REQUEST",
    "REQUEST/verify",
    "CONNECTION",
    "CONNECTION/verify",
    "CONNECTION/differ",
    "CONNECTION/subscriptions",
    "CONNECTION/events",
    "CONNECTION/deliveries",
    "CONNECTION/stream",
    "CONNECTION/keys",
    "CONNECTION/settings",
    "CONNECTION/history",
    "EVENT",
    "EVENT/payload",
    "EVENT/signature",
    "EVENT/raw",
    "/admin/workspaces",
    "/admin/workspaces/new",
    "/account",
    "/status",
)

#: A link to a page that asks before something is done.
ASKING = "main a[data-dialog]"


def paths(visitor: Visit, *, asking: bool = True) -> list[str]:
    """Every page: of the navigation, MORE, and with `asking` one of each kind that asks first."""
    visitor.open("/w/seeded/")
    links = hrefs(visitor, "nav.rail a.nav-item")
    more = "\n".join(MORE)
    for word, where in (
        ("REQUEST", "connections?show=in"),
        ("CONNECTION", "connections?show=active"),
        ("EVENT", "events?q=direction:out"),
    ):
        visitor.open(f"/w/seeded/{where}")
        found = hrefs(visitor, "main a")
        more = more.replace(word, next(path for path in found if re.search(r"/[0-9a-f-]{36}(\?|$)", path)))
    # The address of an event keeps the search that it was found by: its tabs stand before the query.
    found = [re.sub(r"(\?[^/]*)(/\w+)$", r"\2\1", path) for path in more.split("\n")]
    known = list(dict.fromkeys([*links, *found]))
    return known + (list(questions(visitor, known).values()) if asking else [])


def questions(visitor: Visit, known: list[str]) -> dict[str, str]:
    """The pages that ask first, one of each kind, by its kind: the address without ids and query."""
    kinds: dict[str, str] = {}
    for path in known:
        visitor.open(path)
        for link in hrefs(visitor, ASKING):
            kinds.setdefault(kind_of(link), link)
    return kinds


def kind_of(path: str) -> str:
    """What a link asks, without of what: `/w/…/connections/*/disconnect`."""
    page, _, query = path.partition("?")
    act = re.search(r"(?:^|&)act=(\w+)", query)
    return re.sub(r"/(?=[^/]*\d)[\w.-]{8,}", "/*", page) + (f"?act={act[1]}" if act else "")


def hrefs(visitor: Visit, selector: str) -> list[str]:
    """Where the links lead, with their query."""
    found: list[str] = visitor.page.locator(selector).evaluate_all(
        "all => all.map(a => a.pathname + a.search)"
    )
    return found
