"""Jobs that wait for a peer give up their place; nothing of theirs is lost."""

import logging
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from flask import Flask, current_app

from app.jobs import aside
from app.transport import waiting
from app.transport.client import Client
from app.transport.errors import TransportError
from tests.engines import until


@pytest.fixture
def engine() -> str:
    """No database is looked at."""
    return "sqlite"


class Gate:
    """A call to a peer that lasts until the gate is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.passed: list[int] = []

    def wait(self, number: int) -> None:
        """The job: outside until the gate opens."""
        with waiting.outside():
            assert self.opened.wait(20)
        assert current_app.extensions["tidings"]
        self.passed.append(number)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is opened at the end."""
    made = Gate()
    yield made
    made.opened.set()
    assert aside.finish(20)


def test_a_job_that_waits_outside_steps_aside_and_is_done_later(app: Flask, gate: Gate) -> None:
    aside.may_wait(gate.wait)(7)
    before = (aside.count(), list(gate.passed))

    gate.opened.set()

    assert before == (1, [])
    assert aside.finish(10)
    assert (aside.count(), gate.passed) == (0, [7])


def test_twenty_that_hang_cost_the_next_job_next_to_nothing(app: Flask, gate: Gate) -> None:
    for number in range(20):
        aside.may_wait(gate.wait)(number)

    assert aside.count() == 20
    assert gate.passed == []


def test_when_all_places_are_taken_the_worker_waits_as_ever(
    app: Flask, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "_places", threading.BoundedSemaphore(1))
    aside.may_wait(gate.wait)(1)
    threading.Timer(0.2, gate.opened.set).start()

    aside.may_wait(gate.wait)(2)

    assert 2 in gate.passed


def test_jobs_that_strangers_cause_leave_half_of_the_places_to_others(
    app: Flask, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "_places_of_strangers", threading.BoundedSemaphore(1))
    aside.strangers_may_wait(gate.wait)(1)
    threading.Timer(0.2, gate.opened.set).start()

    aside.may_wait(gate.wait)(2)
    before = (aside.count(), list(gate.passed))
    aside.strangers_may_wait(gate.wait)(3)

    assert before == (2, [])
    assert 3 in gate.passed


def test_a_job_that_works_keeps_its_place_however_long(app: Flask) -> None:
    done: list[float] = []

    def work() -> None:
        until_done = threading.Event()
        threading.Timer(4 * aside.PATIENCE_S, until_done.set).start()
        until_done.wait()
        done.append(1)

    aside.may_wait(work)()

    assert done == [1]


def test_what_a_job_raises_is_raised_at_the_worker(app: Flask) -> None:
    def fail() -> None:
        raise ValueError("no such row")

    with pytest.raises(ValueError, match="no such row"):
        aside.may_wait(fail)()


def test_what_a_job_raises_aside_is_logged(app: Flask, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    def fail(number: int) -> None:
        gate.wait(number)
        raise ValueError("no such row")

    aside.may_wait(fail)(3)

    with caplog.at_level(logging.ERROR):
        gate.opened.set()
        assert aside.finish(10)

    [line] = [record for record in caplog.records if record.message == "job.failed_aside"]
    assert line.__dict__["ids"] == (3,)


def test_a_real_call_to_a_server_that_hangs_is_seen_as_outside() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client((ip_network("127.0.0.0/8"),))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        raised: list[BaseException] = []

        def call() -> None:
            try:
                client.get(url, deadline_s=1.0)
            except TransportError as error:
                raised.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        until(lambda: waiting.for_s(caller) > 0.05, "the call")
        caller.join()

    assert len(raised) == 1
    assert waiting.for_s(caller) == 0.0
