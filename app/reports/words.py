"""Words for people: a payload in one line, and text of strangers made harmless to read. Pure."""

import unicodedata
from collections.abc import Iterator
from typing import Any

import orjson

#: Characters of a summary.
SUMMARY_LENGTH = 120
#: Members of a payload that a summary shows at most.
_MEMBERS = 4
#: Characters of one value in a summary.
_VALUE_LENGTH = 40


def visible(text: str) -> str:
    """The text, with characters that steer the display or cannot be seen written as `\\u202e`.

    Line breaks and tabs stay. What a peer sends could otherwise turn a line around, or hide a part of it.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def spoken(code: str) -> str:
    """A code of the protocol inside of a sentence: `connection_refused` is "connection refused"."""
    return code.replace("_", " ")


def summary(payload: Any, length: int = SUMMARY_LENGTH) -> str:
    """The first members of a payload in one line: `order.id "A-81219", total 412.5`.

    >>> summary({"order": {"id": "A-1"}, "paid": True})
    'order.id "A-1", paid true'
    """
    if not isinstance(payload, dict):
        return ""
    parts = [f"{name} {_leaf(value)}" for name, value in _first(_members(payload, ""), _MEMBERS)]
    return shortened(visible(", ".join(parts)).replace("\n", " "), length)


def shortened(text: str, length: int) -> str:
    """The text, cut off with `…` where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _members(value: dict[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    """Names and leaves, one level of objects opened."""
    for name, member in value.items():
        path = before + shortened(name, _VALUE_LENGTH)
        if isinstance(member, dict) and member and not before:
            yield from _members(member, path + ".")
        else:
            yield path, member


def _first(members: Iterator[tuple[str, Any]], most: int) -> Iterator[tuple[str, Any]]:
    for _, member in zip(range(most), members, strict=False):
        yield member


def _leaf(value: Any) -> str:
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    if isinstance(value, list):
        return f"[{len(value)}]"
    if isinstance(value, str):
        return orjson.dumps(shortened(value, _VALUE_LENGTH)).decode()
    return orjson.dumps(value).decode()


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp"):
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
