"""The drills in their short form, on each engine."""

import subprocess
import sys

import pytest

from app.config import ROOT

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]


#: All of them on SQLite; on PostgreSQL those in which the database has a part.
NAMES = {
    "sqlite": [],
    "postgresql": [
        *("kill-9", "flushall", "postgresql", "partition", "full-at-sender", "full-at-receiver"),
        *("restore-receiver", "restore-sender", "two-workspaces", "unsubscribe"),
    ],
}


def test_nothing_is_lost_in_any_drill(engine: str) -> None:
    command = [sys.executable, "-m", "drills", "--short", "--engine", engine, "--seed", "1", *NAMES[engine]]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)

    seed, *lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    assert seed == "seed 1"
    assert len(lines) >= 10
    assert all(line.startswith(engine) for line in lines)


def test_a_drill_that_does_not_exist_is_refused_with_the_names_of_those_that_do() -> None:
    command = [sys.executable, "-m", "drills", "kill-10"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "kill-9" in done.stderr
