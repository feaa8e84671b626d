"""Purge: remove the made-up history, and nothing else.

What is removed is the workspace that `flask seed` made and all that is in it, whoever put it there. In
pieces of a transaction each; the workspace itself goes last, so that an interrupted purge can be repeated.
"""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from app.database import Model, db, table_of, transaction
from app.models import (
    Attempt,
    AttemptEntry,
    AuditEntry,
    Connection,
    ControlOut,
    ControlReceived,
    Delivery,
    Event,
    EventAlias,
    EventSignature,
    EventTrace,
    IdempotencyKey,
    KeyTold,
    Member,
    Operation,
    Peer,
    PeerKey,
    Reconciliation,
    Replay,
    SignInLink,
    Stream,
    StreamGap,
    Subscription,
    Token,
    Workspace,
)

#: Rows of a piece.
_PIECE = 2_000


def purge(workspace_id: int) -> int:
    """Remove a seeded workspace. How many events went. Commits in pieces; safe to repeat."""
    sum(_delete_deliveries(workspace_id))
    connections = sa.select(Connection.id).where(Connection.workspace_id == workspace_id)
    sum(_delete_attempts(connections))
    events = sum(_delete_events(workspace_id))
    with transaction():
        _delete_rest(workspace_id)
    return events


def _delete_deliveries(workspace_id: int) -> Iterator[int]:
    """Deliveries with what each try did to them."""
    while ids := _first(Delivery, Delivery.workspace_id == workspace_id):
        with transaction():
            _delete(AttemptEntry, AttemptEntry.delivery_id.in_(ids))
            _delete(Delivery, Delivery.id.in_(ids))
        yield len(ids)


def _delete_events(workspace_id: int) -> Iterator[int]:
    while ids := _first(Event, Event.workspace_id == workspace_id):
        with transaction():
            for model in (EventAlias, EventSignature):
                _delete(model, model.event_id.in_(ids))
            _delete(Event, Event.id.in_(ids))
        yield len(ids)


def _delete_attempts(connections: sa.Select[Any]) -> Iterator[int]:
    while ids := _first(Attempt, Attempt.connection_id.in_(connections)):
        with transaction():
            _delete(Attempt, Attempt.id.in_(ids))
        yield len(ids)


def _first(model: Any, condition: sa.ColumnElement[bool]) -> list[int]:
    ids = list(db.session.scalars(sa.select(model.id).where(condition).order_by(model.id).limit(_PIECE)))
    db.session.rollback()
    return ids


def _delete(model: type[Model], condition: sa.ColumnElement[bool]) -> None:
    db.session.execute(sa.delete(table_of(model)).where(condition))


def _delete_rest(workspace_id: int) -> None:
    """All that is few, and last the workspace. Called inside `transaction()`."""
    connections = list(
        db.session.scalars(sa.select(Connection.id).where(Connection.workspace_id == workspace_id))
    )
    peers = list(
        db.session.scalars(sa.select(Connection.peer_id).where(Connection.workspace_id == workspace_id))
    )
    streams = sa.select(Stream.id).where(Stream.connection_id.in_(connections))
    _delete(StreamGap, StreamGap.stream_id.in_(streams))
    by_connection: tuple[Any, ...] = (
        EventTrace,
        Replay,
        Reconciliation,
        Stream,
        KeyTold,
        ControlOut,
        ControlReceived,
        Subscription,
    )
    for model in by_connection:
        _delete(model, model.connection_id.in_(connections))
    _delete(Connection, Connection.id.in_(connections))
    elsewhere = sa.select(Connection.peer_id).where(Connection.peer_id.in_(peers))
    _delete(PeerKey, sa.and_(PeerKey.peer_id.in_(peers), PeerKey.peer_id.not_in(elsewhere)))
    _delete(Peer, sa.and_(Peer.id.in_(peers), Peer.id.not_in(elsewhere)))
    by_workspace: tuple[Any, ...] = (Operation, IdempotencyKey, Token, SignInLink, Member, AuditEntry)
    for model in by_workspace:
        _delete(model, model.workspace_id == workspace_id)
    _delete(Workspace, Workspace.id == workspace_id)
