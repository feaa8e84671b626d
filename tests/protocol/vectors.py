"""The two sets of vectors: those an independent peer made (tests/vectors), and our own (docs/vectors)."""

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDERS = {"shared": ROOT / "tests" / "vectors", "published": ROOT / "docs" / "vectors"}


def text(which: str, name: str) -> str:
    """One file of one set, as it is."""
    return (FOLDERS[which] / name).read_text("utf-8")


@cache
def read(which: str, name: str) -> Any:
    """One file of one set."""
    return json.loads(text(which, name))


def cases(name: str, member: str) -> list[tuple[str, Any]]:
    """(set, case) for each case of a list, in both sets."""
    return [(which, case) for which in FOLDERS for case in read(which, name)[member]]


def raw_text(case: dict[str, Any]) -> bytes:
    """The bytes that a case of canonical.json means."""
    if "base64" in case:
        return base64.b64decode(case["base64"])
    if "parts" in case:
        return "".join(text * times for text, times in case["parts"]).encode()
    return str(case["text"]).encode()
