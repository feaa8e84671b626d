"""The OpenAPI document: complete, well formed, and true."""

import re
from typing import Any

import hypothesis
import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from app.access import tokens
from tests.exchange import Scene

#: Every call of the API's reference.
CALLS = """
    GET /instance
    POST /connections/preview
    POST /connections/initiate
    GET /connections
    GET /connections/{connectionId}
    POST /connections/{connectionId}/accept
    POST /connections/{connectionId}/reject
    POST /connections/{connectionId}/suspend
    POST /connections/{connectionId}/resume
    POST /connections/{connectionId}/disconnect
    POST /connections/{connectionId}/retry-now
    POST /connections/{connectionId}/pause
    POST /connections/{connectionId}/unpause
    POST /connections/{connectionId}/mark-verified
    POST /connections/{connectionId}/keys/accept
    POST /connections/{connectionId}/keys/refuse
    POST /connections/{connectionId}/replay
    GET /connections/{connectionId}/stream
    POST /connections/{connectionId}/verify
    POST /events/subscribe
    POST /events/unsubscribe
    GET /events/subscriptions
    POST /events/subscriptions/{subscriptionId}/approve
    POST /events/subscriptions/{subscriptionId}/reject
    POST /events/subscriptions/{subscriptionId}/revoke
    POST /events/publish
    POST /events/publish/batch
    GET /events/messages
    GET /events/messages/{messageId}
    POST /events/messages/{messageId}/retry
    GET /deliveries
    POST /deliveries/retry
    GET /deliveries/dead/groups
    POST /deliveries/discard
    GET /operations
    GET /operations/{operationId}
    POST /operations/{operationId}/pause
    POST /operations/{operationId}/resume
    POST /operations/{operationId}/cancel
"""

Document = dict[str, Any]


@pytest.fixture
def document(client: FlaskClient) -> Document:
    """The document as served."""
    answer = client.get("/api/openapi.json")
    assert answer.status_code == 200
    found: Document = answer.json
    return found


def calls(document: Document) -> dict[str, Document]:
    return {
        f"{method.upper()} {path.removeprefix('/api/v1/federation')}": call
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    }


def test_the_document_has_exactly_the_calls_of_the_reference(document: Document) -> None:
    wanted = {line.strip() for line in CALLS.strip().splitlines()}

    assert document["openapi"] == "3.1.0"
    assert set(calls(document)) == wanted


def test_each_call_names_itself_its_token_and_its_problems(document: Document) -> None:
    described = calls(document)

    assert len({call["operationId"] for call in described.values()}) == len(described)
    for name, call in described.items():
        assert call["summary"].endswith("."), name
        assert {status for status in call["responses"] if status < "300"}, name
        if name != "GET /instance":
            assert call["security"] == [{"bearer": []}]
            assert {"401", "403", "500"} <= set(call["responses"]), name
        in_path = {found["name"] for found in call["parameters"] if found["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", name))


def test_each_reference_leads_somewhere(document: Document) -> None:
    names = set(re.findall(r"'#/components/schemas/([^']+)'", str(document)))

    assert names
    assert names <= set(document["components"]["schemas"])


def test_unknown_members_are_refused_in_the_document_too(document: Document) -> None:
    schemas = document["components"]["schemas"]

    assert schemas["Subscribe"]["additionalProperties"] is False
    assert schemas["Subscribe"]["required"] == ["connectionId", "eventType"]


def test_the_page_shows_every_call_and_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    answer = client.get("/api/docs")
    page = answer.get_data(as_text=True)

    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for line in CALLS.strip().splitlines():
        assert f"<code>/api/v1/federation{line.split()[1]}</code>" in page
    assert re.findall(r"<(?:script|style|img)|\sstyle=|\son\w+=", page) == []
    assert re.findall(r'(?:src|href)="(?!#|/)[^"]*"', page) == []
    assert "Scope: <code>connections:write</code>." in page
    with client.get("/static/css/docs.css") as style:
        assert style.status_code == 200


def test_whatever_fits_the_document_is_answered_as_it_says(app: Flask, scene: Scene) -> None:
    """Calls made up from the document: no fault, and every answer has a form that the document names."""
    _, secret = tokens.create(scene.workspace.id, "property")
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", app)
    # Those two look up whatever names they are given, and the document itself is another's.
    chosen = schema.exclude(operation_id=["previewConnection", "initiateConnection", "showInstance"])
    checks = [not_a_server_error, content_type_conformance, response_schema_conformance]
    tried = 0
    for result in chosen.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=5,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def call(case: schemathesis.Case) -> None:
            case.call_and_validate(headers={"Authorization": f"Bearer {secret}"}, checks=checks)

        call()
        tried += 1

    assert tried == 36
