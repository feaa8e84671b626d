"""One instance on several hosts: process groups on one database and one Redis, behind a balancer."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import requests

from drills.wire import Wire
from tests.e2e.instance import Instance
from tests.engines import free_port, until

#: What runs on each host, by name: the arguments of `flask`.
PARTS = {
    "web": ("web",),
    "worker": ("worker",),
    "failing": ("worker", "--failing"),
    "schedule": ("schedule",),
}
_END_WITHIN_S = 40.0


class Host:
    """A host: its own data folder, its own port, and one process of each part."""

    def __init__(self, cluster: "Cluster", name: str) -> None:
        self.name = name
        self._cluster = cluster
        self._folder = cluster.folder / name
        self._folder.mkdir()
        self.port = free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *parts: str) -> None:
        """Start these parts, all if none is named; returns when its web server answers."""
        for part in parts or PARTS:
            with (self._folder / "log").open("ab") as log:
                self._running[part] = subprocess.Popen(
                    [sys.executable, "-m", "flask", *PARTS[part]],
                    cwd=self._cluster.root,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        until(self._answers, f"{self.name}'s web server")

    def replace(self, part: str) -> None:
        """Ask a part to end, wait until it has, and start another: what an upgrade does."""
        process = self._running.pop(part)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_END_WITHIN_S) == 0
        self.start(part)

    def kill9(self) -> None:
        """The host loses its power: all its processes die at once."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def log(self) -> str:
        """All that its processes said."""
        return (self._folder / "log").read_text(encoding="utf-8")

    def _environment(self) -> dict[str, str]:
        own = {"DATA_DIR": str(self._folder), "BIND": f"127.0.0.1:{self.port}", "WEB_WORKERS": "1"}
        return self._cluster._environment() | own

    def _answers(self) -> bool:
        return requests.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5).ok


class Cluster(Instance):
    """An instance whose parts run on hosts; people and peers reach it through its balancer."""

    def __init__(self, folder: Path, balancer: Wire, *, hosts: int, **environ: str) -> None:
        """environ: at least DATABASE_URL and REDIS_URL, which all hosts share."""
        super().__init__(
            "alpha", folder, **{"BASE_URL": balancer.url, "SECRET_KEY": "one key for all hosts", **environ}
        )
        self.base_url = balancer.url
        self.hosts = [Host(self, f"host-{number + 1}") for number in range(hosts)]
        balancer.servers = [("127.0.0.1", host.port) for host in self.hosts]

    def start(self, init: bool = True) -> "Cluster":
        """Make database and token once, then start every host."""
        self.token = self.cli("init", "-o", "json")["token"] if init else self.token
        for host in self.hosts:
            host.start()
        return self

    def stop(self, number: int = signal.SIGTERM, within_s: float = _END_WITHIN_S) -> int:
        """End all hosts at once."""
        for host in self.hosts:
            host.kill9()
        return super().stop(number, within_s)
