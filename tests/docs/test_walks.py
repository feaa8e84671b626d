"""The commands of README, tutorial and how-to do what the pages say."""

import shutil
from pathlib import Path

import pytest

from app.config import ROOT
from tests.docs.walk import blocks_of, matches, walk
from tests.engines import free_port

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("curl") is None, reason="the pages call curl"),
    pytest.mark.skipif(not (ROOT / ".venv/bin/flask").exists(), reason="the pages call .venv/bin/flask"),
]


@pytest.mark.parametrize(
    ("page", "ports"),
    [
        ("README.md", ("8201", "8202")),
        ("docs/tutorial/first-event.md", ("8201", "8202")),
        ("docs/how-to/connect-two-instances.md", ("8201", "8202")),
        ("docs/how-to/back-up-and-restore.md", ("8201", "8202")),
    ],
)
def test_the_commands_of_a_page_do_what_it_says(page: str, ports: tuple[str, str], tmp_path: Path) -> None:
    replacing = {"/tmp/tidings": str(tmp_path / "t")} | {port: str(free_port()) for port in ports}

    walk(ROOT / page, replacing)


def test_a_text_block_belongs_to_the_shell_block_before_it() -> None:
    page = "```sh\necho a\n```\n\nIt prints:\n\n```text\na\n```\n\n```json\n{}\n```\n\n```sh\necho b\n```\n"

    first, second = blocks_of(page)

    assert (first.script, first.expected) == ("echo a\n", "a\n")
    assert (second.script, second.expected) == ("echo b\n", None)


@pytest.mark.parametrize(
    ("expected", "output", "fits"),
    [
        ("status  active", "id       x\nstatus   active\n", True),
        ("status  active", "status   pending\n", False),
        ("a …\nc", "a b\nc\n", True),
        ("a\n…\nd", "a\nb\nc\nd\n", True),
        ("a\n…\nd", "a\nb\nc\n", False),
        ("(1.0)", "110\n", False),
    ],
)
def test_output_fits_what_a_page_shows(expected: str, output: str, fits: bool) -> None:
    assert matches(expected, output) is fits
