"""The HTTP server: gunicorn with threads, serving an app that is already loaded.

The listening socket is made by whoever starts the server, so that a port that is taken is one line, and so
that callers wait instead of being refused while a server that died is started again.
"""

import errno
import select
import signal
import socket
import threading
import time
from typing import Any

import orjson
from flask import Flask
from gunicorn import sock, util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers import gthread

from app import processes
from app.config import Config, split_bind
from app.database import db
from app.protocol.errors import InternalError, InvalidRequest, Problem, TooLarge

#: Connections that wait to be accepted.
BACKLOG = 512
#: How long an idle connection is kept, in seconds; longer than peers and proxies keep theirs.
KEEP_ALIVE_S = 75
#: A worker whose main loop is silent for so long is replaced; requests run in threads and are not cut off.
SILENT_WORKER_S = 60
#: A request must have come whole within this time, in seconds, and within a second more for each so many
#: bytes that came. Else a few callers who send a byte now and then would occupy all threads for ever.
PATIENCE_S = 10.0
BYTES_PER_S = 32 * 1024
#: How long a part of an answer may take to be read, in seconds.
READING_S = 60.0
#: How long a thread stays with a connection that it answered, ms.
NEXT_WITHIN_MS = 5
#: How long requests in hand may take when the server is asked to end, in seconds.
GRACE_S = 15
#: Longest request line and header, in bytes, and most headers.
MAX_REQUEST_LINE = 4094
MAX_HEADER_BYTES = 8190
MAX_HEADERS = 64

_END = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


class PortTaken(Exception):
    """BIND cannot be used. Its text is one line."""


def listen(bind: str) -> socket.socket:
    """A listening socket at `host:port`. Raises PortTaken."""
    host, port = split_bind(bind)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortTaken(f"BIND is '{bind}', which cannot be used: {error.strerror}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it: no answer may wait 40 ms for Nagle's algorithm.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"BIND is '{bind}', which cannot be used: {error.strerror}. Choose another port, "
            "or end the program that listens there."
        ) from None
    return listener


def serve(app: Flask, config: Config, listener: socket.socket) -> None:
    """Serve the app until SIGTERM or SIGINT; requests in hand are answered first. Raises SystemExit."""
    util.write_error = write_error
    arbiter = _Arbiter(_Application(app, config))
    kind = sock.TCP6Socket if listener.family == socket.AF_INET6 else sock.TCPSocket
    arbiter.LISTENERS = [kind(listener.getsockname(), arbiter.cfg, arbiter.log, fd=listener.detach())]
    arbiter.run()


def options(config: Config) -> dict[str, Any]:
    """gunicorn's settings."""
    return {
        "bind": config.bind,
        "workers": config.web_workers,
        "threads": config.web_threads,
        "worker_class": Worker,
        "preload_app": True,
        "keepalive": KEEP_ALIVE_S,
        "timeout": SILENT_WORKER_S,
        "graceful_timeout": GRACE_S,
        "limit_request_line": MAX_REQUEST_LINE,
        "limit_request_field_size": MAX_HEADER_BYTES,
        "limit_request_fields": MAX_HEADERS,
        "control_socket_disable": True,
        # No header of a request may change what the request is.
        "forwarded_allow_ips": "",
        "secure_scheme_headers": {},
        "loglevel": "warning",
        "post_fork": _post_fork,
    }


class ImpatientSocket(socket.socket):
    """A connection whose requests have to come in time. Set `begun_at` when one begins."""

    begun_at = 0.0
    _received = 0

    def begin(self) -> None:
        """A request may come from now on."""
        self.begun_at, self._received = time.monotonic(), 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As socket.recv. Raises ConnectionResetError when the request has taken too long."""
        left_s = self.begun_at + PATIENCE_S + self._received / BYTES_PER_S - time.monotonic()
        try:
            if left_s <= 0:
                raise TimeoutError
            self.settimeout(left_s)
            data = super().recv(size, flags)
        except TimeoutError:
            # The one error that gunicorn and Werkzeug take for what it is: a caller who is gone.
            raise ConnectionResetError(errno.ECONNRESET, "the request did not come in time") from None
        self._received += len(data)
        self.settimeout(READING_S)
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As socket.sendall. Raises ConnectionResetError when the caller does not read what he asked for."""
        try:
            super().sendall(data, flags)
        except TimeoutError:
            raise ConnectionResetError(errno.ECONNRESET, "the answer was not read in time") from None


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's worker with threads, which does not wait for ever for the rest of a request.

    A connection whose next request comes right after the answer stays with its thread, unless another one
    waits for a thread: going back through the selector costs a quarter of a small request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections that no thread has taken up yet. The lock keeps the count right between threads.
        self._queued = 0
        self._counting = threading.Lock()

    def enqueue_req(self, conn: Any) -> None:
        """Have a thread answer the connection, whose socket is made impatient the first time."""
        if not isinstance(conn.sock, ImpatientSocket):
            conn.sock = ImpatientSocket(fileno=conn.sock.detach())
            conn.sock.setblocking(False)
        with self._counting:
            self._queued += 1
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """Answer the requests of the connection that come one right after the other. Runs in a thread."""
        with self._counting:
            self._queued -= 1
        while True:
            conn.sock.begin()
            kept_alive = super().handle(conn)
            if kept_alive is not True or not self._goes_on(conn.sock):
                return kept_alive

    def _goes_on(self, sock: ImpatientSocket) -> bool:
        """Whether the next request of the connection is here, and nobody else waits for this thread."""
        if not self.alive or self._queued:
            return False
        waiting = select.poll()
        waiting.register(sock, select.POLLIN)
        return bool(waiting.poll(NEXT_WITHIN_MS)) and not self._queued


class _Application(BaseApplication):  # type: ignore[misc]
    """Tells gunicorn which app to serve, and how."""

    def __init__(self, app: Flask, config: Config) -> None:
        self._app, self._config = app, config
        super().__init__()

    def load_config(self) -> None:
        """Take our settings; no file, environment or command line of gunicorn's is read."""
        for name, value in options(self._config).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """The app, which is loaded already."""
        return self._app


class _Arbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's master, which lets no wish for the end get lost.

    A new web process has its master's handlers until it makes its own; what it is told in between would only
    be noted, and the master would wait for it until its patience ends. So it is told after that.
    """

    def spawn_worker(self) -> Any:
        """Fork a web process; its pid."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _END)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _END)


def _post_fork(_arbiter: Any, worker: Any) -> None:
    """In each new web process: end when asked or with the arbiter, and open connections of our own."""
    for number in _END:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _END)
    processes.end_with_parent(worker.ppid)
    app = worker.app.wsgi()
    with app.app_context():
        db.engine.dispose(close=False)


def write_error(client: socket.socket, status: int, reason: str, detail: str) -> None:
    """What gunicorn answers by itself (400, 414, 431, ...), as a problem document instead of HTML."""
    document = _problem(status)(detail).to_wire(None) | {"status": status, "title": reason}
    body = orjson.dumps(document)
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
        f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(client, head.encode("latin-1") + body)


def _problem(status: int) -> type[Problem]:
    if status in (413, 414, 431):
        return TooLarge
    return InternalError if status >= 500 else InvalidRequest
