"""Attacks on what there is only so much of: threads, memory, disk, Redis, and other people's servers."""

import gzip
import json
import logging
import os
import signal
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from app import create_app, queue, server
from app.config import Config
from app.federation import peers, requests
from app.federation.identity import MAX_BATCH_EVENTS
from app.jobs import worker
from app.models import Connection
from app.transport.client import Client
from app.transport.errors import TransportError
from app.web.peer import door
from tests import engines
from tests.conformance.foreign_peer import CONNECTION, EVENT, EVENTS, ForeignPeer, Reply, exchange
from tests.conformance.wire import DOCUMENT_PATH, Transport, new_id
from tests.security.conftest import SEEN, Bond, MakeVictim, Victim, bind, refusal
from tests.transport.hostile import HostileServer, always, answer

MakePeer = Callable[..., ForeignPeer]

JSON = [("Content-Type", "application/json")]


# --- floods ---


def test_a_flood_from_one_address_is_stopped_before_signatures_are_looked_at(make_victim: MakeVictim) -> None:
    victim = make_victim(RATE_LIMIT_ADDRESS="5")

    with victim.unchanged():
        answers = [exchange(victim.base_url, "POST", EVENT, JSON, b"{}") for _ in range(8)]

    assert [one.status for one in answers] == [401] * 5 + [429] * 3
    assert int(answers[-1].headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    "addresses, network",
    [
        (["2001:db8::1", "2001:db8::ffff:1"], "2001:db8::/64"),
        (["192.0.2.7", "::ffff:192.0.2.7"], "192.0.2.7"),
    ],
)
def test_many_addresses_of_one_network_are_one_caller(
    victim: Victim, addresses: list[str], network: str
) -> None:
    contexts = [victim.app.test_request_context(environ_base={"REMOTE_ADDR": one}) for one in addresses]

    found = set()
    for context in contexts:
        with context:
            found.add(door.network_of())

    assert found == {network}


def test_strangers_leave_nothing_in_redis_that_stays(make_victim: MakeVictim, stranger: ForeignPeer) -> None:
    victim = make_victim()
    for _ in range(5):
        event = stranger.event("task.created")
        assert stranger.post(victim.base_url, EVENT, event).status == 401

    with victim.app.app_context():
        redis = queue.redis_client()
        keys = [key.decode() for key in redis.scan_iter("*")]
        lives_ms = [redis.pttl(key) for key in keys]

    assert not [key for key in keys if "nonce" in key]
    assert len(keys) <= 2
    assert all(0 < life <= 61_000 for life in lives_ms)


def test_requests_of_strangers_are_bounded_by_address(
    make_victim: MakeVictim, stranger: ForeignPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "ADDRESS_PER_MINUTE", 2)
    victim = make_victim()
    remote = stranger.pin(victim.base_url)

    answers = [stranger.send_control(*stranger.connection_request(remote)).status for _ in range(4)]

    assert answers == [202, 202, 429, 429]
    assert len(victim.rows(Connection)) == 2


@pytest.mark.parametrize("bound", ["MAX_UNCHECKED", "MAX_WAITING", "MAX_WAITING_PER_ORIGIN"])
def test_requests_of_strangers_that_wait_are_bounded_in_number(
    make_victim: MakeVictim, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(requests, bound, 2)
    victim = make_victim()
    askers = [make_peer()] * 4 if bound == "MAX_WAITING_PER_ORIGIN" else [make_peer() for _ in range(4)]

    answers = [
        peer.send_control(*peer.connection_request(peer.pin(victim.base_url))).status for peer in askers
    ]

    assert answers == [202, 202, 429, 429]
    assert len(victim.rows(Connection)) == 2


def test_whose_request_waits_may_not_ask_without_end_either(
    make_victim: MakeVictim, stranger: ForeignPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MAX_WAITING_PER_ORIGIN", 3)
    victim = make_victim()
    first = stranger.request_connection(victim.base_url)
    victim.settle()
    assert stranger.disconnect(first).status == 200

    answers = []
    for _ in range(4):
        link, message = stranger.connection_request(first.remote)
        answers.append(stranger.send_control(link, message).status)
        stranger.disconnect(link)

    assert answers == [202, 202, 429, 429]
    assert len(victim.rows(Connection)) == 3


def test_a_strangers_request_is_small_or_refused(victim: Victim, stranger: ForeignPeer) -> None:
    link, message = stranger.connection_request(stranger.pin(victim.base_url), filler="x" * 70_000)

    with victim.unchanged():
        refused = stranger.send_control(link, message)

    assert refusal(refused) == (413, "too_large")


@pytest.mark.parametrize("bound", ["ORIGIN_PER_MINUTE", "DOCUMENTS_PER_MINUTE"])
def test_documents_are_read_so_often_and_no_more(
    make_victim: MakeVictim, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(requests, bound, 2)
    victim, third_party = make_victim(), make_peer()
    others = [third_party] * 4 if bound == "ORIGIN_PER_MINUTE" else [make_peer() for _ in range(4)]
    attacker = make_peer()
    for other in others:
        remote = attacker.pin(victim.base_url)
        attacker.send_control(*attacker.connection_request(remote, baseUrl=other.base_url))

    victim.settle()

    fetched = {id(other): len(other.seen(DOCUMENT_PATH)) for other in others}
    assert sum(fetched.values()) == 2


def test_nothing_is_fetched_while_a_stranger_waits(victim: Victim, make_peer: MakePeer) -> None:
    third_party, attacker = make_peer(), make_peer()
    remote = attacker.pin(victim.base_url)

    asked = attacker.send_control(*attacker.connection_request(remote, baseUrl=third_party.base_url))

    assert asked.status == 202
    assert third_party.seen(DOCUMENT_PATH) == []
    with victim.unchanged("connection", "control_received"):
        victim.settle()


def test_what_strangers_cause_does_not_wait_where_deliveries_wait(
    make_victim: MakeVictim, stranger: ForeignPeer
) -> None:
    victim = make_victim()
    stranger.request_connection(victim.base_url)

    with victim.app.app_context():
        found = {name: queue.length(name) for name in queue.QUEUES}
        for _ in range(100):
            requests.check_due(limit=5)
        after = queue.length(queue.STRANGERS)

    assert {name for name, count in found.items() if count} == {queue.STRANGERS}
    assert worker.FAILING[-1] == queue.STRANGERS
    assert queue.STRANGERS not in worker.ORDINARY
    assert after <= 6


def test_an_unknown_key_makes_us_read_a_document_once_in_ten_seconds(
    make_victim: MakeVictim, make_peer: MakePeer, stranger: ForeignPeer
) -> None:
    bond = bind(make_victim(), make_peer())
    before = len(bond.peer.seen(DOCUMENT_PATH))

    for _ in range(5):
        claim = Transport(instance_id=bond.peer.instance_id, key_id=f"k-{new_id()[:8]}")
        assert stranger.post(bond.base_url, EVENT, b"{}", claim).status == 401

    assert len(bond.peer.seen(DOCUMENT_PATH)) - before == 1


def test_peers_that_hang_occupy_few_threads(
    make_victim: MakeVictim, make_peer: MakePeer, stranger: ForeignPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "LOOKUPS", threading.BoundedSemaphore(1))
    victim = make_victim()
    hanging, other = bind(victim, make_peer()), bind(victim, make_peer())
    hanging.peer.always_answer(DOCUMENT_PATH, Reply(hangs=True))
    before, first = len(hanging.peer.received), Transport(instance_id=hanging.peer.instance_id)
    waiting = threading.Thread(target=stranger.post, args=(victim.base_url, EVENT, b"{}", first))
    waiting.start()
    hanging.peer.wait_until(lambda: len(hanging.peer.received) > before, "the document is asked for")

    second = Transport(instance_id=other.peer.instance_id)
    answered = stranger.post(victim.base_url, EVENT, b"{}", second)
    hanging.peer.release()
    waiting.join()

    assert refusal(answered) == (503, "overloaded")
    assert stranger.post(victim.base_url, EVENT, b"{}", second).status == 401


def test_refused_requests_do_not_fill_the_log(
    make_victim: MakeVictim, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "REFUSED_LINES_PER_MINUTE", 3)
    victim = make_victim()

    with caplog.at_level(logging.INFO):
        for _ in range(6):
            exchange(victim.base_url, "POST", EVENT, JSON, b"{}")

    assert [record.message for record in caplog.records].count("peer.refused") == 3


# --- slow callers ---


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a real web server with one thread, which waits 0.5 s for a request."""
    folder: Path = tmp_path_factory.mktemp("impatient")
    bind_to = f"127.0.0.1:{engines.free_port()}"
    settings = {"DATA_DIR": str(folder), "BIND": bind_to, "WEB_WORKERS": "1", "WEB_THREADS": "1"}
    config = Config.from_env(settings)
    listener = server.listen(config.bind)
    pid = os.fork()
    if pid == 0:
        server.PATIENCE_S = 0.5
        _serve(create_app(config), config, listener)
    listener.close()
    yield int(bind_to.rpartition(":")[2])
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _serve(app: Flask, config: Config, listener: socket.socket) -> None:
    code: object = 1
    try:
        server.serve(app, config, listener)
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code if isinstance(code, int) else 1)


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        b"POST " + EVENT.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n{",
        b"POST " + EVENT.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
    ids=["headers", "body", "chunks"],
)
def test_a_caller_who_does_not_go_on_occupies_no_thread_for_long(impatient: int, beginning: bytes) -> None:
    slow = [socket.create_connection(("127.0.0.1", impatient), timeout=20) for _ in range(3)]
    for one in slow:
        one.sendall(beginning)

    good = exchange(f"http://127.0.0.1:{impatient}", "GET", "/healthz", [], None)
    ends = [_read_to_the_end(one) for one in slow]

    assert good.status == 200
    assert all(end == b"" or end.startswith(b"HTTP/1.1 4") for end in ends)


def _read_to_the_end(connection: socket.socket) -> bytes:
    """What came until the other side closed; TimeoutError if it does not."""
    read = b""
    with connection:
        try:
            while data := connection.recv(65_536):
                read += data
        except ConnectionResetError:
            pass
    return read


# --- bombs ---


def test_a_compressed_body_is_refused_unread(bond: Bond) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    encoded = Transport(headers=[("Content-Encoding", "gzip")])

    with bond.victim.unchanged():
        answered = bond.peer.post(bond.base_url, EVENT, bomb, encoded)

    assert refusal(answered) == (415, "unsupported_media_type")


def test_a_compressed_answer_is_not_inflated(
    serve: Callable[..., HostileServer], make_client: Callable[..., Client]
) -> None:
    bomb = answer(gzip.compress(b" " * 40_000_000), headers=("Content-Encoding: gzip",))
    hostile, client = serve(always(bomb)), make_client()
    tracemalloc.start()

    try:
        with pytest.raises(TransportError):
            client.get(f"http://127.0.0.1:{hostile.port}/")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 5_000_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"payload":' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"payload":[' + b"1," * 20_000 + b"1]}",
    ],
    ids=["unclosed", "objects", "deeper-than-32", "more-than-10000-values"],
)
def test_deep_or_wide_json_is_refused(bond: Bond, body: bytes) -> None:
    with bond.victim.unchanged():
        answered = bond.peer.post(bond.base_url, EVENT, body)

    assert refusal(answered) == (400, "invalid_request")


@pytest.mark.parametrize(
    "number", ["1e400", "-1e999", "9007199254740993", "1" * 5_000, "1e" + "9" * 5_000, "NaN", "Infinity"]
)
@pytest.mark.parametrize("member", ["timestamp", "payload"])
def test_huge_numbers_are_refused(bond: Bond, number: str, member: str) -> None:
    event = {**bond.peer.event("task.created"), "payload": {"n": 1}, member: "@"}
    body = json.dumps(event).replace('"@"', f'{{"n": {number}}}' if member == "payload" else number).encode()

    with bond.victim.unchanged():
        answered = bond.peer.post(bond.base_url, EVENT, body)

    assert refusal(answered) == (400, "invalid_request")


@pytest.mark.parametrize(
    "again", ['"eventType":"task.deleted",', '"\\u0065ventType":"task.deleted",', '"payload":{},']
)
def test_duplicate_keys_are_refused(bond: Bond, again: str) -> None:
    body = json.dumps(bond.peer.event("task.created", {"a": 1})).replace("{", "{" + again, 1).encode()

    with bond.victim.unchanged():
        answered = bond.peer.post(bond.base_url, EVENT, body)

    assert refusal(answered) == (400, "invalid_request")


@pytest.mark.parametrize("path", [EVENT, EVENTS, CONNECTION])
def test_a_body_that_is_too_large_is_refused(bond: Bond, path: str) -> None:
    with bond.victim.unchanged():
        answered = bond.peer.post(bond.base_url, path, b" " * 1_048_577)

    assert refusal(answered) == (413, "too_large")


def test_an_event_that_is_too_large_is_refused(bond: Bond) -> None:
    event = bond.peer.event("task.created", {"filler": "x" * 66_000})

    with bond.victim.unchanged(SEEN):
        answered = bond.peer.send_event(bond.link.remote, event, bond.link)

    assert refusal(answered) == (413, "too_large")


def test_a_batch_of_too_many_events_is_refused(bond: Bond) -> None:
    event = bond.peer.event("task.created")
    batch = bond.peer.batch(bond.link, [(number, event) for number in range(1, MAX_BATCH_EVENTS + 2)])

    with bond.victim.unchanged():
        answered = bond.peer.send_batch(bond.link, batch)

    assert refusal(answered) == (413, "too_large")
