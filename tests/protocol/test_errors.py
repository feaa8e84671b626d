"""Problems: one class for each code, written as documents, and read from peers with caution."""

import json

import pytest

from app.protocol import errors
from app.protocol.errors import CODES, Problem, invalid, read_problem

#: §9: code and status.
STATUSES = {
    "invalid_request": 400,
    "unsupported_version": 400,
    "authentication_failed": 401,
    "key_untrusted": 401,
    "clock_skew": 401,
    "invalid_issuer": 403,
    "access_denied": 403,
    "blocked": 403,
    "connection_suspended": 403,
    "not_subscribed": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "message_id_conflict": 409,
    "invalid_state": 409,
    "sequence_conflict": 409,
    "event_expired": 410,
    "replay_gone": 410,
    "connection_closed": 410,
    "too_large": 413,
    "unsupported_media_type": 415,
    "payload_invalid": 422,
    "rate_limited": 429,
    "internal_error": 500,
    "overloaded": 503,
}
RETRYABLE = {"clock_skew", "connection_suspended", "access_denied", "key_untrusted"}
RETRYABLE |= {"rate_limited", "internal_error", "overloaded"}


def test_every_code_has_its_status_and_is_retryable_as_the_page_says():
    found = {code: problem for code, problem in CODES.items() if problem.__module__ == errors.__name__}

    assert {code: problem.status for code, problem in found.items()} == STATUSES
    assert {code for code, problem in found.items() if problem.retryable} == RETRYABLE


def test_problem_document_has_all_members():
    problem = invalid("/payload", "is required", "required")

    assert problem.to_wire("request-1") == {
        "type": "urn:tidings:error:invalid_request",
        "title": "Invalid request",
        "status": 400,
        "detail": "/payload: is required",
        "code": "invalid_request",
        "retryable": False,
        "requestId": "request-1",
        "errors": [{"pointer": "/payload", "code": "required", "detail": "is required"}],
    }


def test_problem_carries_what_its_code_promises():
    skew = errors.ClockSkew(server_time_ms=5).to_wire()
    gone = errors.ReplayGone(stream_epoch="e", oldest_sequence=3).to_wire()

    assert skew["serverTime"] == 5
    assert (gone["streamEpoch"], gone["oldestSequence"]) == ("e", 3)
    assert errors.RateLimited(retry_after_s=7).retry_after_s == 7
    assert errors.MethodNotAllowed(allow=["GET"]).allow == ("GET",)
    assert "lastControlSequence" not in errors.SequenceConflict().to_wire()


def test_detail_is_never_empty_and_never_too_long():
    assert Problem("").detail == "Internal error"
    assert len(Problem("x" * 5000).to_wire()["detail"]) == 1000


PROBLEM_JSON = "application/problem+json"


def test_own_problem_is_read_again():
    problem = errors.SequenceConflict("used", last_control_sequence=7)

    answer = read_problem(409, json.dumps(problem.to_wire("r")).encode(), PROBLEM_JSON + "; charset=utf-8")

    assert (answer.status, answer.code, answer.retryable, answer.detail) == (
        409,
        "sequence_conflict",
        False,
        "used",
    )
    assert answer.extras == {"requestId": "r", "lastControlSequence": 7}


@pytest.mark.parametrize(
    "status, code, retryable",
    [
        (403, "access_denied", True),
        (403, "blocked", False),
        (403, "made_up", False),
        (400, "access_denied", False),
        (429, "made_up", True),
        (599, "made_up", True),
        (500, "invalid_request", True),
    ],
)
def test_unknown_code_or_one_under_another_status_is_read_by_status(status, code, retryable):
    document = json.dumps({"code": code, "retryable": not retryable}).encode()

    assert read_problem(status, document, PROBLEM_JSON).retryable is retryable


@pytest.mark.parametrize(
    "status, body, content_type",
    [
        (200, b'{"code":"invalid_request"}', PROBLEM_JSON),
        (400, b'{"code":"invalid_request"}', "application/json"),
        (400, b'{"code":"invalid_request"}', None),
        (400, b'{"code":1}', PROBLEM_JSON),
        (400, b"{}", PROBLEM_JSON),
        (400, b"[]", PROBLEM_JSON),
        (400, b"", PROBLEM_JSON),
        (502, b"<html>", "text/html"),
        (502, b"\xff", PROBLEM_JSON),
    ],
)
def test_anything_else_is_no_problem_document(status, body, content_type):
    assert read_problem(status, body, content_type) is None


def test_members_of_a_wrong_type_do_no_harm():
    answer = read_problem(400, b'{"code":"x","detail":7,"status":"y","errors":3}', PROBLEM_JSON)

    assert (answer.detail, answer.extras) == ("", {"errors": 3})
