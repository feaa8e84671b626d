"""The API's own pages: the OpenAPI document at /api/openapi.json, and a readable page of it at /api/docs."""

import re
from functools import lru_cache
from typing import Any

from flask import Blueprint, Response, render_template
from markupsafe import Markup, escape

from app.config import settings
from app.federation.identity import SOFTWARE
from app.web.api import api
from app.web.api.openapi import Schema, document
from app.web.json import Answer

bp: Blueprint = Blueprint("api_docs", __name__)


@bp.get("/api/openapi.json")
def openapi() -> Response:
    """The document, for tools."""
    return Answer(_document(settings().base_url), headers={"Cache-Control": "max-age=300"})


@bp.get("/api/docs")
def page() -> str:
    """The document, for people."""
    described = _document(settings().base_url)
    return render_template(
        "api_docs.html", document=described, groups=_groups(described), plain=plain_schema, words=words
    )


@lru_cache(maxsize=4)
def _document(base_url: str) -> Schema:
    return document(api.operations, base_url, SOFTWARE[1])


def _groups(described: Schema) -> dict[str, list[dict[str, Any]]]:
    """Calls by tag, in the document's order."""
    groups: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in described["tags"]}
    for path, methods in described["paths"].items():
        for method, call in methods.items():
            groups[call["tags"][0]].append({"method": method.upper(), "path": path, **call})
    return groups


def words(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def plain_schema(schema: Schema) -> str:
    """A schema in a few words: `string (date-time) or null`, `list of ConnectionDetails`."""
    if "$ref" in schema:
        name: str = schema["$ref"].rpartition("/")[2]
        listed = re.fullmatch(r"Listing_(\w+?)_?", name)
        return f"list of {listed[1]}" if listed else name
    if "anyOf" in schema:
        return " or ".join(plain_schema(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {plain_schema(schema.get('items', {}))}"
    return f"{kind} ({schema['format']})" if "format" in schema else str(kind)
