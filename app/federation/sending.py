"""Sending: our control messages on their way to the peer.

One at a time per connection, in the order of their numbers, by whoever holds the lease on the connection.
Each goes through three phases, and no transaction is open while the peer is asked:

    claim    the next message that is due; those that were refused and are still wanted are issued anew first
    call     HTTP only
    record   what the answer means (`app.federation.answers`), or when to try again
"""

import logging
from random import Random
from typing import NamedTuple

import sqlalchemy as sa

from app import clock, queue
from app.backoff import parse_retry_after, retry_delay, untold_wait
from app.database import db, transaction
from app.federation import answers, calls, controls, identity, leases, lifecycle, outside, peers
from app.federation.clocks import skew_ms
from app.models import Connection, ControlOut, ControlState, SigningKey
from app.protocol.answers import ControlOutcome, decide_control
from app.protocol.canonical import check_message, loads
from app.protocol.control import (
    CONNECTION_TYPES,
    NOT_REPEATED,
    ControlType,
    VerifiedControlAck,
    parse_control_ack,
    verify_control_ack,
)
from app.protocol.errors import ClockSkew, Problem, read_problem
from app.protocol.keys import KeyStatus
from app.protocol.signing import Signer, with_signature
from app.transport.client import Answer
from app.transport.errors import TransportError

log = logging.getLogger(__name__)

#: Longer than a call (15 s), a second look at the peer's document (15 s) and the recording together.
LEASE_MS = 45_000
#: After this much work a job ends, and another one goes on: other connections wait too.
YIELD_S = 1.0
#: A message that was not answered for so long is given up (§4: a disconnect is retried for 7 days).
LIFE_MS = 7 * 86_400_000
#: A request for a connection expires on both sides after 14 days.
REQUEST_LIFE_MS = 14 * 86_400_000
#: Longest text of an answer that is kept.
MAX_KEPT = 16_384
#: Largest number that a peer may tell us to go on from.
_MAX_SEQUENCE = 2**53 - 1_000_000
#: Number conflicts in a row that are answered at once with another number.
_QUICK_RENUMBERS = 3

_PATHS = {
    control_type: "/api/v1/federation/incoming/"
    + ("connection" if control_type in CONNECTION_TYPES else "subscription")
    for control_type in ControlType
}
_rng = Random()  # noqa: S311 - spreads retries, guards nothing


class Outgoing(NamedTuple):
    """A message that was claimed, as plain values: nothing of the database is touched while it is away."""

    control_id: int
    connection_id: int
    control_type: ControlType
    message_id: str
    wire_connection_id: str
    body: bytes
    peer_id: int
    instance_id: str
    base_url: str
    signer: Signer


class Reply(NamedTuple):
    """What came of one call."""

    outcome: ControlOutcome
    ack: VerifiedControlAck | None = None
    status_code: int | None = None
    code: str | None = None
    detail: str | None = None
    text: str | None = None
    duration_ms: int | None = None
    wait_ms: int | None = None  #: Retry-After
    last_sequence: int | None = None  #: lastControlSequence
    clock_skew_ms: int | None = None  #: the peer's clock minus ours, if the answer told it


def send_controls(connection_id: int) -> None:
    """Send what is due over a connection, for about a second. Safe to run twice: one of the two finds the
    lease.

    Commits; no transaction may be open.
    """
    owner = leases.new_owner()
    if not _acquire(connection_id, owner):
        return
    until_s = clock.monotonic() + YIELD_S
    try:
        while outgoing := _claim(connection_id, owner):
            _record(outgoing, _call(outgoing))
            if clock.monotonic() >= until_s:
                break
    finally:
        leases.give_back(lambda: _release(connection_id, owner), LEASE_MS / 1000)
    # Looked at after the release: whoever added a message meanwhile found the lease taken and went away.
    if _is_due(connection_id):
        queue.wake_controls(connection_id)


def wake_due(limit: int = 200) -> int:
    """Wake the connections that have something due, and free the leases of dead processes here. How many."""
    _free_dead_leases()
    due = db.session.scalars(
        sa.select(ControlOut.connection_id)
        .join(Connection, Connection.id == ControlOut.connection_id)
        .where(
            ControlOut.state.in_(controls.OPEN),
            ControlOut.next_attempt_at <= clock.now_ms(),
            Connection.is_seeded.is_(False),
        )
        .distinct()
        .limit(limit)
    ).all()
    for connection_id in due:
        queue.wake_controls(connection_id, again=True)
    return len(due)


def _acquire(connection_id: int, owner: str) -> bool:
    now_ms = clock.now_ms()
    with transaction():
        taken = db.session.scalar(
            sa.update(Connection)
            .where(
                Connection.id == connection_id,
                # Whoever sends messages has this lease, so that over a made-up connection nobody does.
                Connection.is_seeded.is_(False),
                sa.or_(Connection.control_owner.is_(None), Connection.control_lease_until < now_ms),
            )
            .values(control_owner=owner, control_lease_until=now_ms + LEASE_MS)
            .returning(Connection.id)
        )
    return taken is not None


def _release(connection_id: int, owner: str) -> None:
    with transaction():
        db.session.execute(
            sa.update(Connection)
            .where(Connection.id == connection_id, Connection.control_owner == owner)
            .values(control_owner=None, control_lease_until=0)
        )


def _claim(connection_id: int, owner: str) -> Outgoing | None:
    """The next message to send, None if none is due or the lease was lost."""
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.control_owner != owner or connection.peer is None:
            return None
        connection.control_lease_until = clock.now_ms() + LEASE_MS
        _issue_anew(connection)
        control = _next(connection)
        if control is None:
            return None
        control.attempts += 1
        peer = connection.peer
        return Outgoing(
            control.id,
            connection.id,
            ControlType(control.type),
            control.message_id,
            connection.wire_connection_id,
            with_signature(control.body, control.signature),
            peer.id,
            peer.instance_id,
            peer.base_url,
            identity.signer_for(connection.id, fresh=True, announcing=_is_announcement(control)),
        )


def _issue_anew(connection: Connection) -> None:
    """Replace the refused messages whose time has come by new ones, if what they say is still so.

    And those that a key has signed that was revoked since, but for the word of the key that follows it.
    """
    revoked = sa.select(SigningKey.key_id).where(SigningKey.status == KeyStatus.REVOKED)
    held = db.session.scalars(
        sa.select(ControlOut)
        .where(
            ControlOut.connection_id == connection.id,
            sa.or_(
                sa.and_(ControlOut.state == ControlState.HELD, ControlOut.next_attempt_at <= clock.now_ms()),
                sa.and_(
                    ControlOut.state == ControlState.WAITING,
                    ControlOut.key_id.in_(revoked),
                    ControlOut.type != ControlType.KEYS_CHANGED.value,
                ),
            ),
        )
        .order_by(ControlOut.control_sequence)
    ).all()
    for control in held:
        answers.issue_anew(connection, control)


def _next(connection: Connection) -> ControlOut | None:
    """The waiting message with the lowest number, if it is due; those that waited too long are given up."""
    now_ms = clock.now_ms()
    statement = sa.select(ControlOut).where(
        ControlOut.connection_id == connection.id, ControlOut.state == ControlState.WAITING
    )
    if connection.key_review:
        statement = statement.where(ControlOut.type == ControlType.CONNECTION_DISCONNECT.value)
    for control in db.session.scalars(statement.order_by(ControlOut.control_sequence)):
        if control.created_at + _life_ms(control) > now_ms:
            return control if control.next_attempt_at <= now_ms else None
        control.state = ControlState.GIVEN_UP
    return None


def _is_announcement(control: ControlOut) -> bool:
    return control.type == ControlType.KEYS_CHANGED.value


def _life_ms(control: ControlOut) -> int:
    return REQUEST_LIFE_MS if control.type == ControlType.CONNECTION_REQUEST.value else LIFE_MS


def _is_due(connection_id: int) -> bool:
    """Whether `_claim` would find something now. What a key review holds is not due."""
    review = db.session.scalar(sa.select(Connection.key_review).where(Connection.id == connection_id))
    statement = sa.select(ControlOut.state, ControlOut.next_attempt_at).where(
        ControlOut.connection_id == connection_id, ControlOut.state.in_(controls.OPEN)
    )
    if review:
        statement = statement.where(ControlOut.type == ControlType.CONNECTION_DISCONNECT.value)
    now_ms = clock.now_ms()
    rows = db.session.execute(statement.order_by(ControlOut.control_sequence)).all()
    db.session.rollback()
    waiting = [due for state, due in rows if state is ControlState.WAITING]
    held = [due for state, due in rows if state is ControlState.HELD]
    return bool(waiting and waiting[0] <= now_ms) or any(due <= now_ms for due in held)


def _call(outgoing: Outgoing) -> Reply:
    try:
        answer = calls.post(
            outside.client(),
            outgoing.connection_id,
            outgoing.signer,
            outgoing.base_url,
            _PATHS[outgoing.control_type],
            outgoing.body,
            announcing=outgoing.control_type is ControlType.KEYS_CHANGED,
        )
    except TransportError as error:
        return Reply(ControlOutcome.REPEAT, status_code=error.status, code=error.code, detail=error.detail)
    return _read_answer(outgoing, answer)


def _read_answer(outgoing: Outgoing, answer: Answer) -> Reply:
    text = answer.body[:MAX_KEPT].decode("utf-8", "replace").replace("\0", "�")
    problem = read_problem(answer.status, answer.body, answer.headers.get("content-type"))
    if problem is not None:
        reply = Reply(decide_control(answer.status, problem.code), code=problem.code, detail=problem.detail)
        last = problem.extras.get("lastControlSequence")
        reply = reply._replace(
            last_sequence=last if type(last) is int and 0 <= last < _MAX_SEQUENCE else None
        )
    elif answer.status in (200, 202):
        reply = _read_ack(outgoing, answer.body)
    else:
        reply = Reply(
            decide_control(answer.status, None), code="answer_invalid", detail="no problem document"
        )
    told = reply.ack.timestamp if reply.ack else problem and problem.extras.get("serverTime")
    return reply._replace(
        status_code=answer.status,
        text=text,
        duration_ms=answer.duration_ms,
        wait_ms=parse_retry_after(answer.headers.get("retry-after"), clock.now_ms()),
        clock_skew_ms=skew_ms(answer, told),
    )


def _read_ack(outgoing: Outgoing, body: bytes) -> Reply:
    """DONE with the verified ack; an answer that is none counts as 5xx, whatever it says."""
    try:
        value = loads(body)
        check_message(value)
        ack = parse_control_ack(value)
        record = peers.message_key([outgoing.peer_id], ack.key_id)
        if record is None and ack.instance_id == outgoing.instance_id:
            peers.adopt_key(outgoing.instance_id, ack.key_id)
            record = peers.message_key([outgoing.peer_id], ack.key_id)
        verified = verify_control_ack(ack, record)
    except Problem as problem:
        return Reply(ControlOutcome.REPEAT, code="answer_invalid", detail=problem.detail)
    expected = (outgoing.instance_id, outgoing.message_id, outgoing.wire_connection_id)
    if (ack.instance_id, ack.correlation_id, ack.connection_id) != expected:
        return Reply(ControlOutcome.REPEAT, code="answer_invalid", detail="an answer to something else")
    return Reply(ControlOutcome.DONE, ack=verified)


def _record(outgoing: Outgoing, reply: Reply) -> None:
    with transaction():
        connection = lifecycle.lock(outgoing.connection_id)
        control = db.session.get_one(ControlOut, outgoing.control_id, populate_existing=True)
        control.status_code = reply.status_code
        control.error_code = reply.code
        control.error_detail = reply.detail
        control.answer = reply.text
        control.duration_ms = reply.duration_ms
        _note_clock(connection, reply)
        # Given up while it was away: the change that did so stands.
        if control.state is ControlState.WAITING:
            _apply(connection, control, reply)
    log.info(
        "control.sent",
        extra={
            "connection_id": outgoing.connection_id,
            "type": outgoing.control_type.value,
            "message_id": outgoing.message_id,
            "outcome": reply.outcome.name.lower(),
            "status": reply.status_code,
            "code": reply.code,
            "ms": reply.duration_ms,
        },
    )
    controls.signal_answer(outgoing.control_id)


def _note_clock(connection: Connection, reply: Reply) -> None:
    """Keep how far the peer's clock is from ours; what waited because of that goes when it takes ours."""
    if reply.clock_skew_ms is not None:
        connection.clock_skew_ms = reply.clock_skew_ms
        connection.clock_skew_at = clock.now_ms()
    if reply.ack is not None and connection.wait_code == ClockSkew.code:
        lifecycle.end_wait(connection)
        controls.drain_after_commit(connection.id)


def _apply(connection: Connection, control: ControlOut, reply: Reply) -> None:
    now_ms = clock.now_ms()
    if reply.ack is not None:
        control.state = ControlState.ANSWERED
        control.answered_at = now_ms
        control.answer_status = reply.ack.status
        answers.apply_answer(connection, control, reply.ack)
    elif reply.outcome is ControlOutcome.RENUMBER and reply.last_sequence is not None:
        _renumber(connection, control, reply.last_sequence)
    elif reply.outcome in (ControlOutcome.REFUSED, ControlOutcome.RENUMBER):
        answers.apply_refusal(connection, control, reply.code or "", reply.detail or "")
        if control.state is ControlState.HELD:
            control.next_attempt_at = now_ms + retry_delay(control.attempts - 1, _rng)
    elif ControlType(control.type) in NOT_REPEATED:
        control.state = ControlState.GIVEN_UP
    elif reply.outcome is ControlOutcome.WAIT and control.type == ControlType.REPLAY_REQUEST.value:
        # The peer serves another one, for hours perhaps; what comes after this must not wait so long.
        answers.apply_refusal(connection, control, "rate_limited", reply.detail or "")
    elif reply.outcome is ControlOutcome.WAIT:
        control.attempts -= 1
        control.next_attempt_at = now_ms + (reply.wait_ms or untold_wait(control.untold_waits, _rng))
        control.untold_waits = 0 if reply.wait_ms else control.untold_waits + 1
    else:
        control.next_attempt_at = now_ms + retry_delay(control.attempts - 1, _rng)


def _renumber(connection: Connection, control: ControlOut, last_sequence: int) -> None:
    """Our counter is behind, as after a restore: go on from the peer's, with a new id."""
    connection.last_control_out = max(connection.last_control_out, last_sequence)
    if ControlType(control.type) in NOT_REPEATED:
        control.state = ControlState.GIVEN_UP
        return
    control.state = ControlState.HELD
    quick = control.attempts <= _QUICK_RENUMBERS
    control.next_attempt_at = clock.now_ms() + (0 if quick else retry_delay(control.attempts, _rng))


def _free_dead_leases() -> None:
    owners = db.session.scalars(
        sa.select(Connection.control_owner).where(Connection.control_owner.is_not(None)).distinct()
    ).all()
    dead = [owner for owner in owners if owner is not None and leases.is_dead(owner)]
    if dead:
        with transaction():
            db.session.execute(
                sa.update(Connection)
                .where(Connection.control_owner.in_(dead))
                .values(control_owner=None, control_lease_until=0)
            )
