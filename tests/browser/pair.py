"""The two instances of `flask demo`, for two people in two windows."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from app.config import ROOT, SETTINGS

#: Longest time until both are ready and the story is told, s; a busy machine is slow.
START_S = 180


class Sides(NamedTuple):
    """Something of alpha, and the same of beta."""

    alpha: str
    beta: str


class Demo:
    """`flask demo` in processes of its own, with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        ours = {setting.name for setting in SETTINGS}
        inherited = {name: value for name, value in os.environ.items() if name not in ours}
        self._environ = inherited | {"FLASK_SKIP_DOTENV": "1", "DATA_DIR": str(folder)}
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "flask", "demo"],
            cwd=ROOT,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.said = self._read_until("Ctrl-C stops both")

    def _read_until(self, words: str) -> str:
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if words in line:
                return said
        raise AssertionError(f"the demo never said {words!r} but\n{said}")

    @property
    def links(self) -> Sides:
        """The one-time links that it printed."""
        alpha, beta = re.findall(r"http://\S+/login/link/\S+", self.said)
        return Sides(alpha, beta)

    def tell(self, verb: str, name: str) -> str:
        """`flask demo break beta`, from another shell; what it says when it is done."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "demo", verb, name],
            cwd=ROOT,
            env=self._environ,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout

    def stop(self) -> None:
        """As Ctrl-C does; leaves nothing."""
        self._process.terminate()
        self._process.communicate(timeout=60)
