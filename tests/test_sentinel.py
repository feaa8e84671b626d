"""REDIS_URL by Sentinel: the server in use dies, another takes its place, and the app goes on by itself."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from app import create_app, embedded, queue
from app.config import Config
from tests.engines import free_port, until


class Watched(NamedTuple):
    """A server in use, one that follows it, and the sentinel that watches both."""

    master: "subprocess.Popen[bytes]"
    url: str


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Two servers and a sentinel, each listening on a port of its own."""
    master, follower, sentinel = free_port(), free_port(), free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {sentinel}\ndir {tmp_path}\n"
        f"sentinel monitor main 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds main 300\n"
        "sentinel failover-timeout main 3000\n"
    )
    common = ["--save", "", "--dir", str(tmp_path), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"]
    server = embedded.command(tmp_path)[0]
    with contextlib.ExitStack() as started:

        def run(*arguments: str) -> "subprocess.Popen[bytes]":
            process = subprocess.Popen([server, *arguments], stdout=subprocess.DEVNULL)
            started.callback(process.wait)
            started.callback(process.kill)
            return process

        first = run("--port", str(master), *common)
        run("--port", str(follower), *common, "--replicaof", "127.0.0.1", str(master))
        run(str(config), "--sentinel")
        with redis.Redis(port=sentinel) as watcher:
            until(lambda: watcher.sentinel_master("main")["num-slaves"] == 1, "the sentinel to see both")
        with redis.Redis(port=follower) as client:
            until(lambda: client.info("replication")["master_link_status"] == "up", "the follower")
        yield Watched(first, f"sentinel://127.0.0.1:{sentinel}/main/0")


def test_the_queue_goes_on_with_the_server_that_sentinel_promotes(watched: Watched, tmp_path: Path) -> None:
    app = create_app(Config.from_env({"DATA_DIR": str(tmp_path), "REDIS_URL": watched.url}))
    with app.app_context():
        assert queue.enqueue("app.jobs.maintenance.sweep")
        before = queue.length(queue.MAINTENANCE)

        watched.master.kill()
        until(lambda: queue.enqueue("app.jobs.maintenance.sweep"), "the promoted server")

        assert (before, queue.length(queue.MAINTENANCE)) == (1, 2)
        assert queue.first_use_of_nonce("an-instance", "n" * 16)
        queue.redis_client().close()
