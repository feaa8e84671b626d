"""JSON at the edge: a strict I-JSON reader and RFC 8785 (JCS) bytes.

Both have a fast path by orjson, which is neither strict nor canonical by itself, and a slow
path that is right by construction. The fast path is taken only where it is provably the same:

    loads      the text is what orjson would write of what it read (so no key is there twice),
               and has no U+0000 and no number that may lie beyond ±(2^53-1)
    canonical  no number is a float that the two print differently, and no two keys sort
               differently by UTF-8 (orjson) and by UTF-16 (JCS)
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import orjson
import rfc8785

from app.protocol.errors import FieldError, InvalidRequest, invalid

#: §1.1, of one message: nesting (the top object is 1) and values (keys do not count).
MAX_DEPTH = 32
MAX_VALUES = 10_000

#: The largest integer that every JSON implementation reads alike (RFC 7493 §2.2).
MAX_INTEGER = 2**53 - 1
#: From here on JCS prints a number with an exponent.
_EXPONENT_FROM = 1e21


def loads(raw: bytes) -> Any:
    """One strict I-JSON value (§1.1), or InvalidRequest.

    Depth and number of values are not checked (`check_message`), since the envelope of a
    batch is counted apart; nesting is capped at orjson's 254 all the same.
    """
    try:
        value = orjson.loads(raw)
        if orjson.dumps(value) == raw and _is_plain(raw):
            return value
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass  # The slow path tells why, or finds that it is right after all.
    try:
        return _loads_strictly(raw)
    except InvalidRequest as refused:
        # The reader does not tell where it is: the pointer is the body's.
        field = FieldError("", "syntax", refused.detail)
        raise InvalidRequest(refused.detail, errors=[field]) from None


#: Digits become "d" and what may follow a number ";", so that two searches find every
#: number that needs a closer look. Translating costs 1 ns a byte, a regular expression 10.
_SHAPES = bytes.maketrans(b"0123456789,]}", b"dddddddddd;;;")


def _is_plain(raw: bytes) -> bool:
    """Whether text that orjson wrote holds no U+0000 and only numbers that §1.1 accepts.

    orjson writes floats from 1e16 on with an exponent, so what JCS would print as an integer
    beyond 2^53 has 16 digits in a row or ends in e16 … e20.
    """
    if raw[-1:] not in (b"}", b"]") or _has_null_character(raw):
        return False
    shapes = raw.translate(_SHAPES)
    return b"dddddddddddddddd" not in shapes and b"edd;" not in shapes


def _loads_strictly(raw: bytes) -> Any:
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
        text = orjson.dumps(value)
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not well-formed UTF-8") from None
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not one JSON value: {error}") from None
    except orjson.JSONEncodeError:
        raise InvalidRequest("the JSON has a lone surrogate or is nested too deeply") from None
    if _has_null_character(text):
        raise InvalidRequest("a string has the character U+0000")
    return value


def _read_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise InvalidRequest("an object has the same key twice")
    return found


def _read_integer(text: str) -> int:
    # Sixteen digits and a sign; int() of a million digits would take seconds.
    if len(text) > 17 or abs(number := int(text)) > MAX_INTEGER:
        raise InvalidRequest("an integer is beyond ±(2^53-1)")
    return number


def _read_float(text: str) -> float:
    return _check_float(float(text))


def _check_float(number: float) -> float:
    if not math.isfinite(number):
        raise InvalidRequest("a number is not finite as a double")
    if MAX_INTEGER < abs(number) < _EXPONENT_FROM:
        raise InvalidRequest("a number would be an integer beyond ±(2^53-1) in JCS")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_read_object,
    parse_int=_read_integer,
    parse_float=_read_float,
    parse_constant=_refuse_constant,
)

#: U+0000 as orjson and JCS write it: a \u0000 whose backslash is not itself escaped.
_NULL_CHARACTER = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def _has_null_character(text: bytes) -> bool:
    # One byte is looked for 20 times as fast as six.
    return b"\\" in text and b"\\u0000" in text and _NULL_CHARACTER.search(text) is not None


def check_message(value: Any, pointer: str = "") -> None:
    """Refuse what is nested deeper than 32 or has more than 10 000 values (§1.1)."""
    _survey(value, pointer)


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of a value, or InvalidRequest if §1.1 lets no receiver accept it.

    Depth and number of values are left to `check_message`.
    """
    return _write(value, _survey(value, limited=False))


def canonical_message(message: dict[str, Any], pointer: str = "", without: Sequence[str] = ()) -> bytes:
    """`check_message`, and `canonical` of the message without some top-level members, in one walk."""
    plain = _survey(message, pointer)
    rest = message.copy()
    for name in without:
        rest.pop(name, None)
    return _write(rest, plain)


_CONTAINERS = (dict, list, tuple)


def _survey(value: Any, pointer: str = "", limited: bool = True) -> bool:
    """Walk level by level, without recursion; True if orjson writes all of it as JCS does.

    What is no plain JSON type (a tuple, a subclass) is left to the slow path. This is the
    inner loop of everything that comes in: 60 ns a value.
    """
    plain = True
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else [[value]]
    depth, count = 0, 1
    while level:
        depth += 1
        below: list[Any] = []
        for container in level:
            count += len(container)
            if limited and (depth > MAX_DEPTH or count > MAX_VALUES):
                raise invalid(pointer, f"more than {MAX_DEPTH} levels or {MAX_VALUES} values", "limit")
            for item in container.values() if isinstance(container, dict) else container:
                kind = type(item)
                if kind is str or kind is int:
                    continue
                if kind is dict or kind is list:
                    below.append(item)
                elif kind is float:
                    plain = _is_plain_float(_check_float(item)) and plain
                elif kind is not bool and item is not None:
                    plain = False
                    if isinstance(item, _CONTAINERS):
                        below.append(item)
        level = below
    return plain and type(value) in _PLAIN_TYPES


_PLAIN_TYPES = frozenset({str, int, float, bool, type(None), dict, list})


def _is_plain_float(number: float) -> bool:
    """Whether orjson prints it as ECMAScript does: a fraction of ordinary size."""
    return 1e-3 <= abs(number) <= MAX_INTEGER and not number.is_integer()


_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_SUBCLASS
_BELOW_ASTRAL = bytes(range(0xF0))


def _write(value: Any, plain: bool) -> bytes:
    text = _write_fast(value) if plain else None
    if text is None:
        text = _write_slowly(value)
    if _has_null_character(text):
        raise InvalidRequest("a string has the character U+0000")
    return text


def _write_fast(value: Any) -> bytes | None:
    try:
        text = orjson.dumps(value, option=_SORTED)
    except orjson.JSONEncodeError:
        return None
    return text if text.isascii() or not _may_sort_differently(text) else None


def _may_sort_differently(text: bytes) -> bool:
    """Code points beyond U+FFFF sort below U+E000 … U+FFFF in UTF-16, above them in UTF-8."""
    if not text.translate(None, _BELOW_ASTRAL):
        return False
    return b"\xee" in text or b"\xef" in text


def _write_slowly(value: Any) -> bytes:
    try:
        return rfc8785.dumps(value)
    except ValueError:  # CanonicalizationError, or UnicodeEncodeError for a surrogate in a key
        raise InvalidRequest("not to be written as I-JSON") from None
