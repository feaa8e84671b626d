"""The start: one line and exit code 2 for a setting that cannot be right, and help all the same."""

import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from app.config import ROOT, SETTINGS


def flask(
    *args: str, program: tuple[str, ...] = ("-m", "flask"), **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with these settings alone."""
    ours = {setting.name for setting in SETTINGS}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [sys.executable, *program, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env=inherited | {"FLASK_SKIP_DOTENV": "1"} | environ,
    )


def test_a_wrong_setting_stops_a_command_with_one_line(tmp_path: Path) -> None:
    ended = flask("up", DATA_DIR=str(tmp_path), BASE_URL="nonsense")

    assert ended.returncode == 2
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("BASE_URL is 'nonsense', which cannot be right. Allowed: http")


def test_a_wrong_setting_stops_any_server_that_imports_the_app(tmp_path: Path) -> None:
    ended = flask(program=("-c", "import wsgi"), DATA_DIR=str(tmp_path), SECRET_KEY="hunter2")

    assert ended.returncode == 2
    assert ended.stderr == "SECRET_KEY has a value, which cannot be right. Allowed: at least 16 characters.\n"


@pytest.mark.parametrize("args", [("--help",), ("up", "--help")])
def test_help_is_shown_with_a_wrong_setting(tmp_path: Path, args: tuple[str, ...]) -> None:
    ended = flask(*args, DATA_DIR=str(tmp_path / "none"), WEB_WORKERS="many")

    assert ended.returncode == 0
    assert "Usage:" in ended.stdout
    assert ended.stderr == ""
    assert not (tmp_path / "none").exists()


def test_help_lists_what_keeps_an_instance_running(tmp_path: Path) -> None:
    ended = flask("--help", DATA_DIR=str(tmp_path))

    assert {"up", "worker", "schedule"} <= {
        line.split()[0] for line in ended.stdout.splitlines() if line.strip()
    }


def test_another_instance_id_than_that_of_the_database_stops_the_start_with_one_line(tmp_path: Path) -> None:
    made = flask("init", DATA_DIR=str(tmp_path))
    other = str(uuid.uuid4())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    ended = flask("up", DATA_DIR=str(tmp_path), INSTANCE_ID=other, BIND=f"127.0.0.1:{port}")

    assert made.returncode == 0
    assert ended.returncode == 1
    said = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1
    assert said[0].startswith(f"INSTANCE_ID is {other}, but this database belongs to ")


@pytest.mark.parametrize("args", [("doctor",), ("connection", "list"), ("instance", "show")])
def test_a_command_that_looks_makes_no_folder_and_no_database(tmp_path: Path, args: tuple[str, ...]) -> None:
    ended = flask(*args, DATA_DIR=str(tmp_path / "mistyped"), DATABASE_URL="")

    assert ended.returncode == 1
    assert "here is no database here" in ended.stdout + ended.stderr
    assert "`flask init`" in ended.stdout + ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_people_wait_for_writes_no_log_lines_for_machines(tmp_path: Path) -> None:
    said = [flask(*args, DATA_DIR=str(tmp_path)) for args in (("init",), ("key", "rotate", "--no-wait"))]

    assert [ended.returncode for ended in said] == [0, 0]
    lines = "".join(ended.stderr for ended in said).splitlines()
    assert not [line for line in lines if line.startswith("{") or " info " in line]
