"""Instances for the demo: a folder, a port, a process group, and calls to them.

Whatever ends the demo, nothing is left. The kernel tells `flask up` when the demo is gone, and a shell that
does nothing but wait removes the folder: it reads from a pipe whose other end the demo and both instances
hold, so it goes on when the last of them has ended.
"""

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from app import processes
from app.config import ROOT, SETTINGS

T = TypeVar("T")

#: Longest wait for an instance to start or to end, s.
START_S = 60.0
STOP_S = 20.0
#: Longest wait for something that should happen at once, s.
HAPPEN_S = 45.0


class StoryBroken(Exception):
    """Something did not go as it must; its text is one line."""


class Folder:
    """A folder that is removed when this process and all who inherited `hold` have ended."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True)
        self.path = path
        read_end, self.hold = os.pipe()
        # The shell is in a session of its own: Ctrl-C must not reach it.
        self._remover = subprocess.Popen(  # noqa: S603 - constant script, our own path
            ["/bin/sh", "-c", 'cat >/dev/null; rm -rf -- "$0"; rmdir -- "${0%/*}" 2>/dev/null', str(path)],
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_end)

    def remove(self) -> None:
        """Let go, and wait until the folder is gone. Whoever still holds it is waited for, up to STOP_S."""
        os.close(self.hold)
        try:
            self._remover.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            raise StoryBroken(f"a process of the demo does not end and keeps {self.path}") from None


class ClaimedPort(NamedTuple):
    """A port, and what keeps other demos off it while an instance starts there."""

    number: int
    claim: socket.socket


class DemoInstance:
    """One instance: made by `flask init`, run by `flask up`."""

    def __init__(self, name: str, folder: Folder, port: ClaimedPort) -> None:
        self.name = name
        self._port = port
        self.base_url = f"http://127.0.0.1:{port.number}"
        self.log = folder.path / f"{name}.log"
        self.data_dir = folder.path / name
        self.env_file = folder.path / f"{name}.env"
        self._hold = folder.hold
        self._settings = {
            "BASE_URL": self.base_url,
            "BIND": f"127.0.0.1:{port.number}",
            "DATA_DIR": str(self.data_dir),
            "INSTANCE_NAME": name,
            "INSTANCE_LABEL": "DEMO",
            "FEDERATION_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        self._process: subprocess.Popen[bytes] | None = None
        #: What `flask init` said.
        self.made: dict[str, Any] = {}
        #: Bearer token that `call` uses.
        self.token = ""

    def make(self) -> None:
        """Database, keys, first workspace and admin; and the settings as a file, for `flask -e FILE`."""
        lines = {"FLASK_APP": str(ROOT / "wsgi.py")} | self._settings  # FLASK_APP: from any folder
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        self.made = self.flask("init")

    def start(self) -> None:
        """Begin `flask up` in a process group of its own; `wait_ready` waits for it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command("up"),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=(self._hold,),
                # In the child: SIGTERM when the demo is gone, however that happens.
                preexec_fn=partial(processes.end_with_parent, os.getpid(), signal.SIGTERM),
            )

    def wait_ready(self) -> None:
        """Wait for the line `ready BASE_URL`. Raises StoryBroken with the last line of the log."""
        if self._process is None or self._process.stdout is None:
            raise StoryBroken(f"{self.name} was not started")
        deadline = time.monotonic() + START_S
        said = b""
        while f"ready {self.base_url}".encode() not in said:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise StoryBroken(
                    f"{self.name} did not say ready within {START_S:.0f} s: {self._last_words()}"
                )
            chunk = os.read(self._process.stdout.fileno(), 4096)
            if not chunk:
                raise StoryBroken(f"{self.name} ended at its start: {self._last_words()}")
            said += chunk

    def is_up(self) -> bool:
        """Whether its `flask up` runs."""
        return self._process is not None and self._process.poll() is None

    def process_group(self) -> int | None:
        """The process group that `flask up` and all its children are in."""
        return self._process.pid if self._process else None

    def ask_to_stop(self) -> None:
        """Ask `flask up` to end, without waiting."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Wait until it has ended; what is left of its group after STOP_S is killed."""
        if self._process is None:
            return
        self.ask_to_stop()
        try:
            self._process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def flask(self, *arguments: str) -> dict[str, Any]:
        """Run a command of this instance with `-o json`. Raises StoryBroken with the line it printed."""
        done = subprocess.run(  # noqa: S603 - our own program
            self._command(*arguments, "-o", "json"),
            cwd=ROOT,
            capture_output=True,
            check=False,
            timeout=START_S,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise StoryBroken(f"`flask {' '.join(arguments)}` of {self.name} failed: {said}")
        document: dict[str, Any] = orjson.loads(done.stdout)
        return document

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call the API, `path` below /api/v1/federation. Raises StoryBroken if the answer is no 2xx."""
        connection = http.client.HTTPConnection(self.base_url.removeprefix("http://"), timeout=HAPPEN_S)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            content = None if body is None else orjson.dumps(body)
            connection.request(method, f"/api/v1/federation{path}", content, headers)
            answer = connection.getresponse()
            raw = answer.read()
        except OSError as error:
            raise StoryBroken(f"{self.name} does not answer {method} {path}: {error}") from None
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            said = " ".join(raw.decode(errors="replace").split())[:500]
            raise StoryBroken(f"{self.name} answers {answer.status} to {method} {path}: {said}")
        document: dict[str, Any] = orjson.loads(raw) if raw else {}
        return document

    def _command(self, *arguments: str) -> list[str]:
        # Settings of the person who runs the demo, a production database above all, must not reach it.
        settings = {setting.name: "" for setting in SETTINGS} | self._settings | {"FLASK_SKIP_DOTENV": "1"}
        assignments = [f"{name}={value}" for name, value in settings.items()]
        return ["/usr/bin/env", *assignments, sys.executable, "-m", "flask", *arguments]

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "its log is empty"


def wait_for(what: str, look: Callable[[], T | None]) -> T:
    """What `look` finds, asked again and again. Raises StoryBroken after HAPPEN_S."""
    deadline = time.monotonic() + HAPPEN_S
    pause_s = 0.005
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise StoryBroken(f"waited {HAPPEN_S:.0f} s in vain: {what}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)


def claim_ports(wanted: Sequence[int]) -> list[ClaimedPort]:
    """The wanted ports of the loopback address; for each that is taken, one of the next that is free."""
    found: list[ClaimedPort] = []
    for number in wanted:
        while (claim := _claim(number)) is None:
            number += len(wanted)
        found.append(ClaimedPort(number, claim))
    return found


def _claim(port: int) -> socket.socket | None:
    """A name that only one demo can hold until it ends, if the port is free; else None."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        if sys.platform == "linux":
            claim.bind(f"\0tidings-demo-{port}")
        if _is_free(port):
            return claim
    except OSError:
        pass  # Another demo has it, and starts an instance there.
    claim.close()
    return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
