"""The work: two instances, one subscribed to the other, and what is sent between them.

What arrived is read from the publisher's database itself, by a connection of our own: asking the API would
cost the instance that is measured.
"""

import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import sqlalchemy as sa

from bench import probe
from tests import engines
from tests.e2e.instance import Instance

EVENT_TYPE = "bench.w1"
#: Makes an event of 1 KB with its envelope and signature left out.
_TEXT = "x" * 900
#: Only what is for a healthy peer: what waits for a sick one stays.
_OPEN = "SELECT 1 FROM delivery WHERE state IN ('pending', 'sending') AND event_type = 'bench.w1' LIMIT 1"
_DROP_SICK = (
    "UPDATE connection SET status = 'disconnected' WHERE id IN"
    " (SELECT connection_id FROM subscription WHERE event_type LIKE 'sick.%')"
)
_DEADLINE_S = 600.0


class Run(NamedTuple):
    """What a run took: seconds from the first publish to the last recorded ack, and CPU seconds of each."""

    events: int
    seconds: float
    publisher_cpu_s: float
    subscriber_cpu_s: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU of both instances per event, ms."""
        return (self.publisher_cpu_s + self.subscriber_cpu_s) * 1000 / self.events

    @property
    def publisher_cpu_ms(self) -> float:
        """CPU of the publisher per event, ms."""
        return self.publisher_cpu_s * 1000 / self.events


class Pair:
    """Two instances that are up; `beta` is subscribed to `alpha`."""

    def __init__(self, folder: Path, urls: Sequence[str]) -> None:
        common = {"RATE_LIMIT_ADDRESS": "10000000", "RATE_LIMIT_PUBLISH": "1000000"} | {
            "RATE_LIMIT_PEER": "1000000",
            "WEB_THREADS": "16",
        }
        alpha_db, beta_db = [{"DATABASE_URL": url} for url in urls] or [{}, {}]
        for name in ("alpha", "beta"):
            (folder / name).mkdir()
        self.beta = Instance("beta", folder / "beta", **common, **beta_db)
        self.alpha = Instance(
            "alpha",
            folder / "alpha",
            FEDERATION_AUTO_ACCEPT=self.beta.base_url,
            FEDERATION_AUTO_GRANT="bench.**",
            **common,
            **alpha_db,
        )
        url = urls[0] if urls else f"sqlite:///{folder}/alpha/data/tidings.db"
        #: The publisher's database.
        self.database = sa.create_engine(_driver(url))
        self.connections: list[str] = []
        #: Seconds from `flask up` to `ready`.
        self.ready_s = 0.0

    def start(self) -> "Pair":
        """Start both, and note how long the publisher took in a folder that was initialised."""
        self.alpha.token = self.alpha.cli("init", "-o", "json")["token"]
        started = time.perf_counter()
        self.alpha.start()
        self.ready_s = time.perf_counter() - started
        self.beta.start()
        return self

    def stop(self) -> None:
        """Stop both."""
        self.database.dispose()
        self.alpha.stop()
        self.beta.stop()

    def subscribe(self, token: str | None = None) -> None:
        """Have a workspace of beta ask for alpha's events; the default one, or that of a token."""
        before, self.beta.token = self.beta.token, token or self.beta.token
        try:
            asked = self.beta.post("/connections/initiate", {"remoteUrl": self.alpha.base_url})["id"]
            self.beta.wait_for(
                lambda one: one.get(f"/connections/{asked}")["status"] == "active", "the connection"
            )
            self.beta.post("/events/subscribe", {"connectionId": asked, "eventType": EVENT_TYPE})
            self.beta.wait_for(
                lambda one: [s for s in one.all("/events/subscriptions") if s["isActive"]], "the grant"
            )
        finally:
            self.beta.token = before
        wire = self.alpha.all("/connections?status=active")
        self.connections = [connection["id"] for connection in wire]

    def subscribe_again(self) -> None:
        """A second subscriber: another workspace of beta."""
        self.beta.cli("workspace", "create", "second")
        token = self.beta.cli("token", "create", "--workspace", "second", "-o", "json")["token"]
        self.subscribe(token)

    # Measuring

    def batches(self, events: int, size: int, clients: int) -> Run:
        """Publish in batches and wait until all are acknowledged and recorded."""
        body = publish_body(EVENT_TYPE, size)
        return self._run(events // size, size, "/events/publish/batch", body, clients)

    def singles(self, events: int, clients: int) -> Run:
        """Publish one event a call."""
        return self._run(events, 1, "/events/publish", json.dumps(_event(0)).encode(), clients)

    def _run(self, calls: int, size: int, path: str, body: bytes, clients: int) -> Run:
        cpu = [self._cpu(self.alpha), self._cpu(self.beta)]
        started = time.perf_counter()
        self.publish(calls, path, body, clients)
        self.wait_until_delivered()
        seconds = time.perf_counter() - started
        return Run(calls * size, seconds, self._cpu(self.alpha) - cpu[0], self._cpu(self.beta) - cpu[1])

    def publish(self, calls: int, path: str, body: bytes, clients: int) -> None:
        """Make so many calls from so many threads, each over a connection of its own."""
        shares = [calls // clients + (n < calls % clients) for n in range(clients)]
        failures: list[BaseException] = []

        def work(share: int) -> None:
            try:
                with self._client() as call:
                    for _ in range(share):
                        call(path, body)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(share,)) for share in shares if share]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def lone_events(self, number: int, warm_up: int | None = None) -> list[float]:
        """ms from the publish call to the recorded ack, of events that come one at a time.

        warm_up: how many go before and do not count; None for a tenth, and 3 at least.
        """
        warm_up = max(3, number // 10) if warm_up is None else warm_up
        body, took = json.dumps(_event(0)).encode(), []
        with self._client() as call, self.database.connect() as connection:
            for _ in range(warm_up + number):
                started = time.perf_counter()
                message_id = json.loads(call("/events/publish", body))["messageId"]
                while not self._is_delivered(connection, message_id):
                    time.sleep(0.0005)
                took.append((time.perf_counter() - started) * 1000)
                time.sleep(0.01)
        return took[warm_up:]

    def _is_delivered(self, connection: sa.Connection, message_id: str) -> bool:
        status = connection.scalar(
            sa.text("SELECT status FROM event WHERE message_id = :id"), {"id": message_id}
        )
        connection.rollback()
        return bool(status == "delivered")

    def wait_until_delivered(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until no delivery is open."""
        give_up_at = time.monotonic() + _DEADLINE_S
        with self.database.connect() as connection:
            while connection.scalar(sa.text(_OPEN)):
                connection.rollback()
                meanwhile()
                time.sleep(0.005)
                if time.monotonic() > give_up_at:
                    raise TimeoutError(f"not all was delivered within {_DEADLINE_S:.0f} s")

    def memory_at_rest(self) -> float:
        """MB of alpha with all its processes."""
        return sum(probe.memory_mb(self._root(self.alpha)).values())

    def growth_while_draining(self, waiting: int) -> float:
        """Most MB that a process of either instance grew by while so many deliveries were drained."""
        size = min(waiting, 500)
        with self.held_back():
            self.publish(waiting // size, "/events/publish/batch", publish_body(EVENT_TYPE, size), 2)
            before, most, next_look = self._memory(), 0.0, 0.0

        def look() -> None:
            nonlocal most, next_look
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 1.0
                now = self._memory()
                most = max([most, *(size - before[pid] for pid, size in now.items() if pid in before)])

        self.wait_until_delivered(look)
        next_look = 0.0
        look()
        return most

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Publish meanwhile what waits for all healthy peers, and goes at the end."""
        for connection in self.connections:
            self.alpha.post(f"/connections/{connection}/pause", {"direction": "outgoing"})
        yield
        for connection in self.connections:
            self.alpha.post(f"/connections/{connection}/unpause", {"direction": "outgoing"})

    def drop_sick(self) -> None:
        """Let nothing more be tried over the connections of `bench.sick`."""
        with self.database.begin() as connection:
            connection.execute(sa.text(_DROP_SICK))

    def _memory(self) -> dict[int, float]:
        return probe.memory_mb(self._root(self.alpha)) | probe.memory_mb(self._root(self.beta))

    def _cpu(self, instance: Instance) -> float:
        return probe.cpu_seconds(self._root(instance))

    def _root(self, instance: Instance) -> int:
        return instance.supervisor_pid

    @contextmanager
    def _client(self) -> Iterator[Callable[[str, bytes], bytes]]:
        """call(path, body): POST over one kept-alive connection; costs little beside what is measured."""
        parts = urlsplit(self.alpha.base_url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        headers = {"Authorization": f"Bearer {self.alpha.token}", "Content-Type": "application/json"}

        def call(path: str, body: bytes) -> bytes:
            connection.request("POST", f"/api/v1/federation{path}", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 202:
                raise RuntimeError(f"publishing was answered {answer.status}: {text[:500]!r}")
            return text

        try:
            yield call
        finally:
            connection.close()


@contextmanager
def running_pair(engine: str, **environ: str) -> Iterator[Pair]:
    """Two instances on an engine, with folders and databases that go away; environ: of the publisher."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidings-bench-")))
        urls: list[str] = []
        if engine == "postgresql":
            # As durable as PostgreSQL is by default.
            server = stack.enter_context(engines.postgresql(durable=True))
            urls = [server.url(server.create()) for _ in range(2)]
        pair = Pair(folder, urls)
        pair.alpha.environ.update(environ)
        stack.callback(pair.stop)
        yield pair.start()


def publish_body(event_type: str, size: int) -> bytes:
    """The body of a batch of so many events."""
    events = [{**_event(number), "eventType": event_type} for number in range(size)]
    return json.dumps({"events": events}).encode()


def _event(number: int) -> dict[str, object]:
    return {"eventType": EVENT_TYPE, "payload": {"n": number, "text": _TEXT}}


def _driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
