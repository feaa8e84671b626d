"""Pages and lists: what each page of the console and each list of the API takes with a million events.

The events are rows that the database itself wrote (`bench.rows`); what is measured is the whole way of a
call: over a kept-alive connection, through the web process, to the last byte.
"""

import http.client
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from urllib.parse import urlsplit

import requests
import sqlalchemy as sa

from app import create_app
from app.config import Config
from bench import rows
from bench.work import Pair

#: ms in which a page or a list is to be there, p95.
WANTED_MS = 100.0
#: Endpoints that are no pages of an instance at work: files, exports, ways in, and what answers from memory.
_LEFT_OUT = re.compile(
    r"static|pictures\.|setup\.|session\.|peer_wellknown|events\.(export|file)|\.public_key|ops\.|api_docs"
)
_ASKED = {
    "/api/v1/federation/events/messages": (
        "direction=incoming",
        "direction=outgoing",
        "eventType=bench.sent",
        "status=dead",
        "direction=incoming&order=asc",
    ),
    "/api/v1/federation/deliveries": ("status=dead", "status=pending", "eventType=bench.sent"),
    "/w/default/events": ("q=bench.sent", "status=dead", "direction=incoming"),
    "/w/default/deliveries": ("status=dead", "status=delivered"),
}


def fill(pair: Pair, number: int) -> None:
    """Have so many events in the publisher's log: a quarter came, the others went to the first connection."""
    place = rows.place_of(pair.database, pair.connections[0])
    rows.incoming(pair.database, place, rows.CAME, number // 4, days=6.9)
    rows.outgoing(pair.database, place, rows.SENT, number - number // 4, days=6.9)
    rows.settle(pair.database)


def measure(pair: Pair, calls: int) -> Iterator[tuple[str, float]]:
    """Each page and list, as the path of its rule, with the p95 of so many calls, in ms."""
    with _signed_in(pair) as get:
        for path, asked in _paths(pair):
            if get(asked) != 200:
                continue
            took = sorted(_timed(get, asked) for _ in range(calls))
            yield path, took[min(len(took) - 1, int(len(took) * 0.95))]


def _timed(get: Callable[[str], int], path: str) -> float:
    started = time.perf_counter()
    get(path)
    return (time.perf_counter() - started) * 1000


def _paths(pair: Pair) -> Iterator[tuple[str, str]]:
    """(path with the names of its parts, path to be asked for) of each page and list."""
    app = create_app(Config.from_env(pair.alpha.environ))
    given = _ids(pair)
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        if (
            "GET" not in (rule.methods or ())
            or _LEFT_OUT.search(rule.endpoint)
            or not rule.arguments <= set(given)
        ):
            continue
        path = re.sub(r"<(?:[^:>]*:)?(\w+)>", lambda part: given[part[1]], rule.rule)
        shown = re.sub(r"<(?:[^:>]*:)?(\w+)>", r"<\1>", rule.rule)
        yield shown, path
        for query in _ASKED.get(path, ()):
            yield f"{shown}?{query}", f"{path}?{query}"


def _ids(pair: Pair) -> dict[str, str]:
    with pair.database.connect() as connection:

        def one(statement: str) -> str:
            return str(connection.scalar(sa.text(statement)))

        return {
            "workspace": "default",
            "connection_id": pair.connections[0],
            "message_id": one("SELECT message_id FROM event WHERE event_type = 'bench.sent' LIMIT 1"),
            "token_id": one("SELECT id FROM token LIMIT 1"),
            "user_id": one('SELECT id FROM "user" LIMIT 1'),
            "key_id": one("SELECT key_id FROM signing_key LIMIT 1"),
        }


@contextmanager
def _signed_in(pair: Pair) -> Iterator[Callable[[str], int]]:
    """get(path): the status of a GET as the owner, or with the API's token, over one connection."""
    alpha = pair.alpha
    session = requests.Session()
    session.trust_env = False
    link = alpha.cli("user", "link", "admin@localhost", "-o", "json")["url"]
    page = session.get(link, timeout=30).text
    [token] = islice(re.findall(r'name="csrf_token"[^>]*value="([^"]+)"', page), 1)
    answer = session.post(link, {"csrf_token": token}, headers={"Referer": link}, timeout=30)
    answer.raise_for_status()
    cookies = "; ".join(f"{name}={value}" for name, value in session.cookies.items())
    session.close()
    parts = urlsplit(alpha.base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def get(path: str) -> int:
        by = {"Authorization": f"Bearer {alpha.token}"} if path.startswith("/api/") else {"Cookie": cookies}
        connection.request("GET", path, headers=by)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    try:
        yield get
    finally:
        connection.close()


def worst(measured: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The slowest."""
    return max(measured, key=lambda one: one[1])
