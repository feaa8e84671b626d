"""What a sender does after an answer: every code of the page, every status that has no code."""

import pytest

from app.protocol.answers import ControlOutcome, Outcome, decide, decide_control, decide_entry
from app.protocol.errors import CODES

#: §8 and §9: code, what becomes of one event, what becomes of a batch.
TABLE = {
    "invalid_request": ("DEAD", "HALVE"),
    "unsupported_version": ("DEAD", "HALVE"),
    "authentication_failed": ("ALERT", "ALERT"),
    "key_untrusted": ("ALERT", "ALERT"),
    "clock_skew": ("RETRY", "RETRY"),
    "invalid_issuer": ("ALERT", "ALERT"),
    "access_denied": ("HOLD", "HOLD"),
    "blocked": ("HOLD", "HOLD"),
    "connection_suspended": ("HOLD", "HOLD"),
    "not_subscribed": ("STALE", "HALVE"),
    "not_found": ("ALERT", "ALERT"),
    "method_not_allowed": ("ALERT", "ALERT"),
    "unsupported_media_type": ("DEAD", "HALVE"),
    "payload_invalid": ("DEAD", "HALVE"),
    "message_id_conflict": ("ALERT", "ALERT"),
    "invalid_state": ("ALERT", "ALERT"),
    "sequence_conflict": ("NEW_EPOCH", "NEW_EPOCH"),
    "event_expired": ("DEAD", "HALVE"),
    "replay_gone": ("DEAD", "HALVE"),
    "connection_closed": ("ALERT", "ALERT"),
    "too_large": ("DEAD", "HALVE"),
    "rate_limited": ("WAIT", "WAIT"),
    "overloaded": ("WAIT", "WAIT"),
    "internal_error": ("RETRY", "RETRY"),
}


def test_every_code_has_an_answer():
    assert set(TABLE) == set(CODES)


@pytest.mark.parametrize("code", TABLE)
def test_each_code_leads_to_its_outcome(code):
    single, batch = TABLE[code]

    assert decide(CODES[code].status, code, 1).name == single
    assert decide(CODES[code].status, code, 2).name == batch
    assert decide(CODES[code].status, code, 100).name == batch


@pytest.mark.parametrize(
    "status, single, batch",
    [
        (400, "DEAD", "HALVE"),
        (401, "ALERT", "ALERT"),
        (402, "DEAD", "HALVE"),
        (403, "ALERT", "ALERT"),
        (404, "ALERT", "ALERT"),
        (409, "ALERT", "ALERT"),
        (410, "DEAD", "HALVE"),
        (418, "DEAD", "HALVE"),
        (429, "WAIT", "WAIT"),
        (500, "RETRY", "RETRY"),
        (502, "RETRY", "RETRY"),
        (503, "WAIT", "WAIT"),
        (599, "RETRY", "RETRY"),
    ],
)
def test_unknown_code_is_read_by_its_status(status, single, batch):
    for code in ("made_up", "sequence_conflict" if status != 409 else "made_up"):
        assert decide(status, code, 1).name == single
        assert decide(status, code, 2).name == batch


@pytest.mark.parametrize("status", [0, 200, 204, 302, 400, 401, 404, 410, 500, 502])
def test_answer_that_is_no_problem_document_counts_as_5xx(status):
    assert decide(status, None, 1) is Outcome.RETRY
    assert decide(status, None, 100) is Outcome.RETRY


@pytest.mark.parametrize("status", [429, 503])
def test_peer_may_ask_to_wait_without_a_document(status):
    assert decide(status, None, 5) is Outcome.WAIT


def test_two_single_events_in_a_row_put_the_envelope_at_fault():
    for code in ("invalid_request", "unsupported_media_type"):
        assert decide(CODES[code].status, code, 1, is_second_in_a_row=True) is Outcome.ALERT
        assert decide(CODES[code].status, code, 2, is_second_in_a_row=True) is Outcome.HALVE
    for code in ("too_large", "payload_invalid", "event_expired"):
        assert decide(CODES[code].status, code, 1, is_second_in_a_row=True) is Outcome.DEAD


@pytest.mark.parametrize(
    "received, code, retryable, outcome",
    [
        (True, None, False, Outcome.ACKED),
        (False, "invalid_request", False, Outcome.DEAD),
        (False, "made_up", False, Outcome.DEAD),
        (False, "made_up", True, Outcome.RETRY),
        (False, "key_untrusted", True, Outcome.RETRY),
        (False, "message_id_conflict", False, Outcome.DEAD),
        (False, "not_subscribed", False, Outcome.STALE),
        (False, "sequence_conflict", False, Outcome.NEW_EPOCH),
        (False, "sequence_conflict", True, Outcome.NEW_EPOCH),
    ],
)
def test_each_entry_of_an_ack_has_its_outcome(received, code, retryable, outcome):
    assert decide_entry(received, code, retryable) is outcome


@pytest.mark.parametrize(
    "status, code, outcome",
    [
        (200, None, ControlOutcome.DONE),
        (202, None, ControlOutcome.DONE),
        (0, None, ControlOutcome.REPEAT),
        (404, None, ControlOutcome.REPEAT),
        (500, "internal_error", ControlOutcome.REPEAT),
        (502, "made_up", ControlOutcome.REPEAT),
        (503, "overloaded", ControlOutcome.WAIT),
        (503, None, ControlOutcome.WAIT),
        (429, "rate_limited", ControlOutcome.WAIT),
        (401, "clock_skew", ControlOutcome.REPEAT),
        (409, "sequence_conflict", ControlOutcome.RENUMBER),
        (409, "invalid_state", ControlOutcome.REFUSED),
        (403, "connection_suspended", ControlOutcome.REFUSED),
        (401, "key_untrusted", ControlOutcome.REFUSED),
        (400, "made_up", ControlOutcome.REFUSED),
        (410, "connection_closed", ControlOutcome.REFUSED),
    ],
)
def test_each_answer_to_a_control_message_has_its_outcome(status, code, outcome):
    assert decide_control(status, code) is outcome
