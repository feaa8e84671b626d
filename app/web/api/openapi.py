"""The OpenAPI 3.1 document: made from the operations and from the types that validate and answer.

Schemas come from pydantic (JSON Schema 2020-12, which OpenAPI 3.1 is). No extension of Flask writes it,
because our bodies are read strictly (duplicate keys, several media types) before pydantic sees them.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from app.errors import MissingScope, Unauthenticated
from app.protocol.errors import (
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    Problem,
    TooLarge,
    UnsupportedMediaType,
)
from app.web.api.operation import Operation
from app.web.api.shapes import ProblemDocument
from app.web.auth import Scope
from app.web.errors import MEDIA_TYPE
from app.web.json import JSON

Mode = Literal["validation", "serialization"]
Schema = dict[str, Any]

DESCRIPTION = (
    "What the software of one organisation, its operators and its scripts use. Errors are RFC 9457 problem "
    "documents; unknown members and parameters are refused. Times are RFC 3339 in UTC, ids are UUIDs. Lists "
    "take `limit` and `cursor` and answer `data`, `nextCursor`, `hasMore` and a `Link` to the next page. "
    "Every answer carries `X-Request-Id`, taken from the call if it brings one."
)

#: Headers that any answer may carry.
_HEADERS: Schema = {
    "X-Request-Id": {
        "schema": {"type": "string"},
        "description": "Id of the call, in logs and problems too.",
    },
}
_LINK: Schema = {
    "Link": {"schema": {"type": "string"}, "description": 'The next page, rel="next", if there is one.'}
}
_RETRY_AFTER: Schema = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}


class _Untitled(GenerateJsonSchema):
    """A title that only says the member's name again in worse spelling is left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _Schemas:
    """All types of the document, named once."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        wanted: dict[tuple[str, Mode], Any] = {(_key(ProblemDocument), "serialization"): ProblemDocument}
        for operation in operations:
            wanted |= {(_key(kind), "validation"): kind for kind in _inputs(operation)}
            wanted |= {(_key(kind), "serialization"): kind for kind in operation.answers.values()}
        self._found, definitions = TypeAdapter.json_schemas(
            [(key, mode, TypeAdapter(kind)) for (key, mode), kind in wanted.items()],
            ref_template="#/components/schemas/{model}",
            schema_generator=_Untitled,
        )
        self.definitions: Schema = definitions.get("$defs", {})

    def input(self, kind: Any) -> Schema:
        """Schema of what a call brings."""
        return self._found[(_key(kind), "validation")]

    def output(self, kind: Any) -> Schema:
        """Schema of what a call answers."""
        return self._found[(_key(kind), "serialization")]


def _key(kind: Any) -> str:
    """A type's name; types that are only made up of others have their parts' names in it."""
    return str(kind)


def _inputs(operation: Operation) -> list[Any]:
    kinds = [operation.body, *operation.other_bodies.values()]
    return [kind for kind in kinds if kind is not None]


def document(operations: list[Operation], base_url: str, version: str) -> Schema:
    """The whole document for an instance at `base_url`."""
    schemas = _Schemas(operations)
    paths: dict[str, Schema] = defaultdict(dict)
    for operation in operations:
        paths[_path(operation.rule)][operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidings", "version": version, "description": DESCRIPTION},
        "servers": [{"url": base_url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": dict(paths),
        "components": {
            "schemas": dict(sorted(schemas.definitions.items())),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "tdg_…",
                    "description": "A token of one workspace. Scopes: " + ", ".join(Scope) + ".",
                }
            },
        },
    }


def _path(rule: str) -> str:
    """`/events/messages/<message_id>` → `/events/messages/{messageId}`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: "{" + _camel(found[1]) + "}", rule)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _operation(operation: Operation, schemas: _Schemas) -> Schema:
    described: Schema = {
        "operationId": _camel(operation.name),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
        "security": [{"bearer": []}] if operation.scopes else [],
    }
    text = operation.description
    if operation.scopes:
        text = f"{text}\n\nScope: {' or '.join(f'`{scope}`' for scope in operation.scopes)}.".strip()
    if text:
        described["description"] = text
    if operation.body is not None:
        kinds = {JSON: operation.body, **operation.other_bodies}
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {media_type: {"schema": schemas.input(kind)} for media_type, kind in kinds.items()},
        }
    return described


def _parameters(operation: Operation) -> list[Schema]:
    found: list[Schema] = [
        {"name": _camel(name), "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in re.findall(r"<(?:\w+:)?(\w+)>", operation.rule)
    ]
    found += _query_parameters(operation.query)
    found += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": meaning,
            "schema": {"type": "string"},
        }
        for name, meaning in operation.headers.items()
    ]
    return found


def _query_parameters(query: type[BaseModel] | None) -> list[Schema]:
    if query is None:
        return []
    properties: Mapping[str, Schema] = query.model_json_schema(
        mode="validation", schema_generator=_Untitled
    ).get("properties", {})
    found = []
    for name, schema in properties.items():
        schema = _without_null(schema)
        description = schema.pop("description", None)
        parameter = {"name": name, "in": "query", "required": False, "schema": schema}
        found.append(parameter | ({"description": description} if description else {}))
    return found


def _without_null(schema: Schema) -> Schema:
    """A parameter is there or not; it is never null."""
    schema = {name: value for name, value in schema.items() if not (name == "default" and value is None)}
    choices = schema.pop("anyOf", None)
    if choices is None:
        return schema
    [choice] = [choice for choice in choices if choice.get("type") != "null"]
    return {**schema, **choice}


def _responses(operation: Operation, schemas: _Schemas) -> Schema:
    found: Schema = {}
    for status, kind in sorted(operation.answers.items()):
        schema = schemas.output(kind)
        is_list = "/Listing" in str(schema) or "nextCursor" in schema.get("properties", {})
        found[str(status)] = {
            "description": _GOOD[status],
            "headers": _HEADERS | (_LINK if is_list else {}),
            "content": {JSON: {"schema": schema}},
        }
    for status, problems in sorted(_problems(operation).items()):
        codes = ", ".join(f"`{problem.code}`" for problem in problems)
        found[str(status)] = {
            "description": f"{problems[0].title}: {codes}" if len(problems) == 1 else codes,
            "headers": _HEADERS | (_RETRY_AFTER if status in (429, 503) else {}),
            "content": {MEDIA_TYPE: {"schema": schemas.output(ProblemDocument)}},
        }
    return found


_GOOD = {200: "Done.", 201: "Made.", 202: "Taken, and goes on by itself."}


def _problems(operation: Operation) -> dict[int, list[type[Problem]]]:
    """The refusals of a call by status."""
    known: list[type[Problem]] = [InternalError, Overloaded]
    if operation.scopes:
        known += [Unauthenticated, MissingScope]
    if operation.scopes or operation.query is not None:
        known.append(InvalidRequest)
    if operation.body is not None:
        known += [UnsupportedMediaType, TooLarge]
    if "<" in operation.rule:
        known.append(NotFound)
    by_status: dict[int, list[type[Problem]]] = defaultdict(list)
    for problem in dict.fromkeys([*known, *operation.problems]):
        if problem.code not in [other.code for other in by_status[problem.status]]:
            by_status[problem.status].append(problem)
    return by_status
