"""docs/explanation/threats.md and the tests of this folder tell the same."""

import ast
import re
from pathlib import Path

from app.config import ROOT

PAGE = ROOT / "docs" / "explanation" / "threats.md"


def rows() -> list[list[str]]:
    """The cells of each attack."""
    tables = [re.split(r" *\| *", line)[1:-1] for line in PAGE.read_text().splitlines() if line[:1] == "|"]
    return [cells for cells in tables if len(cells) == 5 and cells[0] != "attack" and cells[0].strip("-")]


def names_of_tests() -> list[str]:
    """The names of all tests of this folder but those of this file."""
    found = []
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if file != Path(__file__):
            found += [
                node.name
                for node in ast.parse(file.read_text()).body
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            ]
    return found


def test_every_attack_names_its_test_and_every_test_is_named_once() -> None:
    named = [cells[4].strip("`") for cells in rows()]

    assert sorted(named) == sorted(names_of_tests())


def test_every_attack_is_told_once_and_in_whole() -> None:
    attacks = [cells[0] for cells in rows()]

    assert len(set(attacks)) == len(attacks) >= 36
    assert [cells for cells in rows() if not all(cells)] == []


def test_what_stops_an_attack_is_where_the_page_says() -> None:
    missing = []
    for attack, _, _, where, _ in rows():
        path, _, name = where.strip("`").partition(": ")
        words = re.findall(r"^(?:    )?(?:def |class )?(\w+)", (ROOT / path).read_text(), re.MULTILINE)
        missing += [f"{attack}: {where}"] if name not in words else []

    assert missing == []
