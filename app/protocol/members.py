"""Read the members of a JSON object, one function for each kind of the protocol's §1.1.

Each returns the value, or raises InvalidRequest at the member's JSON pointer. A required
member that is missing, one of another type, an optional one that is null: all are refused.
"""

import binascii
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Concatenate, ParamSpec, TypeVar

from app.protocol.canonical import MAX_INTEGER
from app.protocol.errors import InvalidRequest, invalid

Object = dict[str, Any]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SLUG = re.compile(r"[a-z0-9-]{1,64}")
_FEATURE = re.compile(r"[a-z0-9_-]{1,64}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_ORIGIN = re.compile(r"(https?)://(?:[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}

Value = TypeVar("Value")
Choice = TypeVar("Choice", bound=StrEnum)
Rest = ParamSpec("Rest")


def _wrong(message: Object, name: str, pointer: str, wanted: str) -> InvalidRequest:
    where = f"{pointer}/{name}"
    if name not in message:
        return invalid(where, "is required", "required")
    if message[name] is None:
        return invalid(where, f"is null; wanted {wanted}", "type")
    return invalid(where, f"wanted {wanted}", "format")


def read_object(value: object, pointer: str) -> Object:
    """The value itself, which must be an object."""
    if isinstance(value, dict):
        return value
    raise invalid(pointer, "wanted an object", "type")


def read_text(message: Object, name: str, pointer: str, limit: int) -> str:
    """A string of 1 to `limit` code points."""
    value = message.get(name)
    if isinstance(value, str) and 0 < len(value) <= limit:
        return value
    raise _wrong(message, name, pointer, f"a string of 1 to {limit} characters")


def read_integer(message: Object, name: str, pointer: str, least: int = 0, most: int = MAX_INTEGER) -> int:
    """An integer in least … most. `1.0` is the integer 1; a boolean is none."""
    value = message.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise _wrong(message, name, pointer, f"an integer in {least} … {most}")


def read_boolean(message: Object, name: str, pointer: str) -> bool:
    """True or false."""
    value = message.get(name)
    if isinstance(value, bool):
        return value
    raise _wrong(message, name, pointer, "true or false")


def read_member_object(message: Object, name: str, pointer: str) -> Object:
    """An object."""
    value = message.get(name)
    if isinstance(value, dict):
        return value
    raise _wrong(message, name, pointer, "an object")


def read_array(message: Object, name: str, pointer: str, most: int | None = None) -> list[Any]:
    """An array of at most `most` items."""
    value = message.get(name)
    if not isinstance(value, list):
        raise _wrong(message, name, pointer, "an array")
    if most is not None and len(value) > most:
        raise invalid(f"{pointer}/{name}", f"more than {most} items", "limit")
    return value


def _read_matching(message: Object, name: str, pointer: str, pattern: re.Pattern[str], wanted: str) -> str:
    value = message.get(name)
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    raise _wrong(message, name, pointer, wanted)


def is_uuid(text: str) -> bool:
    """Whether it is a lower-case UUID of any version."""
    return _UUID.fullmatch(text) is not None


def read_uuid(message: Object, name: str, pointer: str) -> str:
    """A lower-case UUID of any version."""
    return _read_matching(message, name, pointer, _UUID, "a lower-case UUID")


def read_key_id(message: Object, name: str, pointer: str) -> str:
    """`[A-Za-z0-9._-]{1,64}`."""
    return _read_matching(message, name, pointer, _KEY_ID, "a keyId [A-Za-z0-9._-]{1,64}")


def is_slug(text: str) -> bool:
    """Whether a workspace may be called so: `[a-z0-9-]{1,64}`."""
    return _SLUG.fullmatch(text) is not None


def read_slug(message: Object, name: str, pointer: str) -> str:
    """`[a-z0-9-]{1,64}`."""
    return _read_matching(message, name, pointer, _SLUG, "a slug [a-z0-9-]{1,64}")


def read_fingerprint(message: Object, name: str, pointer: str) -> str:
    """64 lower-case hex digits."""
    return _read_matching(message, name, pointer, _FINGERPRINT, "64 lower-case hex digits")


def read_origin(message: Object, name: str, pointer: str) -> str:
    """A `baseUrl` of §2: scheme://host[:port], lower case, no path, no default port.

    Whether such a host may be called is for the transport to say.
    """
    value = message.get(name)
    if isinstance(value, str) and _is_origin(value):
        return value
    raise _wrong(message, name, pointer, "scheme://host[:port] in lower case, without path or default port")


def _is_origin(text: str) -> bool:
    parts = _ORIGIN.fullmatch(text)
    if parts is None:
        return False
    scheme, port = parts.groups()
    return port is None or (int(port) < 65536 and int(port) != _DEFAULT_PORTS[scheme])


def read_choice(message: Object, name: str, pointer: str, choices: type[Choice]) -> Choice:
    """One of the values of an enum."""
    value = message.get(name)
    if isinstance(value, str):
        try:
            return choices(value)
        except ValueError:
            pass
    raise _wrong(message, name, pointer, "one of " + ", ".join(choices))


def decode_base64(text: str) -> bytes | None:
    """The bytes of standard, padded, canonical Base64 (§1.1); None if it is anything else."""
    try:
        data = binascii.a2b_base64(text)
    except ValueError:
        return None
    # The decoder is lenient (foreign characters, unused bits), but only the canonical text
    # comes back from encoding again. Its strict mode takes twice as long and misses the bits.
    return data if encode_base64(data) == text else None


def encode_base64(data: bytes) -> str:
    """Standard Base64 with padding."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def read_base64(message: Object, name: str, pointer: str, size: int | None = None) -> str:
    """Canonical Base64 of at least 1 byte, or of exactly `size`; the text itself."""
    value = message.get(name)
    if isinstance(value, str) and value:
        data = decode_base64(value)
        if data is not None and size in (None, len(data)):
            return value
    raise _wrong(message, name, pointer, "canonical Base64" + (f" of {size} bytes" if size else ""))


def read_names(message: Object, name: str, pointer: str, most: int, limit: int) -> tuple[str, ...]:
    """An array of at most `most` strings of 1 to `limit` characters."""
    where = f"{pointer}/{name}"
    items = read_array(message, name, pointer, most)
    return tuple(read_text({str(i): item}, str(i), where, limit) for i, item in enumerate(items))


def read_features(message: Object, name: str, pointer: str) -> tuple[str, ...]:
    """At most 32 features `[a-z0-9_-]{1,64}`."""
    where = f"{pointer}/{name}"
    return tuple(
        _read_matching({str(i): item}, str(i), where, _FEATURE, "a feature [a-z0-9_-]{1,64}")
        for i, item in enumerate(read_array(message, name, pointer, 32))
    )


def optional(
    read: Callable[Concatenate[Object, str, str, Rest], Value],
    message: Object,
    name: str,
    pointer: str,
    *args: Rest.args,
    **kwargs: Rest.kwargs,
) -> Value | None:
    """What `read` reads, or None if the member is absent. Null is refused, as `read` does."""
    return read(message, name, pointer, *args, **kwargs) if name in message else None
