"""Operations: a set of deliveries that is sent again or given up, from the wish to the last of them.

    start    the set is frozen: the filter as it matches now, up to the newest row. What dies later, or is
             published later, is not part of it. A small set is done at once
    work     whoever holds the lease on the row takes pieces of it, a transaction each: rows, cursor and
             counts change together, so that a killed worker leaves nothing half done or counted twice
    sweep    finds what runs and is held by nobody, or by the dead

A person may pause it, let it go on, or cancel it; that holds from the next piece on.
"""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app import clock
from app.access import audit
from app.database import db, table_of, transaction
from app.federation.leases import is_dead, new_owner
from app.models import Delivery, Operation, OperationKind, OperationState
from app.outbox import dead_letters
from app.outbox.dead_letters import DeliveryFilter
from app.protocol.errors import InvalidState, NotFound
from app.queue import wake_operation

#: Deliveries of one transaction.
CHUNK = 500
#: A set of at most so many is done before `start` returns.
AT_ONCE = 1_000
#: Longer than any piece takes, ms.
LEASE_MS = 30_000
#: After this much work a job ends and another one goes on, in seconds: others wait too.
YIELD_S = 1.0
#: Operations that one sweep looks after at most.
_MOST = 100

_DELIVERY = table_of(Delivery)
_OPERATION = table_of(Operation)

_GOING = (OperationState.RUNNING, OperationState.PAUSED)

#: Told after each piece: the operation as it stands.
Listener = Callable[[Operation], object]


def start(
    workspace_id: int,
    kind: OperationKind,
    chosen: DeliveryFilter,
    *,
    reason: str | None = None,
    max_items: int | None = None,
    at_once: int | None = AT_ONCE,
    tell: Listener | None = None,
    public_id: str | None = None,
) -> Operation:
    """Send the deliveries of the filter again, or discard them with a reason; the oldest first. Commits.

    kind: a discard needs a reason. max_items: at most so many. A set of at most `at_once` (None: any) is done
    when this returns, with `tell` called after each piece; a larger one is RUNNING. public_id: a UUID of the
    caller's; if there is an operation with it already, that one is returned and nothing is started.

    Raises InvalidRequest at /filter/status unless it is dead, pending, held or open.
    """
    if kind is OperationKind.DISCARD and not reason:
        raise ValueError("a discard has a reason")
    if public_id is not None and (known := _known(workspace_id, public_id)) is not None:
        return known
    try:
        operation = _freeze(workspace_id, kind, chosen, reason, max_items, public_id or str(uuid4()))
    except IntegrityError:
        # Two posts of one form at the same time: the other one was faster.
        if public_id is None or (known := _known(workspace_id, public_id)) is None:
            raise
        return known
    if at_once is not None and operation.total > at_once:
        wake_operation(operation.id)
        return operation
    return work(operation.id, seconds=None, tell=tell)


def _freeze(
    workspace_id: int,
    kind: OperationKind,
    chosen: DeliveryFilter,
    reason: str | None,
    max_items: int | None,
    public_id: str,
) -> Operation:
    """Write down the operation, with the set as it is now. Commits. Raises IntegrityError for a known id."""
    with transaction():
        now = clock.now_ms()
        snapshot = db.session.scalar(sa.select(sa.func.max(_DELIVERY.c.id))) or 0
        operation = Operation(
            public_id=public_id,
            workspace_id=workspace_id,
            kind=kind,
            filter=json.dumps(chosen.to_json()),
            reason=reason,
            max_items=max_items,
            snapshot_id=snapshot,
            cursor_id=0,
            total=_count(workspace_id, chosen, snapshot, now, max_items),
            done=0,
            skipped=0,
            state=OperationState.RUNNING,
            lease_until=0,
            started_by=audit.current_actor().name[:320],
            created_at=now,
            updated_at=now,
        )
        db.session.add(operation)
        db.session.flush()
        _record(operation, kind.value, {**chosen.to_json(), "deliveries": operation.total, "reason": reason})
    return operation


def _known(workspace_id: int, public_id: str) -> Operation | None:
    return db.session.scalar(
        sa.select(Operation).where(Operation.public_id == public_id, Operation.workspace_id == workspace_id)
    )


def _count(workspace_id: int, chosen: DeliveryFilter, snapshot: int, now: int, max_items: int | None) -> int:
    matching = dead_letters.conditions(workspace_id, chosen, now)
    found = sa.select(_DELIVERY.c.id).where(_DELIVERY.c.id <= snapshot, *matching).limit(max_items)
    return db.session.scalar(sa.select(sa.func.count()).select_from(found.subquery())) or 0


def work(operation_id: int, *, seconds: float | None = YIELD_S, tell: Listener | None = None) -> Operation:
    """Work the operation off for a while, in seconds (None: to its end), and return it as it stands.

    Safe to run twice: who finds the lease taken, or nothing to do, leaves. Commits. Raises NotFound.
    """
    owner = new_owner()
    until_s = None if seconds is None else clock.monotonic() + seconds
    more = _acquire(operation_id, owner)
    while more:
        operation = _work_piece(operation_id, owner)
        if tell is not None:
            tell(operation)
        more = operation.owner == owner
        if more and until_s is not None and clock.monotonic() >= until_s:
            _release(operation_id, owner)
            wake_operation(operation_id)
            break
    return _read(operation_id)


def _acquire(operation_id: int, owner: str) -> bool:
    now = clock.now_ms()
    with transaction():
        taken = db.session.scalar(
            sa.update(Operation)
            .where(
                Operation.id == operation_id,
                Operation.state == OperationState.RUNNING,
                sa.or_(Operation.owner.is_(None), Operation.lease_until < now),
            )
            .values(owner=owner, lease_until=now + LEASE_MS)
            .returning(Operation.id)
        )
    return taken is not None


def _release(operation_id: int, owner: str) -> None:
    with transaction():
        db.session.execute(
            sa.update(Operation)
            .where(Operation.id == operation_id, Operation.owner == owner)
            .values(owner=None, lease_until=0)
        )


def _work_piece(operation_id: int, owner: str) -> Operation:
    """Take the next piece of the set. The lease goes back when nothing is left, or nothing may be done."""
    with transaction():
        operation = _lock(operation_id)
        if operation.owner != owner:
            return operation
        if operation.state is not OperationState.RUNNING:
            operation.owner, operation.lease_until = None, 0
            return operation
        chosen = DeliveryFilter.from_json(json.loads(operation.filter))
        left = CHUNK if operation.max_items is None else min(CHUNK, operation.max_items - operation.done)
        rows = (
            dead_letters.read_page(
                dead_letters.conditions(operation.workspace_id, chosen, operation.created_at),
                operation.cursor_id,
                operation.snapshot_id,
                left,
            )
            if left > 0
            else ()
        )
        if rows:
            taken = (
                dead_letters.send_again(rows)
                if operation.kind is OperationKind.RETRY
                else dead_letters.give_up(rows, operation.reason or "")
            )
            operation.cursor_id = rows[-1].id
            operation.done += len(taken)
            operation.skipped += len(rows) - len(taken)
        now = clock.now_ms()
        operation.updated_at = now
        operation.lease_until = now + LEASE_MS
        if left <= 0 or len(rows) < left:
            _finish(operation, OperationState.DONE, now)
        db.session.flush()
    return operation


def _finish(operation: Operation, state: OperationState, now: int) -> None:
    operation.state = state
    operation.finished_at = operation.updated_at = now
    operation.owner, operation.lease_until = None, 0
    if state is OperationState.DONE:
        # What somebody else sent or withdrew before its turn came.
        operation.skipped = max(operation.skipped, operation.total - operation.done)


def pause(workspace_id: int, public_id: str) -> Operation:
    """Stop after the piece in hand. Safe to repeat. Commits.

    Raises NotFound, InvalidState if it has ended.
    """
    with transaction():
        operation = _going(workspace_id, public_id, "paused")
        if operation.state is OperationState.RUNNING:
            operation.state = OperationState.PAUSED
            operation.updated_at = clock.now_ms()
            _record(operation, "pause")
    return operation


def resume(workspace_id: int, public_id: str) -> Operation:
    """Let it go on. Safe to repeat. Commits. Raises NotFound, InvalidState if it has ended."""
    with transaction():
        operation = _going(workspace_id, public_id, "resumed")
        if operation.state is OperationState.PAUSED:
            operation.state = OperationState.RUNNING
            operation.updated_at = clock.now_ms()
            _record(operation, "resume")
    wake_operation(operation.id)
    return operation


def cancel(workspace_id: int, public_id: str) -> Operation:
    """End it after the piece in hand; what was done stays done. Safe to repeat. Commits.

    Raises NotFound, InvalidState if it is done.
    """
    with transaction():
        operation = _find(workspace_id, public_id)
        if operation.state is OperationState.DONE:
            raise InvalidState("The operation is done; nothing is left to be cancelled.")
        if operation.state in _GOING:
            _finish(operation, OperationState.CANCELLED, clock.now_ms())
            _record(operation, "cancel", {"done": operation.done})
    return operation


def get(workspace_id: int, public_id: str) -> Operation:
    """One operation of a workspace. Raises NotFound."""
    found = db.session.scalar(
        sa.select(Operation)
        .where(Operation.public_id == public_id, Operation.workspace_id == workspace_id)
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound("There is no such operation.")
    return found


def wake_due() -> int:
    """Free the leases of the dead and wake what runs but is held by nobody. How many. Commits."""
    now = clock.now_ms()
    running = db.session.execute(
        sa.select(_OPERATION.c.id, _OPERATION.c.owner, _OPERATION.c.lease_until)
        .where(_OPERATION.c.state == OperationState.RUNNING)
        .order_by(_OPERATION.c.id)
        .limit(_MOST)
    ).all()
    db.session.rollback()
    free = [row.id for row in running if row.owner is None]
    for row in running:
        if row.owner is not None and (row.lease_until < now or is_dead(row.owner)):
            _release(row.id, row.owner)
            free.append(row.id)
    for operation_id in free:
        wake_operation(operation_id)
    return len(free)


def _record(operation: Operation, verb: str, after: dict[str, Any] | None = None) -> None:
    """What a person did with it, for the audit log."""
    is_start = verb == operation.kind.value
    audit.record(
        f"delivery.{verb}" if is_start else f"operation.{verb}",
        "operation",
        operation.public_id,
        after=after,
        workspace_id=operation.workspace_id,
    )


def _going(workspace_id: int, public_id: str, becomes: str) -> Operation:
    operation = _find(workspace_id, public_id)
    if operation.state not in _GOING:
        raise InvalidState(f"The operation is {operation.state.value}; it cannot be {becomes}.")
    return operation


def _find(workspace_id: int, public_id: str) -> Operation:
    return _lock(get(workspace_id, public_id).id)


def _lock(operation_id: int) -> Operation:
    found = db.session.scalar(
        sa.select(Operation)
        .where(Operation.id == operation_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound("There is no such operation.")
    return found


def _read(operation_id: int) -> Operation:
    db.session.rollback()
    return db.session.get_one(Operation, operation_id, populate_existing=True)
