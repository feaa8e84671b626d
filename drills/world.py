"""The world of a run: one engine, a folder, chance with a seed, and two instances that several drills share.

    software ──publishes──► alpha ──────wire─────► beta          beta subscribed to alpha
                            (its disk)             (its disk)

Each instance has a disk of its own where this machine lets us mount one, and a wire in front of it, so that
both can fail without touching anything else. A drill that fails takes the pair with it; the next one gets
another.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from random import Random
from typing import NamedTuple

import redis

from app import create_app, embedded
from app.config import ROOT, Config
from app.database import db
from drills.drill import Skipped, Tally
from drills.load import Load
from drills.proof import Book, Subscriber, compare, wait_until_final
from drills.wire import Wire
from tests import engines
from tests.e2e.instance import Instance

#: Parts of an instance that a drill may kill; `up` is the supervisor, with all of them.
PARTS = ("valkey", "web", "worker 1", "worker 2", "worker failing", "scheduler", "up")

#: How long both sides may take until nothing waits any more, in seconds.
_FINAL_WITHIN_S = 300.0
#: How long the short form leaves a connection to its own schedule before an operator presses "retry now".
_PATIENCE_S = 2.0
_DISK_BYTES = 1 << 31


class Disk:
    """A file system of its own, which can be full."""

    def __init__(self, path: Path) -> None:
        """Mount it. Raises Skipped where that is not allowed."""
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={_DISK_BYTES},mode=0711", "tmpfs")

    def fill(self) -> None:
        """Leave no room: the file system is now as large as what is in it. Who writes meanwhile is outrun."""
        for pages in range(100):
            status = os.statvfs(self.path)
            used = status.f_blocks - status.f_bfree
            with contextlib.suppress(Skipped):
                self._mount("-o", f"remount,size={(used + pages) * status.f_frsize}")
                return
        raise Skipped("the file system grows faster than it can be filled")

    def free(self) -> None:
        """Give the room back."""
        self._mount("-o", f"remount,size={_DISK_BYTES}")

    def remove(self) -> None:
        """Unmount it, whoever still looks into it."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)

    def _mount(self, *options: str) -> None:
        done = subprocess.run(
            ["mount", *options, str(self.path)], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise Skipped(f"no file system can be mounted here: {done.stderr.strip()}")


class Station(Instance):
    """An instance with a wire in front of it, a disk under it, and its database open for reading."""

    disk: Disk | None
    book: Book

    def __init__(self, name: str, folder: Path, wire: Wire, database_url: str, **environ: str) -> None:
        """database_url: empty for SQLite in the data folder."""
        port = engines.free_port()
        settings = {
            "BASE_URL": wire.url,
            "BIND": f"127.0.0.1:{port}",
            "WEB_THREADS": "8",
            "RATE_LIMIT_ADDRESS": "1000000000",
            **environ,
        }
        if database_url:
            settings["DATABASE_URL"] = database_url
        super().__init__(name, folder, **settings)
        self.wire, self.base_url = wire, wire.url
        wire.servers = [("127.0.0.1", port)]
        #: Where its own software reaches it, past the wire.
        self.own_url = f"http://127.0.0.1:{port}"
        self.book = Book(database_url or f"sqlite:///{folder / 'data' / 'tidings.db'}")

    def kill(self, part: str) -> bool:
        """kill -9 a part; `up` is started again by us, the parts by the supervisor. False if it was dead."""
        try:
            self.kill9(part)
        except ProcessLookupError:
            return False
        if part == "up":
            self.start(init=False)
        return True

    def restart(self, **environ: str) -> None:
        """End it in order and start it again, with other settings."""
        self.stop()
        self.environ |= environ
        self.start(init=False)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """In the block, its services can be called as its own commands call them."""
        app = create_app(Config.from_env(self.environ))
        with app.app_context():
            yield
            db.session.remove()
            db.engine.dispose()

    def redis(self) -> redis.Redis:
        """A client of its Valkey."""
        return redis.Redis.from_url(f"unix://{embedded.socket_path(Path(self.environ['DATA_DIR']))}")


class Pair(NamedTuple):
    """Two instances, and the public id of their connection at each."""

    alpha: Station
    beta: Station
    at_alpha: str
    at_beta: str

    @property
    def books(self) -> tuple[Book, Book]:
        """Both databases."""
        return self.alpha.book, self.beta.book

    @property
    def subscriber(self) -> Subscriber:
        """Beta, as who has to get alpha's events."""
        return Subscriber(self.beta.book, self.at_beta)


class World:
    """What a drill is done in."""

    def __init__(self, engine: str, seed: int, *, short: bool) -> None:
        self.engine, self.seed, self.short = engine, seed, short
        self.rng = Random(seed)
        #: How often the drill does what it does; set for each.
        self.times = 1
        #: Events that are accepted between two blows.
        self.breath = 40 if short else 200
        self.server: engines.PostgreSQL | None = None
        self._exits = contextlib.ExitStack()
        self._pair: Pair | None = None
        self._pair_exits = contextlib.ExitStack()
        self._numbers = count(1)

    def __enter__(self) -> "World":
        self.folder = Path(tempfile.mkdtemp(prefix="tidings-drills-", dir="/tmp"))
        self.folder.chmod(0o711)
        self._exits.callback(shutil.rmtree, self.folder, ignore_errors=True)
        if self.engine == "postgresql":
            # As durable as PostgreSQL is by default: it will be killed.
            self.server = self._exits.enter_context(engines.postgresql(durable=True))
        return self

    def __exit__(self, *_exc: object) -> None:
        self.forget_pair()
        self._exits.close()

    # Instances

    def pair(self) -> Pair:
        """The shared pair, with beta connected to alpha; made if there is none."""
        if self._pair is None:
            self._pair_exits = contextlib.ExitStack()
            self._pair = self.make_pair(self._pair_exits)
        return self._pair

    def forget_pair(self) -> None:
        """Let the shared pair go; the next drill gets a new one."""
        self._pair = None
        self._pair_exits.close()

    def make_pair(self, exits: contextlib.ExitStack, root: Path = ROOT) -> Pair:
        """Two instances that are up, the second connected to the first; both end with the stack.

        root: the folder of their code.
        """
        beta = self.station("beta", exits)
        alpha = self.station(
            "alpha", exits, FEDERATION_AUTO_ACCEPT=beta.base_url, FEDERATION_AUTO_GRANT="drill.**"
        )
        alpha.root = beta.root = root
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Instance.start, (alpha, beta)))
        at_beta = connect(beta, alpha)
        [at_alpha] = alpha.wait_for(
            lambda one: [row["id"] for row in one.all("/connections?status=active")], "the acknowledgment"
        )
        return Pair(alpha, beta, at_alpha, at_beta)

    def station(self, name: str, exits: contextlib.ExitStack, **environ: str) -> Station:
        """An instance that is not started yet; it ends with the stack."""
        folder = self.folder / f"{name}-{next(self._numbers)}"
        folder.mkdir(mode=0o711)
        wire = Wire(rng=Random(self.rng.random()))
        exits.callback(wire.close)
        disk = self._disk(folder / "data", exits)
        station = Station(name, folder, wire, self._database(disk, exits), **environ)
        station.disk = disk
        exits.callback(station.stop)
        return station

    def _disk(self, path: Path, exits: contextlib.ExitStack) -> Disk | None:
        try:
            disk = Disk(path)
        except Skipped:
            return None
        exits.callback(disk.remove)
        return disk

    def _database(self, disk: Disk | None, exits: contextlib.ExitStack) -> str:
        """URL of a new database, whose tables lie on the disk if there is one."""
        if self.server is None:
            return ""
        tables = None
        if disk is not None and isinstance(self.server, engines.OwnPostgreSQL):
            tables = self.server.own_folder(disk.path / "tables")
        name = self.server.create(folder=tables)
        exits.callback(self.server.drop, name)
        return self.server.url(name)

    def back_up(self, station: Station) -> Callable[[], None]:
        """Copy the database of an instance that is down; returns what puts the copy in its place."""
        if self.server is None:
            database = Path(station.environ["DATA_DIR"]) / "tidings.db"
            backup = station.folder / "backup.db"
            with contextlib.closing(sqlite3.connect(database)) as connection:
                connection.execute("VACUUM INTO ?", (str(backup),))

            def restore() -> None:
                for name in ("", "-wal", "-shm"):
                    Path(f"{database}{name}").unlink(missing_ok=True)
                shutil.move(backup, database)

            return restore
        server, url = self.server, station.environ["DATABASE_URL"]
        copy = server.url(server.create(template=url.rpartition("/")[2]))

        def use_copy() -> None:
            station.environ["DATABASE_URL"], station.book = copy, Book(copy)

        return use_copy

    # Load and proof

    def load(self, pair: Pair, name: str) -> Load:
        """Publishes at alpha events that beta subscribed to, as `drill.<name>.<number>`."""
        event_type = f"drill.{name}.{next(self._numbers)}"
        subscribe(pair.beta, event_type, pair.at_beta)
        # While instances start, a slow machine needs its cores for that.
        pause_s = 0.1 if self.short else 0.03
        return Load(pair.alpha.own_url, pair.alpha.token, event_type, pause_s=pause_s)

    def prove(
        self,
        pair: Pair,
        load: Load,
        subscribers: Sequence[Subscriber] = (),
        *,
        by_number: bool = False,
    ) -> Tally:
        """Wait until all is final and compare; `subscribers`: beta if none are given."""
        still_open = self.wait_until_final(pair)
        tally = compare(
            load.event_type,
            load.accepted,
            pair.alpha.book.outgoing(load.event_type),
            subscribers or [pair.subscriber],
            by_number=by_number,
        )
        return tally._replace(not_final=tally.not_final + still_open)

    def wait_until_final(self, pair: Pair) -> int:
        """Wait until nothing is open at either side; how many rows still are.

        In the short form an operator presses "retry now" now and then, as after an outage that he mended; in
        the long form the schedule has to do.
        """
        pressed_at = time.monotonic()

        def press() -> None:
            nonlocal pressed_at
            if self.short and time.monotonic() > pressed_at + _PATIENCE_S:
                pressed_at = time.monotonic()
                with contextlib.suppress(OSError, AssertionError):
                    pair.alpha.post(f"/connections/{pair.at_alpha}/retry-now")
                    pair.beta.post(f"/connections/{pair.at_beta}/retry-now")

        return wait_until_final(pair.books, _FINAL_WITHIN_S if not self.short else 60.0, press)


def connect(asking: Instance, asked: Instance) -> str:
    """Connect an instance to one that accepts it at once; the connection's id at the one that asks."""
    here = asking.post("/connections/initiate", {"remoteUrl": asked.base_url})["id"]
    asking.wait_for(lambda one: one.get(f"/connections/{here}")["status"] == "active", "the acceptance")
    return str(here)


def subscribe(subscriber: Instance, event_type: str, connection_id: str) -> None:
    """Subscribe to what is granted at once, and wait for that."""
    made = subscriber.post("/events/subscribe", {"connectionId": connection_id, "eventType": event_type})
    subscriber.wait_for(
        lambda one: any(
            row["id"] == made["id"] and row["isActive"]
            for row in one.all(f"/events/subscriptions?connectionId={connection_id}")
        ),
        "the grant",
    )


@contextlib.contextmanager
def stopped(station: Station, number: int = signal.SIGTERM) -> Iterator[None]:
    """The instance is down while the block runs."""
    station.stop(number)
    yield
    station.start(init=False)
