"""What a sender does after an answer (§8, §9): the one place where that is decided.

`decide` is for a problem in answer to a request of events, `decide_entry` for one entry of
a verified ack, `decide_control` for the answer to a control message. No answer at all, and
one that is neither a problem document nor a valid ack, count as 5xx: RETRY, REPEAT.
"""

from collections.abc import Callable
from enum import Enum, auto

from app.protocol.errors import CODES


class Outcome(Enum):
    """What becomes of the events of a request, or of one of them."""

    ACKED = auto()  #: stored at the peer, now or before
    RETRY = auto()  #: a failure: the same again after the back-off
    WAIT = auto()  #: no failure: the same again after Retry-After
    HOLD = auto()  #: the queue waits; what would release it comes by itself
    ALERT = auto()  #: the queue waits, and an operator is told
    HALVE = auto()  #: send the two halves of the batch by themselves
    DEAD = auto()  #: dead letter
    STALE = auto()  #: dead letter, and the subscription it was sent for is flagged as stale
    NEW_EPOCH = auto()  #: start a new epoch and renumber what is not acknowledged


class ControlOutcome(Enum):
    """What becomes of a control message of ours."""

    DONE = auto()  #: answered by a verified ControlAck
    REPEAT = auto()  #: the same message again after the back-off
    WAIT = auto()  #: the same message again after Retry-After
    RENUMBER = auto()  #: anew, with a new id and the number after `lastControlSequence`
    REFUSED = auto()  #: never the same again; anew, if it is still wanted


def _halve_or(last: Outcome) -> Callable[[int], Outcome]:
    """Halve a batch until the event at fault stands alone."""
    return lambda batch_size: Outcome.HALVE if batch_size > 1 else last


def _always(outcome: Outcome) -> Callable[[int], Outcome]:
    return lambda batch_size: outcome


#: §9, one line per code; each is a function of the number of events in the request.
_BY_CODE: dict[str, Callable[[int], Outcome]] = {
    "invalid_request": _halve_or(Outcome.DEAD),
    "unsupported_version": _halve_or(Outcome.DEAD),
    "authentication_failed": _always(Outcome.ALERT),
    "key_untrusted": _always(Outcome.ALERT),
    "clock_skew": _always(Outcome.RETRY),
    "invalid_issuer": _always(Outcome.ALERT),
    "access_denied": _always(Outcome.HOLD),
    "blocked": _always(Outcome.HOLD),
    "connection_suspended": _always(Outcome.HOLD),
    "not_subscribed": _halve_or(Outcome.STALE),
    "not_found": _always(Outcome.ALERT),
    "method_not_allowed": _always(Outcome.ALERT),
    "message_id_conflict": _always(Outcome.ALERT),
    "invalid_state": _always(Outcome.ALERT),
    "sequence_conflict": _always(Outcome.NEW_EPOCH),
    "event_expired": _halve_or(Outcome.DEAD),
    "replay_gone": _halve_or(Outcome.DEAD),
    "connection_closed": _always(Outcome.ALERT),
    "too_large": _halve_or(Outcome.DEAD),
    "unsupported_media_type": _halve_or(Outcome.DEAD),
    "payload_invalid": _halve_or(Outcome.DEAD),
    "rate_limited": _always(Outcome.WAIT),
    "overloaded": _always(Outcome.WAIT),
    "internal_error": _always(Outcome.RETRY),
}

#: §8, for unknown codes: statuses that have a rule of their own. Other 4xx read as 400, 5xx as 500.
_BY_STATUS: dict[int, Callable[[int], Outcome]] = {
    401: _always(Outcome.ALERT),
    403: _always(Outcome.ALERT),
    404: _always(Outcome.ALERT),
    405: _always(Outcome.ALERT),
    409: _always(Outcome.ALERT),
    429: _always(Outcome.WAIT),
    503: _always(Outcome.WAIT),
}

#: Of these, two single events in a row mean that our envelope is at fault, not the events (§8).
SUSPECT_STATUSES = frozenset({400, 404, 405, 415})


def decide(status: int, code: str | None, batch_size: int, *, is_second_in_a_row: bool = False) -> Outcome:
    """What to do after a problem in answer to a request of `batch_size` events.

    `code` None: the answer was no problem document (or there was none, status 0).
    `is_second_in_a_row`: the single event before this one was refused with one of
    SUSPECT_STATUSES as well.
    """
    outcome = _rule(status, code)(batch_size)
    if is_second_in_a_row and batch_size == 1 and status in SUSPECT_STATUSES and code is not None:
        return Outcome.ALERT
    return outcome


def _rule(status: int, code: str | None) -> Callable[[int], Outcome]:
    if code is None:
        return _BY_STATUS[status] if status in (429, 503) else _always(Outcome.RETRY)
    known = CODES.get(code)
    if known is not None and known.status == status:
        return _BY_CODE[code]
    fallback = "invalid_request" if 400 <= status < 500 else "internal_error"
    return _BY_STATUS.get(status, _BY_CODE[fallback])


def decide_entry(received: bool, code: str | None = None, retryable: bool = False) -> Outcome:
    """What to do with an event after its verified ack, or its entry of a verified ack batch (§8)."""
    if received:
        return Outcome.ACKED
    if code == "sequence_conflict":
        return Outcome.NEW_EPOCH
    if retryable:
        return Outcome.RETRY
    return Outcome.STALE if code == "not_subscribed" else Outcome.DEAD


def decide_control(status: int, code: str | None) -> ControlOutcome:
    """What to do after the answer to a control message (§3, §8).

    `code` None: a 2xx was a verified ControlAck, or any other answer no problem document.
    """
    if 200 <= status < 300:
        return ControlOutcome.DONE
    if status in (429, 503):
        return ControlOutcome.WAIT
    if code is None or status >= 500 or code == "clock_skew":
        return ControlOutcome.REPEAT
    return ControlOutcome.RENUMBER if code == "sequence_conflict" else ControlOutcome.REFUSED
