"""An instance as its people see it: started by `flask up`, called by HTTP, told by `flask ...`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import requests

from app.config import ROOT, SETTINGS
from tests.engines import free_port, until

T = TypeVar("T")

API = "/api/v1/federation"
#: How long `flask up` may take to answer, in seconds; a busy machine is slow.
_READY_WITHIN_S = 60.0


class Answer(NamedTuple):
    """What the API answered."""

    status: int
    body: Any
    headers: dict[str, str]


class CommandFailed(Exception):
    """A command ended with another exit code than 0."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        super().__init__(f"exit code {process.returncode}: {process.stderr.strip()}")
        self.code = process.returncode
        self.stderr = process.stderr


class Instance:
    """One whole instance in a folder of its own, in processes of its own."""

    def __init__(self, name: str, folder: Path, **environ: str) -> None:
        self.name = name
        self.folder = folder
        port = free_port()
        self.base_url = f"http://127.0.0.1:{port}"
        self.environ = {
            "BASE_URL": self.base_url,
            "BIND": f"127.0.0.1:{port}",
            "DATA_DIR": str(folder / "data"),
            "INSTANCE_NAME": name,
            "FEDERATION_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
            "WEB_THREADS": "8",
            **environ,
        }
        self.token = ""
        #: Where its code is; a folder with another version of it, for an upgrade.
        self.root = ROOT
        self._process: subprocess.Popen[str] | None = None
        self._session = requests.Session()
        self._session.trust_env = False

    # Life

    def start(self, init: bool = True) -> "Instance":
        """Run `flask init` if nobody did, then `flask up` until it says that it is ready."""
        if init and not self.token:
            self.token = self.cli("init", "-o", "json")["token"]
        log = self.log_path.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            self._command("up"),
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.root,
            env=self._environment(),
            start_new_session=True,
        )
        log.close()
        line = self._first_line()
        if line != f"ready {self.base_url}\n":
            raise AssertionError(
                f"{self.name} is not ready but says {line!r}; its log ends:\n{self.log()[-4000:]}"
            )
        return self

    def _first_line(self) -> str:
        process = self._running()
        assert process.stdout is not None
        timer = threading.Timer(_READY_WITHIN_S, process.kill)
        timer.start()
        try:
            return process.stdout.readline()
        finally:
            timer.cancel()

    def stop(self, number: int = signal.SIGTERM, within_s: float = 40.0) -> int:
        """Ask `flask up` to end, and wait for it; its exit code. Does nothing if it does not run."""
        self._session.close()
        if self._process is None:
            return 0
        process, self._process = self._process, None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            return process.wait(within_s)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def kill9(self, part: str) -> int:
        """Kill a part (`valkey`, `web`, `worker 1`, `worker failing`, `scheduler`) or `up`; its pid."""
        pid = self._running().pid if part == "up" else self.pid(part)
        os.kill(pid, signal.SIGKILL)
        if part == "up":
            self.stop(signal.SIGKILL)
        return pid

    def pid(self, part: str) -> int:
        """The pid with which the supervisor last started the part."""
        pids = [line["pid"] for line in self.log_lines("supervisor.started") if line["part"] == part]
        return int(pids[-1])

    @property
    def supervisor_pid(self) -> int:
        """The pid of `flask up`."""
        return self._running().pid

    def pids(self) -> set[int]:
        """All processes that the supervisor ever started, and the supervisor."""
        started = {int(line["pid"]) for line in self.log_lines("supervisor.started")}
        return started | ({self._process.pid} if self._process else set())

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, f"{self.name} is not up"
        return self._process

    # Words

    @property
    def log_path(self) -> Path:
        """Where its processes log to."""
        return self.folder / "log"

    def log(self) -> str:
        """All that its processes logged."""
        return self.log_path.read_text(encoding="utf-8") if self.log_path.exists() else ""

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        lines = (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("event") == event]

    def run(self, *args: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run `flask ARGS` beside it, whatever the exit code."""
        return subprocess.run(
            self._command(*args),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            input=given,
            cwd=self.root,
            env=self._environment(),
        )

    def cli(self, *args: str) -> Any:
        """Run `flask ARGS`; its stdout as JSON if it is that, else as text. Raises CommandFailed."""
        process = self.run(*args)
        if process.returncode:
            raise CommandFailed(process)
        try:
            return json.loads(process.stdout)
        except ValueError:
            return process.stdout

    def _command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "flask", *args]

    def _environment(self) -> dict[str, str]:
        ours = {setting.name for setting in SETTINGS}
        # A command compiled anew each time takes a third longer.
        left_out = ours | {"PYTHONDONTWRITEBYTECODE"}
        inherited = {name: value for name, value in os.environ.items() if name not in left_out}
        return inherited | {"FLASK_SKIP_DOTENV": "1"} | self.environ

    # Calls

    def api(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Call the API with the first token. path: below /api/v1/federation, or whole (/api/…, /healthz)."""
        whole = path if path.startswith(("/api", "/healthz", "/readyz", "/metrics")) else f"{API}{path}"
        sent = {"Authorization": f"Bearer {self.token}"} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        answer = self._session.request(method, f"{self.base_url}{whole}", json=body, headers=sent, timeout=30)
        is_json = "json" in answer.headers.get("Content-Type", "")
        return Answer(answer.status_code, answer.json() if is_json else answer.text, dict(answer.headers))

    def get(self, path: str) -> Any:
        """Body of a GET that must be 200."""
        answer = self.api("GET", path)
        assert answer.status == 200, answer
        return answer.body

    def post(self, path: str, body: Any = None) -> Any:
        """Body of a POST that must be taken (2xx)."""
        answer = self.api("POST", path, {} if body is None else body)
        assert 200 <= answer.status < 300, answer
        return answer.body

    def all(self, path: str) -> list[Any]:
        """All rows of a list, newest first, by following its cursor."""
        rows: list[Any] = []
        joint = "&" if "?" in path else "?"
        page = self.get(f"{path}{joint}limit=200")
        rows += page["data"]
        while page["hasMore"]:
            page = self.get(f"{path}{joint}limit=200&cursor={page['nextCursor']}")
            rows += page["data"]
        return rows

    def wait_for(self, look: Callable[["Instance"], T], what: str, within_s: float = 30.0) -> T:
        """What `look` answers as soon as that is true; it may be refused meanwhile."""
        return until(lambda: look(self), f"{what} at {self.name}", within_s)


def connect(asking: Instance, asked: Instance) -> tuple[str, str]:
    """Connect two instances; the connection's id at each."""
    here = asking.post("/connections/initiate", {"remoteUrl": asked.base_url})["id"]
    there = asked.wait_for(
        lambda other: next(
            (c["id"] for c in other.all("/connections?status=pending") if c["remoteUrl"] == asking.base_url),
            None,
        ),
        "the request",
    )
    asked.post(f"/connections/{there}/accept")
    asking.wait_for(lambda one: one.get(f"/connections/{here}")["status"] == "active", "the acceptance")
    return here, str(there)


def subscribe(subscriber: Instance, publisher: Instance, event_type: str, connection_id: str) -> str:
    """Subscribe and have it approved; the subscription's id at the subscriber."""
    made = subscriber.post("/events/subscribe", {"connectionId": connection_id, "eventType": event_type})
    if made["status"] != "active":
        asked = publisher.wait_for(
            lambda other: next(
                (
                    s["id"]
                    for s in other.all("/events/subscriptions?direction=outgoing&status=pending")
                    if s["eventType"] == event_type
                ),
                None,
            ),
            "the subscription",
        )
        publisher.post(f"/events/subscriptions/{asked}/approve")
        subscriber.wait_for(
            lambda one: any(
                s["id"] == made["id"] and s["status"] == "active" for s in one.all("/events/subscriptions")
            ),
            "the approval",
        )
    return str(made["id"])
