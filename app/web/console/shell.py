"""The same from a shell: lines that work where they are pasted, on the machine of this instance."""

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from app.config import ROOT, settings
from app.web.console import gate

#: What is about the instance as a whole; the other commands work in a workspace.
_OF_THE_INSTANCE = (
    "connection preview", "doctor", "init", "instance", "key", "up", "user", "worker", "workspace",
)  # fmt: skip

#: The workspace that commands work in when none is named.
_DEFAULT = "default"


class Line(NamedTuple):
    """A command as people read it, and as they paste it."""

    short: str
    whole: str


def in_shell(line: str) -> Line:
    """A `flask …` line with the workspace of this page, and with the way to this instance's program.

    Other lines, such as curl, stay as they are.
    """
    program, _, rest = line.partition(" ")
    if program != "flask":
        return Line(line, line)
    workspace = gate.current_workspace()
    is_complete = "--workspace" in rest or f"{rest} ".startswith(
        tuple(f"{name} " for name in _OF_THE_INSTANCE)
    )
    if workspace is not None and workspace.slug != _DEFAULT and not is_complete:
        rest = f"{rest} --workspace {shlex.quote(workspace.slug)}"
    return Line(f"flask {rest}", f"{_program()} {rest}")


def _program() -> str:
    """How to call `flask` for this instance.

    Settings in a file beside the data folder and named as it (as the demo writes them) are named; else they
    are in the environment, or in the `.env` of the folder that the program is in.
    """
    flask = Path(sys.executable).with_name("flask")
    folder = settings().data_dir.resolve()
    file = folder.with_name(f"{folder.name}.env")
    if file.is_file():
        return f"{shlex.quote(str(flask))} -e {shlex.quote(str(file))}"
    inside = flask.relative_to(ROOT) if flask.is_relative_to(ROOT) else flask
    return f"cd {shlex.quote(str(ROOT))} && {shlex.quote(str(inside))}"


def curl(path: str, body: str | None = None, *, is_post: bool = False) -> str:
    """A call of the API from a shell. path: below /api/v1/federation. body: JSON; with one it is a POST."""
    words = ["curl"]
    if body is not None or is_post:
        words.append("-X POST")
    words.append('-H "Authorization: Bearer $TIDINGS_TOKEN"')
    if body is not None:
        words.append(f'-H "Content-Type: application/json" \\\n  -d {shlex.quote(body)}')
    url = f"{settings().base_url}/api/v1/federation{path}"
    return f"{' '.join(words)} \\\n  {shlex.quote(url)}"
