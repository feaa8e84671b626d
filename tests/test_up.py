"""The parts of `flask up` run one by one, for those who use an init system."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app import create_app, embedded, queue
from app.config import ROOT, Config
from tests.e2e.instance import Instance
from tests.engines import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Instance]:
    """An instance whose Valkey runs and whose database is up to date; nothing else of it runs."""
    made = Instance("alpha", tmp_path, WEB_WORKERS="1")
    data = Path(made.environ["DATA_DIR"])
    data.mkdir()
    server = subprocess.Popen(embedded.command(data))
    made.environ["REDIS_URL"] = f"unix://{embedded.socket_path(data)}"
    yield made
    server.kill()
    server.wait()


def test_web_worker_and_scheduler_run_apart_and_end_when_asked(parts: Instance) -> None:
    assert parts.run("db", "upgrade").returncode == 0
    commands = (("web",), ("worker",), ("worker", "--failing"), ("schedule",))
    log = parts.log_path.open("w")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "flask", *command],
            stderr=log,
            cwd=ROOT,
            env=dict(os.environ) | {"FLASK_SKIP_DOTENV": "1"} | parts.environ,
        )
        for command in commands
    ]
    app = create_app(Config.from_env(parts.environ))
    with app.app_context():
        until(lambda: len(queue.live_workers()) == 2, "both workers")
        until(lambda: queue.redis_client().exists("tidings:turn:app.jobs.maintenance.sweep"), "a sweep")
        queue.redis_client().close()
    until(lambda: requests.get(f"{parts.base_url}/", timeout=5).status_code == 200, "the page")

    for process in running:
        process.send_signal(signal.SIGTERM)

    assert [process.wait(30) for process in running] == [0, 0, 0, 0]
    log.close()
    assert "Traceback" not in parts.log()


def test_a_port_that_is_taken_stops_the_web_part_with_one_line(parts: Instance) -> None:
    parts.environ["BIND"] = "192.0.2.1:5000"

    ended = parts.run("web")

    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith("Error: BIND is '192.0.2.1:5000'")
