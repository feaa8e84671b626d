"""The HTTP server's own answers, over raw sockets."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app import create_app, server
from app.config import Config
from tests.engines import free_port

THREADS = 2


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a web server that runs."""
    folder = tmp_path_factory.mktemp("server")
    number = free_port()
    config = Config.from_env(
        {
            "DATA_DIR": str(folder),
            "BIND": f"127.0.0.1:{number}",
            "WEB_WORKERS": "1",
            "WEB_THREADS": str(THREADS),
        }
    )
    listener = server.listen(config.bind)
    pid = os.fork()
    if pid == 0:
        code: object = 1
        try:
            server.serve(create_app(config), config, listener)
        except SystemExit as end:
            code = end.code
        finally:
            os._exit(code if isinstance(code, int) else 1)
    listener.close()
    yield number
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def exchange(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer) < _whole_length(answer):
            received = connection.recv(65536)
            if not received:
                break
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, body


def _whole_length(answer: bytes) -> int:
    head = answer.partition(b"\r\n\r\n")[0].lower()
    length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b":0")
    return len(head) + 4 + int(length.partition(b":")[2])


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(80)) + b"\r\n", 431),
    ],
)
def test_what_the_server_refuses_by_itself_is_a_problem_document(
    port: int, request_bytes: bytes, status: int
) -> None:
    answered, headers, body = exchange(port, request_bytes)

    problem: dict[str, Any] = json.loads(body)
    assert (answered, problem["status"]) == (status, status)
    assert headers["content-type"] == "application/problem+json"
    assert problem["code"] == ("invalid_request" if status == 400 else "too_large")
    assert problem["retryable"] is False


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


def ask(connection: socket.socket) -> bytes:
    """One more request over a connection that is kept; the beginning of its answer."""
    connection.sendall(HEALTH)
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer) < _whole_length(answer):
        answer += connection.recv(65536)
    return answer[:13]


def test_a_connection_is_kept_for_the_next_request(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        answers = [ask(connection) for _ in range(3)]

    assert answers == [b"HTTP/1.1 200 "] * 3


def test_connections_that_go_on_and_on_leave_a_thread_for_others(port: int) -> None:
    stop = threading.Event()

    def go_on() -> int:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            asked = 0
            while not stop.is_set():
                asked += ask(connection) == b"HTTP/1.1 200 "
            return asked

    with ThreadPoolExecutor(THREADS) as pool:
        busy = [pool.submit(go_on) for _ in range(THREADS)]
        answers = [exchange(port, HEALTH)[0] for _ in range(5)]
        stop.set()
        asked = [one.result(10) for one in busy]

    assert answers == [200] * 5
    assert min(asked) > 0


def test_headers_of_a_request_do_not_change_what_it_is(port: int) -> None:
    forwarded = b"X-Forwarded-Proto: https\r\nX-Forwarded-Protocol: ssl\r\nSCRIPT_NAME: /x\r\n"

    status, _, body = exchange(
        port, b"GET /api/openapi.json HTTP/1.1\r\nHost: evil.example\r\n" + forwarded + b"\r\n"
    )

    assert status == 200
    assert b"evil.example" not in body


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(
            server.PortTaken, match=rf"^BIND is '{bind}', which cannot be used: Address already in use"
        ):
            server.listen(bind)


def test_an_address_that_is_not_ours_is_one_line() -> None:
    with pytest.raises(server.PortTaken, match=r"^BIND is '192\.0\.2\.1:5000', which cannot be used"):
        server.listen("192.0.2.1:5000")


def test_ipv6_can_be_listened_on() -> None:
    with server.listen(f"[::1]:{free_port()}") as listener:
        assert listener.family == socket.AF_INET6


def test_accepted_connections_do_not_wait_for_nagle(tmp_path: Path) -> None:
    with (
        server.listen(f"127.0.0.1:{free_port()}") as listener,
        socket.create_connection(listener.getsockname()),
    ):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_request_in_hand_is_answered_before_the_end(tmp_path: Path) -> None:
    number = free_port()
    config = Config.from_env({"DATA_DIR": str(tmp_path), "BIND": f"127.0.0.1:{number}", "WEB_WORKERS": "1"})
    listener = server.listen(config.bind)
    (told_r, told_w), (go_r, go_w) = os.pipe(), os.pipe()
    app = create_app(config)

    def slow() -> str:
        os.write(told_w, b"x")
        os.read(go_r, 1)
        return "done"

    app.add_url_rule("/slow", view_func=slow)
    pid = os.fork()
    if pid == 0:
        code: object = 1
        try:
            server.serve(app, config, listener)
        except SystemExit as end:
            code = end.code
        finally:
            os._exit(code if isinstance(code, int) else 1)
    listener.close()

    with socket.create_connection(("127.0.0.1", number), timeout=10) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        os.read(told_r, 1)
        os.kill(pid, signal.SIGTERM)
        os.write(go_w, b"x")
        answer = b""
        while received := connection.recv(65536):
            answer += received

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"done")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for end in (told_r, told_w, go_r, go_w):
        os.close(end)
