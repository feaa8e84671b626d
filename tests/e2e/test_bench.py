"""The benchmark works: a small run of it, and what is made of its figures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.dom import minidom

import pytest

from app.config import ROOT
from bench import report

#: Some twenty seconds, and many times that beside other work.
pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The figures of a small run, on SQLite: what PostgreSQL has of its own are rows, tested with plans."""
    out = tmp_path_factory.mktemp("bench") / "figures.json"
    command = [sys.executable, "-m", "bench", "--smoke", "--engine", "sqlite", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(out.read_text())
    assert done.stdout.count("\n") == len(found)
    return found


def test_a_small_run_of_the_benchmark_measures_every_figure(figures: list[dict[str, Any]]) -> None:
    paged = [figure for figure in figures if figure["name"].startswith(report.PAGE)]

    assert len(figures) - len(paged) == 20
    assert len(paged) >= 60
    assert all(figure["measured"] > 0 for figure in figures if figure["unit"] in ("/s", "ms", "s"))


def test_a_run_is_kept_and_shown(
    figures: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LATEST", "HISTORY", "TEXT", "PICTURE"):
        monkeypatch.setattr(report, name, tmp_path / name)
    report.TEXT.write_text(f"Before.\n{report.BEGIN}\nold\n{report.END}\nAfter.\n")

    report.save(figures)
    report.save(figures)

    assert len(report.HISTORY.read_text().splitlines()) == 3
    text = report.TEXT.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert f"| {report.BATCH} |" in text
    assert "old" not in text.split("lone event")[0]
    picture = minidom.parseString(report.PICTURE.read_text())  # noqa: S318 - our own
    assert len(picture.getElementsByTagName("rect")) == len(report.OTHERS) + 2 + 2 + 1


def test_the_page_shows_what_was_kept() -> None:
    run = json.loads(report.LATEST.read_text())
    text = report.TEXT.read_text()

    assert report.filled(text, run) == text
    assert report.picture(run) == report.PICTURE.read_text()
