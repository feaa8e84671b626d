"""Start a whole instance, as `flask up` does, to be tested from outside."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.conformance.subject import Subject
from tests.conformance.wire import new_id

ROOT = Path(__file__).parents[2]


@contextmanager
def instance(folder: Path, **environ: str) -> Iterator[Subject]:
    """An instance with its data in that folder and these settings besides."""
    port, accepted, blocked_id = free_port(), free_port(), new_id()
    environ = {
        "DATA_DIR": str(folder),
        "BASE_URL": f"http://127.0.0.1:{port}",
        "BIND": f"127.0.0.1:{port}",
        "INSTANCE_NAME": "Under test",
        "WEB_WORKERS": "1",
        "RQ_WORKERS": "2",
        "FEDERATION_ALLOWED_NETWORKS": "127.0.0.0/8",
        "FEDERATION_AUTO_GRANT": "auto.**",
        "FEDERATION_AUTO_ACCEPT": f"http://127.0.0.1:{accepted}",
        "FEDERATION_BLOCKED": blocked_id,
        **environ,
    }
    token = json.loads(flask(environ, "init", "-o", "json"))["token"]

    def make_workspace(slug: str) -> str:
        flask(environ, "workspace", "create", slug)
        made = json.loads(flask(environ, "token", "create", "--workspace", slug, "-o", "json"))
        return str(made["token"])

    with _up(environ, folder / "up.log"):
        yield Subject(
            environ["BASE_URL"], token, accepted, blocked_id, make_workspace, partial(flask, environ)
        )


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flask(environ: dict[str, str], *arguments: str) -> str:
    """Run a command of the instance; what it prints."""
    command = [sys.executable, "-m", "flask", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=_inherited() | environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


def _inherited() -> dict[str, str]:
    """The environment without what would set up another instance."""
    names = {"PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "COVERAGE_PROCESS_START"}
    kept = {name: value for name, value in os.environ.items() if name in names}
    return {**kept, "FLASK_SKIP_DOTENV": "1", "PYTHONUNBUFFERED": "1"}


@contextmanager
def _up(environ: dict[str, str], log: Path) -> Iterator[None]:
    """`flask up` from its ready line until the end."""
    command = [sys.executable, "-m", "flask", "up"]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_inherited() | environ, stdout=subprocess.PIPE, stderr=out, text=True
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready "), log.read_text()
            yield
        finally:
            process.terminate()
            process.communicate(timeout=30)
