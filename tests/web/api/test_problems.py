"""What is refused, and how: always a problem document, never a stack."""

import logging

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.exchange import Scene
from tests.web.api.conftest import PREFIX, Caller


def test_a_path_that_is_not_there_is_a_problem(client: FlaskClient) -> None:
    answer = client.get(f"{PREFIX}/nothing")

    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")
    assert answer.json["code"] == "not_found"
    assert answer.json["type"] == "urn:tidings:error:not_found"


def test_another_method_is_405_with_allow(client: FlaskClient) -> None:
    answer = client.delete(f"{PREFIX}/connections")

    assert (answer.status_code, answer.mimetype) == (405, "application/problem+json")
    assert answer.json["code"] == "method_not_allowed"
    assert "GET" in answer.headers["Allow"]


def test_a_fault_is_500_without_a_word_of_it_and_logged_once(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    app.testing = False  # else Flask hands the exception to the test
    app.view_functions["ops.healthz"] = lambda: 1 / 0

    answer = client.get("/healthz", headers={"X-Request-Id": "abc"})

    assert answer.status_code == 500
    assert answer.json["code"] == "internal_error"
    assert (answer.json["requestId"], answer.headers["X-Request-Id"]) == ("abc", "abc")
    assert "division" not in answer.get_data(as_text=True)
    faults = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in faults] == ["request.failed"]


def test_a_sane_request_id_is_echoed_and_another_is_replaced(client: FlaskClient) -> None:
    kept = client.get("/healthz", headers={"X-Request-Id": "order-7/a"})
    replaced = client.get("/healthz", headers={"X-Request-Id": "a b\tc"})

    assert kept.headers["X-Request-Id"] == "order-7/a"
    assert len(replaced.headers["X-Request-Id"]) == 36


SUBSCRIBE = {"connectionId": "00000000-0000-4000-8000-000000000000", "eventType": "task.*"}


@pytest.mark.parametrize(
    "body, pointer, code",
    [
        ({**SUBSCRIBE, "colour": 1}, "/colour", "unknown"),
        ({"eventType": "task.*"}, "/connectionId", "required"),
        ({**SUBSCRIBE, "eventType": 7}, "/eventType", "type"),
        ({**SUBSCRIBE, "eventType": "*"}, "/eventType", "format"),
        ({**SUBSCRIBE, "filter": {}}, "/filter", "reserved"),
        ({**SUBSCRIBE, "metadata": []}, "/metadata", "type"),
        ([], "", "type"),
    ],
)
def test_a_bad_member_is_named(scene: Scene, caller: Caller, body: object, pointer: str, code: str) -> None:
    answer = caller.post("/events/subscribe", body)

    assert answer.status_code == 400
    assert answer.json["code"] == "invalid_request"
    assert [(error["pointer"], error["code"]) for error in answer.json["errors"]] == [(pointer, code)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b'{"eventType":"a","eventType":"b"}',
        b'{"a": 9007199254740993}',
        b'{"a": "\\ud800"}',
        b"\xff",
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
    ],
)
def test_a_body_that_is_no_strict_json_is_400(scene: Scene, caller: Caller, body: bytes) -> None:
    answer = caller.post("/events/subscribe", body)

    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert [(error["pointer"], error["code"]) for error in answer.json["errors"]] == [("", "syntax")]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_another_media_type_is_415(scene: Scene, caller: Caller, headers: dict[str, str]) -> None:
    answer = caller.post("/events/subscribe", b"{}", headers)

    assert (answer.status_code, answer.json["code"]) == (415, "unsupported_media_type")


def test_a_body_over_a_mebibyte_is_413(scene: Scene, caller: Caller) -> None:
    answer = caller.post("/events/subscribe", b"[" + b" " * 1024 * 1024 + b"]")

    assert (answer.status_code, answer.json["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "query, pointer",
    [
        ({"colour": "red"}, "/colour"),
        ({"limit": "0"}, "/limit"),
        ({"limit": "201"}, "/limit"),
        ({"limit": "ten"}, "/limit"),
        ({"limit": "1.0"}, "/limit"),
        ({"status": ""}, "/status"),
        ({"status": "sleeping"}, "/status"),
        ({"direction": "sideways"}, "/direction"),
        ({"connectionId": "7"}, "/connectionId"),
        ({"eventType": "task.*"}, "/eventType"),
        ({"createdAfter": "yesterday"}, "/createdAfter"),
        ({"createdBefore": "2026-01-01"}, "/createdBefore"),
        ({"order": "asc"}, "/order"),
        ({"order": "asc", "direction": "outgoing"}, "/order"),
        ({"limit": ["1", "2"]}, "/limit"),
    ],
)
def test_a_bad_parameter_is_named(scene: Scene, caller: Caller, query: dict[str, str], pointer: str) -> None:
    answer = caller.get("/events/messages", **query)

    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert answer.json["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    "query, words",
    [
        ({"limit": "201"}, "Query parameter limit must be 200 or less."),
        ({"direction": "sideways"}, "Query parameter direction must be 'incoming' or 'outgoing'."),
        ({"connectionId": "7"}, "Query parameter connectionId must be a UUID."),
        ({"cursor": "x" * 513}, "Query parameter cursor must have 512 or fewer characters."),
    ],
)
def test_what_is_allowed_is_said_in_a_sentence(
    scene: Scene, caller: Caller, query: dict[str, str], words: str
) -> None:
    assert caller.get("/events/messages", **query).json["detail"] == words


def test_a_call_without_parameters_refuses_them(scene: Scene, caller: Caller) -> None:
    answer = caller.get(f"/connections/{scene.connection.public_id}", verbose="1")

    assert answer.status_code == 400
    assert answer.json["errors"][0]["pointer"] == "/verbose"


def test_an_id_that_is_none_is_404(scene: Scene, caller: Caller) -> None:
    answers = [
        caller.get("/connections/7"),
        caller.get("/events/messages/7"),
        caller.get("/events/messages/%00"),
        caller.post("/connections/7/accept"),
        caller.post("/events/subscriptions/7/approve"),
        caller.post("/events/messages/7/retry"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 6
