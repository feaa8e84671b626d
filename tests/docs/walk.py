"""Walks: the shell blocks of a page, run in order, as a reader would who copies each in turn.

A block marked ```sh is run; all blocks of a page share one shell. A block marked ```text right after it is
what the shell block must print, where a line that is `…` stands for any lines, and `…` inside a line for any
text. A block that ends with an error, or prints something else, fails the walk and is named.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.config import ROOT, SETTINGS

#: Longest time for a whole page, s.
PAGE_S = 280

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "=== walk: end of block"


@dataclass
class Block:
    """A shell block, and what it is said to print."""

    number: int
    script: str
    expected: str | None = None


def blocks_of(page: str) -> list[Block]:
    """The shell blocks of a page, each with the text block that follows it."""
    found: list[Block] = []
    end_of_last = 0
    for match in _BLOCK.finditer(page):
        kind, content = match.groups()
        if kind == "sh":
            found.append(Block(len(found) + 1, content))
        elif kind == "text" and found and not page[end_of_last : match.start()].count("\n#"):
            found[-1].expected = content
        end_of_last = match.end()
    return found


def walk(path: Path, replacing: Mapping[str, str]) -> None:
    """Run a page's blocks in a shell. `replacing`: ports and folders of the page, and those of this test."""
    text = path.read_text(encoding="utf-8")
    for old, new in replacing.items():
        assert old in text, f"{path.name} does not mention {old}"
        text = text.replace(old, new)
    blocks = blocks_of(text)
    assert blocks, f"{path.name} has nothing to run"

    printed = _run("\n".join(_traced(block) for block in blocks))

    done = printed.split(_MARK)
    for block, output in zip(blocks, done, strict=False):
        assert len(done) > block.number, (
            f"block {block.number} failed:\n{block.script}\nIt printed:\n{output}"
        )
        assert block.expected is None or matches(block.expected, output), (
            f"block {block.number} was to print\n{block.expected}\nbut printed\n{output}"
        )


def matches(expected: str, output: str) -> bool:
    """Whether the output has the expected lines, with anything for each `…`."""
    parts = [re.escape(part.strip(" ")) for part in re.split(r"^…$\n?|…", expected.strip())]
    pattern = ".*?".join(parts)
    # A page shows columns as they were once; their width is not what it promises.
    return re.search(re.sub(r"(\\ )+", r"[ ]+", pattern), output, re.DOTALL) is not None


def _traced(block: Block) -> str:
    return f"{block.script}\necho '{_MARK}'"


def _run(script: str) -> str:
    """What the script prints on both streams. Whatever it started is ended."""
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = shell.communicate(timeout=PAGE_S)
    finally:
        _end_group(shell.pid)
    return printed


def _environment() -> dict[str, str]:
    """Ours without settings, so that pages run as they would for somebody who has none."""
    mine = {name: value for name, value in os.environ.items() if name not in {row.name for row in SETTINGS}}
    return mine | {"FLASK_SKIP_DOTENV": "1", "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGTERM)
    except ProcessLookupError:
        return
