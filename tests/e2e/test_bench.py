"""The benchmark works: a small run of it."""

import json
import subprocess
import sys

from app.config import ROOT


def test_a_small_run_of_the_benchmark_measures_every_figure(tmp_path, engine):
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench", "--smoke", "--engine", engine, "--out", str(out)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(out.read_text())
    assert len(figures) == 16
    assert all(figure["engine"] == engine for figure in figures)
    assert all(figure["measured"] > 0 for figure in figures if figure["unit"] in ("/s", "ms"))
    assert done.stdout.count("\n") == len(figures)
