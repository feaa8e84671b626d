"""The supervisor: everything one instance needs, under one process.

    flask up ─┬─ valkey          unless REDIS_URL names another
              ├─ web ──┬─ web process 1 … WEB_WORKERS
              │        └─ …
              ├─ worker 1 … RQ_WORKERS      deliveries, controls, maintenance
              ├─ worker failing             peers that hang, and requests of strangers
              └─ scheduler

The app is loaded once, in this process, and every child is a fork of it: they share that memory, and one that
died is there again in milliseconds. For that this process must stay what it was: it opens no connection,
starts no thread, and lets a child of its own migrate the database.

Signals are not handled but waited for (`sigtimedwait`), so nothing here can be interrupted halfway. A child
that ends is started again, later each time if it ends at once. When this process ends, however it ends, the
system ends its children (`processes.end_with_parent`).
"""

import contextlib
import fcntl
import gc
import http.client
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from flask import Flask
from sqlalchemy.exc import OperationalError

from app import embedded, metrics, processes, queue, server
from app.config import Config, split_bind
from app.jobs import controls, delivery, maintenance, schedule, worker
from app.protocol.errors import Problem

logger = logging.getLogger(__name__)

#: What workers would load with their first job each: loaded here, it is there once for all of them.
PRELOADED = (controls, delivery, maintenance)

#: Signals that this process waits for.
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
#: A child that lived so long ended for a reason of its own and is started again at once, in seconds.
_HEALTHY_AFTER_S = 10.0
_FIRST_DELAY_S = 0.1
#: Exit code of a process that has said in one line why nothing can start.
_SAID_WHY = 3
_LONGEST_DELAY_S = 5.0
#: How long children may take to finish what they have in hand, in seconds; then they are killed.
_GRACE_S = 25.0
_VALKEY_GRACE_S = 5.0
#: How long the parts may take until the instance answers, in seconds.
_START_WITHIN_S = 60.0


class CannotStart(Exception):
    """The instance cannot be started. Its text is one line that says what to do."""


@dataclass(slots=True)
class Child:
    """A process to be kept alive."""

    name: str
    #: What it does, in the forked process; returning ends it.
    run: Callable[[], object]
    pid: int = 0
    started_at: float = 0.0
    #: When to start it again, on the monotonic clock.
    due_at: float = 0.0
    failures: int = field(default=0)


class Supervisor:
    """Starts the parts of an instance in order, keeps them, and ends them in order."""

    def __init__(self, app: Flask, config: Config, prepare: Callable[[], object]) -> None:
        """prepare: brings the database up to date; called in a process of its own, in an app context."""
        self._app, self._config, self._prepare = app, config, prepare
        self._children: list[Child] = []
        self._listener: socket.socket | None = None
        self._lock: int | None = None
        self._metrics = config.data_dir / "metrics"

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit code. Raises CannotStart before anything runs."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        processes.use_few_arenas()
        self._lock = _lock(self._config)
        try:
            self._listener = server.listen(self._config.bind)
            self._children = self._valkey()
            metrics.start(self._metrics, fresh=True)
            gc.collect()
            # What is here now is shared by all children as long as nobody touches it; the collector would.
            gc.freeze()
            self._start_due()
            self._migrate()
            self._children += self._parts()
            return self._keep()
        except (server.PortTaken, embedded.ServerMissing) as error:
            raise CannotStart(str(error)) from None
        finally:
            self._end()

    def _valkey(self) -> list[Child]:
        if self._config.redis_url:
            return []
        command = embedded.command(self._config.data_dir)
        # In a deep data folder this has just chosen where the socket lies; the app was made before that.
        queue.init_app(self._app, self._config)
        return [Child("valkey", lambda: _become(command))]

    def _parts(self) -> list[Child]:
        app, config = self._app, self._config
        workers = [
            Child(f"worker {number + 1}", lambda: worker.run(app, config, worker.ORDINARY))
            for number in range(config.rq_workers)
        ]
        return [
            Child("web", self._serve),
            *workers,
            Child("worker failing", lambda: worker.run(app, config, worker.FAILING)),
            Child("scheduler", lambda: schedule.run(app)),
        ]

    def _serve(self) -> None:
        assert self._listener is not None  # noqa: S101 - made before the first child
        server.serve(self._app, self._config, self._listener)

    def _migrate(self) -> None:
        """Bring the database up to date in a process of its own. Raises CannotStart, or ends as it did."""
        child = Child("migrations", self._prepare_in_context)
        self._start(child)
        _, status = os.waitpid(child.pid, 0)
        if os.waitstatus_to_exitcode(status) == _SAID_WHY:
            sys.exit(1)
        if status:
            raise CannotStart("The database could not be brought up to date; the lines above say why.")

    def _prepare_in_context(self) -> None:
        """In the process for it. What people can mend is one line; anything else is logged with its cause."""
        try:
            with self._app.app_context():
                self._prepare()
        except OperationalError as error:
            reason = " ".join(str(error.orig).split())
            sys.exit(_complain(f"DATABASE_URL names a database that cannot be used: {reason}"))
        except Problem as problem:
            sys.exit(_complain(problem.detail))

    def _keep(self) -> int:
        """Start the children and keep them until a signal asks for the end."""
        ready = False
        give_up_at = time.monotonic() + _START_WITHIN_S
        while True:
            self._start_due()
            if not ready and self._answers():
                ready = True
                sys.stdout.write(f"ready {self._config.base_url}\n")
                sys.stdout.flush()
            if not ready and time.monotonic() > give_up_at:
                logger.error("supervisor.not_ready", extra={"seconds": _START_WITHIN_S})
                return 1
            caught = signal.sigtimedwait(_SIGNALS, self._wait_s(ready))
            if caught is not None and caught.si_signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                logger.info("supervisor.stopping", extra={"signal": signal.Signals(caught.si_signo).name})
                return 0
            self._reap()

    def _wait_s(self, ready: bool) -> float:
        """How long nothing can be due, in seconds."""
        if not ready:
            return 0.02
        waits = [child.due_at - time.monotonic() for child in self._children if not child.pid]
        return max(0.0, min(waits, default=60.0))

    def _start_due(self) -> None:
        for child in self._children:
            if not child.pid and child.due_at <= time.monotonic():
                self._start(child)

    def _start(self, child: Child) -> None:
        """Fork; the child runs its part and never returns from here."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child.pid = os.fork()
        if child.pid == 0:
            self._run_child(child, parent)
        child.started_at = time.monotonic()
        logger.info("supervisor.started", extra={"part": child.name, "pid": child.pid})

    def _run_child(self, child: Child, parent: int) -> NoReturn:
        code = 1
        try:
            # A session of its own: Ctrl-C reaches the supervisor alone, which ends all in order.
            os.setsid()
            # Valkey is asked, so that its file is whole; all else can be killed at any time.
            processes.end_with_parent(parent, signal.SIGTERM if child.name == "valkey" else signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._let_go(keep_listener=child.name == "web")
            random.seed()
            child.run()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            logger.exception("supervisor.part_failed", extra={"part": child.name})
        finally:
            with contextlib.suppress(Exception):
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _let_go(self, keep_listener: bool) -> None:
        """In a child: the lock and the port belong to the supervisor and live as long as it does."""
        if self._lock is not None:
            os.close(self._lock)
        if self._listener is not None and not keep_listener:
            self._listener.close()

    def _reap(self) -> None:
        """Note which children ended, and when to start them again."""
        for child in _take_leave(self._children):
            lived_s = time.monotonic() - child.started_at
            child.failures = 0 if lived_s >= _HEALTHY_AFTER_S else child.failures + 1
            delay_s = restart_delay_s(child.failures)
            child.due_at = time.monotonic() + delay_s
            logger.warning(
                "supervisor.part_ended",
                extra={"part": child.name, "lived_s": round(lived_s, 1), "again_in_s": delay_s},
            )

    def _answers(self) -> bool:
        """Whether the instance answers at BIND."""
        host, port = split_bind(self._config.bind)
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        connection = http.client.HTTPConnection(reachable, port, timeout=2)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _end(self) -> None:
        """End all children: those that make work and those that do it, then Valkey, which they need."""
        valkey = [child for child in self._children if child.name == "valkey"]
        others = [child for child in self._children if child.name != "valkey"]
        self._end_group(others, _GRACE_S)
        self._end_group(valkey, _VALKEY_GRACE_S)
        if valkey:
            embedded.remove_socket_folder(self._config.data_dir)
        if self._listener is not None and self._listener.fileno() != -1:
            self._listener.close()
        if self._lock is not None:
            os.close(self._lock)

    def _end_group(self, children: list[Child], grace_s: float) -> None:
        """Ask them to end, wait, and kill who is late; a second SIGTERM or SIGINT shortens the wait."""
        _send(children, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while any(child.pid for child in children) and (left_s := deadline - time.monotonic()) > 0:
            caught = signal.sigtimedwait(_SIGNALS, left_s)
            if caught is not None and caught.si_signo in (signal.SIGTERM, signal.SIGINT):
                break
            _take_leave(self._children)
        _send(children, signal.SIGKILL)
        for child in children:
            if child.pid:
                os.waitpid(child.pid, 0)
                child.pid = 0


def restart_delay_s(failures: int) -> float:
    """How long to wait before a child that ended is started again, after so many quick ends in a row."""
    return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** max(0, failures - 1))


def _complain(line: str) -> int:
    """Say why nothing can start; the exit code of the process that knows."""
    sys.stderr.write(f"{line}\n")
    return _SAID_WHY


def _send(children: list[Child], number: int) -> None:
    for child in children:
        if child.pid:
            os.kill(child.pid, number)


def _take_leave(children: list[Child]) -> list[Child]:
    """Those of the children that ended. As process 1 of a container we inherit others too; they just go."""
    ended: list[Child] = []
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended += [child for child in children if child.pid == pid]
            for child in ended:
                child.pid = 0
    return ended


def _become(command: list[str]) -> NoReturn:
    # What asks it to end keeps that for the program too: the wish survives execv.
    os.execv(command[0], command)  # noqa: S606 - our own command, without a shell


def _lock(config: Config) -> int:
    """Take the data folder for this supervisor until the process ends. Raises CannotStart."""
    handle = os.open(config.data_dir / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 20).decode().strip() or "unknown"
        os.close(handle)
        raise CannotStart(
            f"An instance is already up on {config.data_dir} (process {holder}); end it first, "
            "or give this one a DATA_DIR of its own."
        ) from None
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle
