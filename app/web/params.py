"""What a call brings: bodies and query strings, read strictly into pydantic types.

The same types make the OpenAPI document, so what it promises is what is checked. A body is strict I-JSON; a
member or a parameter that is not known is refused, since a misspelt filter that is ignored lists everything.
`errors[]` names each bad field by JSON pointer; a query parameter is pointed at as `/name`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar

from flask import Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from app.errors import InvalidRequest
from app.protocol.canonical import loads
from app.protocol.errors import FieldError, TooLarge, UnsupportedMediaType
from app.reports.times import parse_rfc3339
from app.web.json import JSON

#: Bytes that a body may have, but for publishing.
MAX_BODY_BYTES = 1024 * 1024

#: Fields that one answer names at most.
_ERRORS_SHOWN = 50

#: What is read and thrown away of a body that is too large, so that its sender gets to read the answer.
_DRAIN_BYTES = 64 * 1024 * 1024

_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")


class Body(BaseModel):
    """Base of all bodies: camelCase, no member beyond those named, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, frozen=True)


class Query(BaseModel):
    """Base of all query strings."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)


def _whole_number(value: Any) -> Any:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) < 16):
        raise PydanticCustomError("format", "must be a whole number")
    return value


def _time(value: Any) -> int:
    try:
        return parse_rfc3339(value)
    except (ValueError, TypeError):
        raise PydanticCustomError("format", "must be an RFC 3339 time such as 2026-01-01T00:00:00Z") from None


def _uuid(value: str) -> str:
    if not _UUID.fullmatch(value):
        raise PydanticCustomError("format", "must be a UUID")
    return value


#: A time as RFC 3339 outside and as Unix milliseconds inside.
Time = Annotated[int, BeforeValidator(_time), WithJsonSchema({"type": "string", "format": "date-time"})]
Id = Annotated[str, AfterValidator(_uuid), WithJsonSchema({"type": "string", "format": "uuid"})]


class ListQuery(Query):
    """What every list takes."""

    limit: Annotated[int, BeforeValidator(_whole_number), Field(ge=1, le=200)] = Field(
        50, description="Rows of one page."
    )
    cursor: str | None = Field(None, max_length=512, description="`nextCursor` of the page before.")


def read_query(request: Request, model: type[Model]) -> Model:
    """The query string. Raises InvalidRequest for what is unknown, wrong, or there twice."""
    values = request.args
    repeated = [name for name, given in values.lists() if len(given) > 1]
    if repeated:
        raise InvalidRequest(
            f"Query parameter {repeated[0]} is given more than once.",
            errors=[FieldError(f"/{name}", "repeated", "is given more than once") for name in repeated],
        )
    try:
        return model.model_validate(values.to_dict())
    except ValidationError as error:
        raise _refusal(error, "Query parameter") from None


def refuse_query(request: Request) -> None:
    """Pass if there is no query string: a call that takes no parameter knows none."""
    read_query(request, Query)


def read_json(request: Request, max_bytes: int = MAX_BODY_BYTES, media_types: Iterable[str] = (JSON,)) -> Any:
    """The body as strict JSON. Raises UnsupportedMediaType, TooLarge, InvalidRequest."""
    check_media_type(request, media_types)
    return loads(read_bytes(request, max_bytes))


def check_media_type(request: Request, allowed: Iterable[str]) -> str:
    """The body's media type, which must be one of those allowed, as UTF-8 and not encoded further."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("Send the body without Content-Encoding.")
    media_type = request.mimetype
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if media_type not in allowed or charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(f"Send the body as {' or '.join(allowed)} in UTF-8.")
    return media_type


def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The body. Raises TooLarge for more than max_bytes, whether it was declared or not."""
    declared = request.content_length
    if declared is not None and declared > max_bytes:
        _drain(request, _DRAIN_BYTES)
        raise _too_large(max_bytes)
    if declared is not None:
        return request.get_data(cache=False)
    body = request.stream.read(max_bytes + 1)
    if len(body) > max_bytes:
        _drain(request, _DRAIN_BYTES)
        raise _too_large(max_bytes)
    return body


def has_body(request: Request) -> bool:
    """Whether anything was sent."""
    return bool(request.content_length) or "chunked" in request.headers.get("Transfer-Encoding", "").lower()


def validate(adapter: TypeAdapter[Value], value: Any) -> Value:
    """A loaded JSON value as the type says. Raises InvalidRequest that names every bad field."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _refusal(error, "Member") from None


def _drain(request: Request, at_most: int) -> None:
    left = at_most
    while left > 0 and (chunk := request.stream.read(min(left, 65_536))):
        left -= len(chunk)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body may have {max_bytes} bytes.")


#: Our words for what pydantic finds wrong; they go on after the name of the field.
_CODES = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown", "is not known here"),
    "none_required": ("reserved", "is reserved, and null for now"),
    "model_type": ("type", "must be an object"),
    "model_attributes_type": ("type", "must be an object"),
    "dict_type": ("type", "must be an object"),
    "list_type": ("type", "must be an array"),
    "string_type": ("type", "must be a string"),
    "bool_type": ("type", "must be true or false"),
    "int_type": ("type", "must be a whole number"),
    "literal_error": ("choice", "must be {expected}"),
    "greater_than_equal": ("range", "must be {ge} or more"),
    "less_than_equal": ("range", "must be {le} or less"),
    "string_too_short": ("length", "must have {min_length} or more characters"),
    "string_too_long": ("length", "must have {max_length} or fewer characters"),
    "too_short": ("length", "must have {min_length} or more entries"),
    "too_long": ("length", "must have {max_length} or fewer entries"),
    "string_pattern_mismatch": ("format", "must have the form {pattern}"),
}


def _refusal(error: ValidationError, what: str) -> InvalidRequest:
    fields = [_field(details) for details in error.errors(include_url=False)[:_ERRORS_SHOWN]]
    first = fields[0]
    name = first.pointer.lstrip("/") or "body"
    return InvalidRequest(f"{what} {name} {first.detail}.", errors=fields)


def _field(details: ErrorDetails) -> FieldError:
    code, text = _CODES.get(details["type"], ("", ""))
    message = text.format(**details.get("ctx", {})) or details["msg"][:1].lower() + details["msg"][1:]
    return FieldError(pointer(details["loc"]), code or details["type"], message)


def pointer(path: Sequence[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a path of names and indices."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
