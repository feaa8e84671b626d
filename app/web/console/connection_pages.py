"""The pages of one connection: each tab has its own address."""

import json
from typing import Any
from uuid import UUID

from flask import Response, request
from flask.typing import ResponseReturnValue

from app.federation import identity
from app.models import Connection, Direction, Role, Workspace
from app.reports import handshake, peer_keys
from app.reports.connections import streams_of
from app.reports.deliveries import list_deliveries
from app.reports.event_log import get_event_messages
from app.reports.times import parse_rfc3339
from app.web.console.connection_frame import ONE, bp, one, show
from app.web.console.connections_forms import ComparedForm, KeyReviewForm
from app.web.console.gate import page
from app.web.console.stream import stream_context

#: Rows of the short lists of events and deliveries.
_SHORT = 20
#: What is read of a time in an address, ms.
_MAX_MS = 2**50


@bp.get(ONE)
@page(Role.VIEWER)
def summary(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """How it came about, how it does, and what happened lately."""
    connection = one(workspace, connection_id)
    return show(
        workspace,
        connection,
        "summary",
        steps=handshake.steps(connection),
        lately=handshake.lately(connection),
        subscribed=handshake.subscription_counts(connection.id),
        outgoing=streams_of(connection.id, Direction.OUTGOING),
        incoming=streams_of(connection.id, Direction.INCOMING),
        facts=peer_keys.document_facts(connection.peer) if connection.peer else {},
        keys=peer_keys.peer_keys(connection),
    )


@bp.get(f"{ONE}/verify")
@page(Role.VIEWER)
def verify(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Both fingerprints, and the one code to compare."""
    return show_verify(workspace, one(workspace, connection_id), ComparedForm())


def show_verify(workspace: Workspace, connection: Connection, form: ComparedForm) -> Response:
    """The tab, with the form as it was filled in."""
    return show(
        workspace,
        connection,
        "verify",
        form=form,
        keys=peer_keys.peer_keys(connection),
        ours=identity.local_instance(),
        how=_read(connection.verified_how),
    )


@bp.get(f"{ONE}/subscriptions")
@page(Role.VIEWER)
def subscriptions(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Theirs and ours over this connection."""
    connection = one(workspace, connection_id)
    found = handshake.subscriptions(connection.id)
    return show(
        workspace,
        connection,
        "subscriptions",
        theirs=[row for row in found if row.direction is Direction.OUTGOING],
        ours=[row for row in found if row.direction is Direction.INCOMING],
    )


@bp.get(f"{ONE}/events")
@page(Role.VIEWER)
def events(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """The newest events in both directions."""
    connection = one(workspace, connection_id)
    found = {
        way.value: get_event_messages(
            workspace.id, connection_id=connection.public_id, direction=way.value, limit=_SHORT
        ).data
        for way in Direction
    }
    rows = sorted(
        (row for rows in found.values() for row in rows), key=lambda row: row["createdAt"], reverse=True
    )
    return show(
        workspace,
        connection,
        "events",
        rows=[(parse_rfc3339(row["createdAt"]), row) for row in rows[:_SHORT]],
    )


@bp.get(f"{ONE}/deliveries")
@page(Role.VIEWER)
def deliveries(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """The newest deliveries."""
    connection = one(workspace, connection_id)
    found = list_deliveries(workspace.id, connection_id=connection.public_id, limit=_SHORT)
    return show(
        workspace,
        connection,
        "deliveries",
        rows=[
            (
                parse_rfc3339(row["createdAt"]),
                parse_rfc3339(row["nextAttemptAt"]) if row["nextAttemptAt"] else None,
                row,
            )
            for row in found.data
        ],
    )


@bp.get(f"{ONE}/stream")
@page(Role.VIEWER)
def stream(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Up to where both directions are complete, what is missing, and why."""
    connection = one(workspace, connection_id)
    return show(
        workspace,
        connection,
        "stream",
        connection_id=connection.public_id,
        **stream_context(workspace.id, connection.public_id),
    )


@bp.get(f"{ONE}/keys")
@page(Role.VIEWER)
def keys(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """The peer's keys, and the decision about one that nobody vouched for."""
    return show_keys(workspace, one(workspace, connection_id), KeyReviewForm())


def show_keys(workspace: Workspace, connection: Connection, form: KeyReviewForm) -> Response:
    """The tab, with the form as it was filled in."""
    return show(workspace, connection, "keys", form=form, keys=peer_keys.peer_keys(connection))


@bp.get(f"{ONE}/keys/<key_id>.pem")
@page(Role.VIEWER)
def public_key(workspace: Workspace, connection_id: UUID, key_id: str) -> ResponseReturnValue:
    """A public key of the peer, to look at with other tools."""
    record = peer_keys.public_key(one(workspace, connection_id), key_id)
    return pem_file(record.key_id, record.public_key_pem)


def pem_file(key_id: str, pem: str) -> Response:
    """A public key as a file."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in key_id)[:64]
    answer = Response(pem, mimetype="application/x-pem-file")
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}.pem"'
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer


@bp.get(f"{ONE}/settings")
@page(Role.VIEWER)
def settings(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """Pauses, back-off, limits and the way out."""
    connection = one(workspace, connection_id)
    facts = peer_keys.document_facts(connection.peer) if connection.peer else {}
    return show(workspace, connection, "settings", facts=facts)


@bp.get(f"{ONE}/history")
@page(Role.VIEWER)
def history(workspace: Workspace, connection_id: UUID) -> ResponseReturnValue:
    """What was said and done; `?heartbeats=1` with the signs of life, `?before=` (ms) goes on."""
    connection = one(workspace, connection_id)
    before = request.args.get("before", type=int)
    with_heartbeats = request.args.get("heartbeats") == "1"
    entries, older = handshake.history(
        connection,
        before if before is not None and 0 < before < _MAX_MS else None,
        with_heartbeats=with_heartbeats,
    )
    return show(
        workspace, connection, "history", entries=entries, older=older, with_heartbeats=with_heartbeats
    )


def _read(text: str | None) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}
