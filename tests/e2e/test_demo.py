"""`flask demo`: it tells the story, checks it, and leaves nothing, however it ends."""

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests

from app.config import ROOT, SETTINGS
from tests.engines import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

Demos = list["subprocess.Popen[str]"]

#: Longest time for a demo on a busy machine, s.
DEMO_S = 120


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Demos]:
    """Demos that a test started; killed at the end if they still run."""
    demos: list[subprocess.Popen[str]] = []
    yield demos
    for demo in demos:
        demo.kill()
        demo.communicate()


def start(started: Demos, folder: Path, *args: str, **environ: str) -> "subprocess.Popen[str]":
    ours = {setting.name for setting in SETTINGS}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "flask", "demo", *args],
        cwd=ROOT,
        env=inherited | {"FLASK_SKIP_DOTENV": "1", "DATA_DIR": str(folder)} | environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(demo)
    return demo


def read_until(demo: "subprocess.Popen[str]", words: str) -> str:
    """What it says up to the line with these words."""
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if words in line:
            return said
    assert demo.stderr is not None
    raise AssertionError(f"the demo never said {words!r} but\n{said}\n{demo.stderr.read()}")


def processes_of(folder: Path) -> list[str]:
    """Command lines or settings of all processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if os.fsencode(folder) in text and state != "Z":
            found.append(text.decode(errors="replace"))
    return found


def nothing_is_left(folder: Path) -> bool:
    return not processes_of(folder) and not (folder / "demo").exists()


@dataclass(frozen=True)
class Told:
    """What `flask demo --once` said, and what it was run beside."""

    code: int
    said: str
    complaints: str
    folder: Path
    #: Where DATABASE_URL of the person who ran it points to.
    theirs: Path


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A story told to somebody who has settings of their own, on a machine where the first port is taken."""
    folder = tmp_path_factory.mktemp("told")
    theirs = folder / "theirs.db"
    settings = {"DATABASE_URL": f"sqlite:///{theirs}", "REDIS_URL": "redis://127.0.0.1:1"}
    with taken(8101):
        demo = start([], folder / "data", "--once", INSTANCE_NAME="production", **settings)
        try:
            said, complaints = demo.communicate(timeout=DEMO_S)
        finally:
            demo.kill()
    return Told(demo.returncode, said, complaints, folder, theirs)


@contextlib.contextmanager
def taken(port: int) -> Iterator[None]:
    """Listen on a port, unless somebody else does, which is as good."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen()
        yield


def test_the_story_is_told_checked_and_cleaned_up(told: Told) -> None:
    assert told.code == 0, told.complaints
    assert told.complaints == ""
    assert re.search(r"pairing code( \d{5}){6}\n", told.said)
    assert told.said.count("ack      stored, signed by k-") == 3
    assert "nobody subscribed" in told.said
    assert re.search(r"[\d,]+ events/s, in order, none missing, none twice", told.said)
    assert nothing_is_left(told.folder / "data")


def test_ports_that_are_taken_are_left_alone(told: Told) -> None:
    assert told.code == 0, told.complaints
    assert "http://127.0.0.1:8101" not in told.said


def test_settings_of_the_person_who_runs_it_do_not_reach_it(told: Told) -> None:
    assert told.code == 0, told.complaints
    assert "production" not in told.said
    assert not told.theirs.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_nothing_is_left(started: Demos, tmp_path: Path, number: int) -> None:
    demo = start(started, tmp_path)
    said = read_until(demo, "Ctrl-C stops both")

    demo.send_signal(number)
    _, complaints = demo.communicate(timeout=60)

    assert demo.returncode == 0
    assert complaints == "\nStopped; nothing is left.\n"
    assert nothing_is_left(tmp_path)
    assert said.count("tdg_") >= 4


def test_a_demo_that_is_stopped_in_the_middle_says_so(started: Demos, tmp_path: Path) -> None:
    demo = start(started, tmp_path, "--once")
    read_until(demo, "1  Shake hands")

    demo.send_signal(signal.SIGTERM)
    _, complaints = demo.communicate(timeout=60)

    assert demo.returncode == 1
    assert "Error: The demo was stopped" in complaints
    assert nothing_is_left(tmp_path)


def test_a_demo_that_is_killed_leaves_nothing_either(started: Demos, tmp_path: Path) -> None:
    demo = start(started, tmp_path)
    read_until(demo, "both are ready")
    assert len(processes_of(tmp_path)) > 8

    demo.kill()
    demo.communicate()

    assert until(lambda: nothing_is_left(tmp_path), "all to end", 60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Folder of a demo that has told its story and stays, and what it said."""
    folder = tmp_path_factory.mktemp("running")
    demo = start([], folder)
    try:
        yield folder, read_until(demo, "Ctrl-C stops both")
    finally:
        demo.kill()
        demo.communicate()


def test_the_commands_that_it_offers_work(running: tuple[Path, str]) -> None:
    [offered] = re.findall(r"Three commands to try:\n(.*?)\n\n", running[1], re.DOTALL)

    answers = [
        subprocess.run(["bash", "-c", line], cwd="/", capture_output=True, text=True, timeout=60)
        for line in offered.splitlines()
    ]

    assert [answer.returncode for answer in answers] == [0, 0, 0], answers
    assert '"deliveries":1' in answers[0].stdout
    assert "task.created" in answers[1].stdout or "task.progress" in answers[1].stdout
    assert "holds" in answers[2].stdout


def command(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    """Another shell's `flask demo ARGS`."""
    return subprocess.run(
        [sys.executable, "-m", "flask", "demo", *args],
        cwd=ROOT, env=os.environ | {"FLASK_SKIP_DOTENV": "1", "DATA_DIR": str(folder)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_an_instance_can_be_broken_and_healed_from_another_shell(running: tuple[Path, str]) -> None:
    folder, said = running
    links = re.findall(r"(http://\S+)/login/link/\S+", said)
    publish = re.findall(r"^   (curl .*)$", said, re.MULTILINE)[0]

    broken = command(folder, "break", "beta")
    refused = requests.get(links[0] + "/healthz", timeout=10), is_refused(links[1])
    published = subprocess.run(["bash", "-c", publish], capture_output=True, text=True, timeout=60)
    healed = command(folder, "heal", "beta")

    assert (broken.returncode, healed.returncode) == (0, 0), (broken.stderr, healed.stderr)
    assert "flask demo heal beta" in broken.stdout
    assert (refused[0].status_code, refused[1]) == (200, True)
    token = re.findall(r"Bearer (tdg_\S+)'", publish)[0]
    path = f"{links[0]}/api/v1/federation/events/messages/{orjson.loads(published.stdout)['messageId']}"
    until(lambda: get(path, token)["status"] == "delivered", "the event to arrive", 60)
    assert requests.get(links[1] + "/healthz", timeout=10).status_code == 200


def get(url: str, token: str) -> Any:
    """What the API says."""
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10).json()


def is_refused(base_url: str) -> bool:
    """Whether nobody listens there."""
    host, _, port = base_url.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == errno.ECONNREFUSED


def test_without_a_demo_there_is_nothing_to_break(tmp_path: Path) -> None:
    answer = command(tmp_path, "break", "beta")

    assert answer.returncode == 1
    assert answer.stderr == "Error: No demo runs here; start one with `make demo` in another window.\n"


def test_it_does_not_run_beside_a_public_instance(started: Demos, tmp_path: Path) -> None:
    demo = start(started, tmp_path, BASE_URL="https://tidings.example.org")

    said, complaints = demo.communicate(timeout=60)

    assert demo.returncode == 1
    assert said == ""
    assert "https://tidings.example.org" in complaints
