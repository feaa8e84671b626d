"""Controls: our control messages, from the decision to say something until it is answered.

A message gets its number and signature in the transaction of the change that it tells, so that nothing is
said that did not happen, and nothing happens unsaid. `sending` brings it out after the commit.
"""

import uuid
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from app import clock, queue
from app.database import db, table_of
from app.federation import identity
from app.models import Connection, ControlOut, ControlState
from app.protocol.control import ControlPayload, ControlType, Payload, control_body
from app.protocol.signing import Kind, Signer

#: How long a call waits for the peer's answer before it answers with what is so.
WAIT_S = 2.0

#: Where a session keeps the connections whose messages, or whose events, go out when it commits.
_WAKES = "tidings_control_wakes"
_DRAINS = "tidings_drain_wakes"

#: Not yet answered, whether they go again as they are or are issued anew.
OPEN = (ControlState.WAITING, ControlState.HELD)


def queue_control(
    connection: Connection,
    control_type: ControlType,
    payload: ControlPayload | Payload,
    *,
    first_issued_at: int | None = None,
    attempts: int = 0,
) -> ControlOut:
    """Number, sign and store a control message, inside the caller's transaction; it goes after the commit.

    The caller holds the connection's row. `first_issued_at` (ms) and `attempts` go on counting where a
    refused message is issued anew.
    """
    now_ms = clock.now_ms()
    signer = _signer_for(connection, control_type)
    connection.last_control_out += 1
    body = control_body(
        message_id=(message_id := str(uuid.uuid4())),
        instance_id=signer.instance_id,
        control_type=control_type,
        connection_id=connection.wire_connection_id,
        control_sequence=connection.last_control_out,
        payload=payload,
        timestamp=now_ms,
        key_id=signer.key_id,
    )
    control = ControlOut(
        connection_id=connection.id,
        message_id=message_id,
        type=control_type.value,
        control_sequence=connection.last_control_out,
        body=body.decode(),
        signature=signer.sign_body(Kind.CONTROL, body),
        key_id=signer.key_id,
        state=ControlState.WAITING,
        attempts=attempts,
        next_attempt_at=now_ms,
        created_at=now_ms if first_issued_at is None else first_issued_at,
    )
    db.session.add(control)
    db.session.flush()
    wake_after_commit(connection.id)
    return control


def _signer_for(connection: Connection, control_type: ControlType) -> Signer:
    """The key in use, if the peer knows it or learns of it by what goes before; else the newest it knows."""
    if waiting(connection.id, ControlType.KEYS_CHANGED) is not None:
        return identity.signer(fresh=True)
    is_announcement = control_type is ControlType.KEYS_CHANGED
    return identity.signer_for(connection.id, fresh=True, announcing=is_announcement)


def payload_of(control: ControlOut) -> dict[str, Any]:
    """The payload as it was signed."""
    payload: dict[str, Any] = orjson.loads(control.body)["payload"]
    return payload


def wait_for_answer(control_id: int, timeout_s: float | None = None) -> ControlOut:
    """The message as it stands after its answer came, or after `timeout_s`; None is WAIT_S.

    No transaction may be open.
    """
    deadline_s = clock.monotonic() + (WAIT_S if timeout_s is None else timeout_s)
    while True:
        # A new read transaction: the answer is written by another process.
        db.session.rollback()
        control = db.session.get_one(ControlOut, control_id, populate_existing=True)
        left_s = deadline_s - clock.monotonic()
        if control.state is not ControlState.WAITING or left_s <= 0:
            return control
        if not queue.wait_for(_signal_name(control_id), left_s):
            deadline_s = 0.0


def signal_answer(control_id: int) -> None:
    """Wake whoever waits for the answer."""
    queue.signal(_signal_name(control_id))


def waiting(connection_id: int, *types: ControlType) -> ControlOut | None:
    """The newest unanswered message of these types, None if there is none."""
    return db.session.scalar(
        sa.select(ControlOut)
        .where(
            ControlOut.connection_id == connection_id,
            ControlOut.state.in_(OPEN),
            ControlOut.type.in_([control_type.value for control_type in types]),
        )
        .order_by(ControlOut.control_sequence.desc())
        .limit(1)
    )


def newest(connection_id: int, *types: ControlType) -> ControlOut | None:
    """The newest message of these types that was not given up, None if there is none."""
    return db.session.scalar(
        sa.select(ControlOut)
        .where(
            ControlOut.connection_id == connection_id,
            ControlOut.state != ControlState.GIVEN_UP,
            ControlOut.type.in_([control_type.value for control_type in types]),
        )
        .order_by(ControlOut.control_sequence.desc())
        .limit(1)
    )


def give_up(connection_id: int, *, but: ControlOut | None = None) -> None:
    """Leave all unanswered messages unsent, inside the caller's transaction: nobody needs them any more."""
    statement = sa.update(ControlOut).where(
        ControlOut.connection_id == connection_id, ControlOut.state.in_(OPEN)
    )
    if but is not None:
        statement = statement.where(ControlOut.id != but.id)
    db.session.execute(statement.values(state=ControlState.GIVEN_UP))


# Looked at for every request that comes in, and nearly always without a find.
_CONTROL = table_of(ControlOut)
_ANY_LATER = (
    sa.select(_CONTROL.c.id)
    .where(
        _CONTROL.c.connection_id == sa.bindparam("connection"),
        _CONTROL.c.state.in_(OPEN),
        _CONTROL.c.next_attempt_at > sa.bindparam("now"),
    )
    .limit(1)
)


def hurry(connection_id: int, *, held: bool = True) -> None:
    """Let what waits for a repeat go at once, inside the caller's transaction.

    held: also what was refused and will be issued anew.
    """
    now_ms = clock.now_ms()
    if db.session.execute(_ANY_LATER, {"connection": connection_id, "now": now_ms}).first() is None:
        return
    hurried = db.session.scalars(
        sa.update(ControlOut)
        .where(
            ControlOut.connection_id == connection_id,
            ControlOut.state.in_(OPEN if held else (ControlState.WAITING,)),
            ControlOut.next_attempt_at > now_ms,
        )
        .values(next_attempt_at=now_ms)
        .returning(ControlOut.id)
    ).all()
    if hurried:
        wake_after_commit(connection_id)


def wake_after_commit(connection_id: int) -> None:
    """Have the connection's control messages sent when the current transaction commits."""
    db.session().info.setdefault(_WAKES, set()).add(connection_id)


def drain_after_commit(connection_id: int) -> None:
    """Have the connection's deliveries sent when the current transaction commits: nothing holds them any
    more.
    """
    db.session().info.setdefault(_DRAINS, set()).add(connection_id)


@event.listens_for(db.session, "after_commit")
def _wake_now(session: Session) -> None:
    for connection_id in session.info.pop(_WAKES, ()):
        queue.wake_controls(connection_id)
    for connection_id in session.info.pop(_DRAINS, ()):
        queue.wake_drain(connection_id)


@event.listens_for(db.session, "after_rollback")
def _forget(session: Session) -> None:
    session.info.pop(_WAKES, None)
    session.info.pop(_DRAINS, None)


def _signal_name(control_id: int) -> str:
    return f"control-{control_id}"
