"""Log lines: one JSON object, or one line for people; no secrets."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from app import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the lines go; the root logger is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    talkative = {name: logging.getLogger(name).level for name in log.TALKATIVE}
    yield io.StringIO()
    root.handlers[:], root.level = handlers, level
    for name, before in talkative.items():
        logging.getLogger(name).setLevel(before)


def test_a_line_is_one_json_object_with_its_fields(stream: io.StringIO) -> None:
    log.configure(stream, as_json=True)

    logging.getLogger("app.test").info(
        "event.published", extra={"event_id": 7, "raw": b"\xff", "path": stream}
    )

    [line] = stream.getvalue().splitlines()
    found = json.loads(line)
    assert (found["event"], found["level"], found["logger"]) == ("event.published", "info", "app.test")
    assert (found["event_id"], found["raw"]) == (7, "\\xff")
    assert found["time"].endswith("Z")


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
@pytest.mark.parametrize("name", ["sqlalchemy.engine.Engine", "alembic.runtime.migration", "rq.queue"])
def test_no_line_is_written_for_each_statement_or_job(stream: io.StringIO, name: str, level: int) -> None:
    log.configure(stream, as_json=True, level=level)

    logging.getLogger(name).info("SELECT 1")

    assert stream.getvalue() == ""


def test_a_line_for_people_is_short(stream: io.StringIO) -> None:
    log.configure(stream, as_json=False)

    logging.getLogger("app.test").warning("peer.refused", extra={"why": "two words\n"})

    [line] = stream.getvalue().splitlines()
    assert line.endswith(r"warning peer.refused why='two words\n'")


def test_what_sounds_like_a_secret_is_masked_and_long_text_is_cut(stream: io.StringIO) -> None:
    log.configure(stream, as_json=True)

    logging.getLogger("app.test").info("x", extra={"api_token": "tdg_1", "answer": "y" * 10_000})

    found = json.loads(stream.getvalue())
    assert (found["api_token"], len(found["answer"])) == ("***", 4_096)


def test_a_traceback_stands_in_the_same_line(stream: io.StringIO) -> None:
    log.configure(stream, as_json=True)

    try:
        raise ValueError("seven")
    except ValueError as error:
        logging.getLogger("app.test").error("job.failed", exc_info=error)

    [line] = stream.getvalue().splitlines()
    assert "ValueError: seven" in json.loads(line)["exception"]


def test_the_request_id_stands_in_each_line_of_the_request(stream: io.StringIO) -> None:
    log.configure(stream, as_json=True)
    token = log.request_id.set("r-1")

    logging.getLogger("app.test").info("x")
    log.request_id.reset(token)
    logging.getLogger("app.test").info("y")

    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["request_id"] == "r-1"
    assert "request_id" not in second


def test_configuring_twice_writes_once(stream: io.StringIO) -> None:
    log.configure(stream, as_json=True)
    log.configure(stream, as_json=True)

    logging.getLogger("app.test").info("x")

    assert len(stream.getvalue().splitlines()) == 1
