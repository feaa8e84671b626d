"""Connections: look, ask, accept, stop, go on, end, and see whether both ways work."""

from collections.abc import Callable

from app.errors import (
    ConnectionExists,
    InvalidCursor,
    InvalidState,
    Problem,
    RemoteInvalid,
    RemoteUnreachable,
)
from app.federation import asking, connections, trust
from app.inbox import replays
from app.models import Direction
from app.reports.connections import (
    connection_row,
    get_connection_details,
    list_connections,
    streams_of,
)
from app.reports.details import ConnectionDetails, ConnectionStreams, ReplayDetails
from app.reports.paging import Page
from app.reports.replays import get_replay
from app.web.api import api
from app.web.api.operation import View
from app.web.api.schemas import ConnectionQuery, Initiate, Preview, Reason, ReplayRange, Steering
from app.web.api.shapes import Listing, PreviewDetails, VerificationDetails
from app.web.auth import Bearer, Scope
from app.web.params import Body

READ = (Scope.EVENTS_READ, Scope.CONNECTIONS_WRITE)
WRITE = Scope.CONNECTIONS_WRITE
REMOTE = (RemoteUnreachable, RemoteInvalid)


def _step(name: str, body: type[Body], *problems: type[Problem]) -> Callable[[View], View]:
    """Declare a call that does something to one connection, and shows the connection after it."""
    return api.post(
        f"/connections/<connection_id>/{name}",
        tag="Connections",
        scope=WRITE,
        body=body,
        body_required=False,
        answers={200: ConnectionDetails},
        problems=(InvalidState, *problems),
    )


@api.post(
    "/connections/preview",
    tag="Connections",
    scope=WRITE,
    body=Preview,
    answers={200: PreviewDetails},
    problems=REMOTE,
)
def preview_connection(_bearer: Bearer, body: Preview) -> PreviewDetails:
    """Look at what a remote instance says of itself. Nothing is stored."""
    seen = asking.preview(body.remote_url)
    return PreviewDetails(
        instanceId=seen.instance_id,
        name=seen.name,
        remoteUrl=seen.base_url,
        software=seen.software,
        versions=list(seen.versions),
        features=list(seen.features),
        limits=seen.limits,
        keyId=seen.key_id,
        fingerprint=seen.fingerprint,
        pairingCode=seen.pairing_code,
        knownFingerprints=list(seen.known_fingerprints),
        isSelf=seen.is_self,
        clockSkewMs=seen.clock_skew_ms,
        latencyMs=seen.latency_ms,
    )


@api.post(
    "/connections/initiate",
    tag="Connections",
    scope=WRITE,
    body=Initiate,
    answers={202: ConnectionDetails},
    problems=(ConnectionExists, InvalidState, *REMOTE),
)
def initiate_connection(bearer: Bearer, body: Initiate) -> ConnectionDetails:
    """Ask a remote instance for a connection.

    A second request to an instance and workspace with a waiting or open connection is refused, but with
    `replace` an open one is asked to be replaced.
    """
    connection = asking.initiate(
        bearer.workspace_id,
        body.remote_url,
        to_workspace=body.to_workspace,
        note=body.note,
        replace=body.replace,
    )
    return get_connection_details(bearer.workspace_id, connection.public_id)


@api.get(
    "/connections",
    tag="Connections",
    scope=READ,
    query=ConnectionQuery,
    answers={200: Listing[ConnectionDetails]},
    problems=(InvalidCursor,),
)
def browse_connections(bearer: Bearer, query: ConnectionQuery) -> Page[ConnectionDetails]:
    """List connections, newest first."""
    return list_connections(bearer.workspace_id, status=query.status, limit=query.limit, cursor=query.cursor)


@api.get(
    "/connections/<connection_id>",
    tag="Connections",
    scope=READ,
    answers={200: ConnectionDetails},
)
def show_connection(bearer: Bearer, connection_id: str) -> ConnectionDetails:
    """Show one connection."""
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("accept", Reason)
def accept_connection(bearer: Bearer, connection_id: str, body: Reason) -> ConnectionDetails:
    """Accept a request; only the asked side can."""
    connections.accept(connection_row(bearer.workspace_id, connection_id).id, body.reason)
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("reject", Reason)
def reject_connection(bearer: Bearer, connection_id: str, body: Reason) -> ConnectionDetails:
    """Reject a request; only the asked side can."""
    connections.reject(connection_row(bearer.workspace_id, connection_id).id, body.reason)
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("suspend", Reason)
def suspend_connection(bearer: Bearer, connection_id: str, body: Reason) -> ConnectionDetails:
    """Stop the traffic of a connection; deliveries are held."""
    connections.suspend(connection_row(bearer.workspace_id, connection_id).id, body.reason)
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("resume", Reason)
def resume_connection(bearer: Bearer, connection_id: str, body: Reason) -> ConnectionDetails:
    """Take back a suspension of ours; a suspension of the peer stays."""
    connections.resume(connection_row(bearer.workspace_id, connection_id).id, body.reason)
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("disconnect", Reason)
def disconnect_connection(bearer: Bearer, connection_id: str, body: Reason) -> ConnectionDetails:
    """End a connection, or withdraw a request.

    Subscriptions end, and what waits becomes dead letters; history stays.
    """
    connections.disconnect(connection_row(bearer.workspace_id, connection_id).id, body.reason)
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("retry-now", Steering)
def retry_now(bearer: Bearer, connection_id: str, body: Steering) -> ConnectionDetails:
    """End a wait after failures, and a hold after a refusal: send now."""
    connections.retry_now(connection_row(bearer.workspace_id, connection_id).id)
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("pause", Steering)
def pause_connection(bearer: Bearer, connection_id: str, body: Steering) -> ConnectionDetails:
    """Pause here, without telling the peer; one direction, or both."""
    connections.pause(connection_row(bearer.workspace_id, connection_id).id, _direction(body))
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("unpause", Steering)
def unpause_connection(bearer: Bearer, connection_id: str, body: Steering) -> ConnectionDetails:
    """End a pause; of one direction, or of both."""
    connections.unpause(connection_row(bearer.workspace_id, connection_id).id, _direction(body))
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("mark-verified", Steering)
def mark_verified(bearer: Bearer, connection_id: str, body: Steering) -> ConnectionDetails:
    """Note that a person compared the pairing code with the other side."""
    trust.mark_verified(
        connection_row(bearer.workspace_id, connection_id).id, by=f"token {bearer.prefix}", reason=body.reason
    )
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("keys/accept", Steering, *REMOTE)
def accept_keys(bearer: Bearer, connection_id: str, body: Steering) -> ConnectionDetails:
    """Trust the peer's new keys, which no older key vouches for."""
    trust.accept_keys(connection_row(bearer.workspace_id, connection_id).id)
    return get_connection_details(bearer.workspace_id, connection_id)


@_step("keys/refuse", Steering)
def refuse_keys(bearer: Bearer, connection_id: str, body: Steering) -> ConnectionDetails:
    """Go on with the keys that were trusted before."""
    trust.refuse_keys(connection_row(bearer.workspace_id, connection_id).id)
    return get_connection_details(bearer.workspace_id, connection_id)


@api.post(
    "/connections/<connection_id>/replay",
    tag="Connections",
    scope=WRITE,
    body=ReplayRange,
    body_required=False,
    answers={202: ReplayDetails},
    problems=(InvalidState,),
)
def request_replay(bearer: Bearer, connection_id: str, body: ReplayRange) -> ReplayDetails:
    """Ask the peer to send events again. What it sent and we have already is stored once.

    The events come under the numbers that they had, beside the live ones. A peer that has nothing of them any
    more answers `replay_gone`, shown as `error` with the status `refused`; while another replay runs, the
    request waits for its turn.
    """
    row = connection_row(bearer.workspace_id, connection_id)
    wanted = replays.Wanted(
        from_sequence=body.from_sequence,
        to_sequence=body.to_sequence,
        since=body.since,
        until=body.until,
        event_types=body.event_types,
    )
    made = replays.request(row.id, wanted, requested_by=f"token {bearer.prefix}")
    return get_replay(bearer.workspace_id, made.replay_id)


def _direction(body: Steering) -> Direction | None:
    return Direction(body.direction) if body.direction is not None else None


@api.get(
    "/connections/<connection_id>/stream",
    tag="Connections",
    scope=READ,
    answers={200: ConnectionStreams},
)
def show_streams(bearer: Bearer, connection_id: str) -> ConnectionStreams:
    """Show where both streams of a connection stand, and what is missing."""
    row = connection_row(bearer.workspace_id, connection_id)
    return ConnectionStreams(
        incoming=streams_of(row.id, Direction.INCOMING), outgoing=streams_of(row.id, Direction.OUTGOING)
    )


@api.post(
    "/connections/<connection_id>/verify",
    tag="Connections",
    scope=WRITE,
    body=Reason,
    body_required=False,
    answers={200: VerificationDetails},
    problems=(InvalidState, *REMOTE),
)
def verify_connection(bearer: Bearer, connection_id: str, body: Reason) -> VerificationDetails:
    """Send a signed question to the peer and check its signed answer."""
    seen = connections.verify(connection_row(bearer.workspace_id, connection_id).id)
    return VerificationDetails(
        connectionId=connection_id,
        ok=seen.matched,
        status=seen.status,
        roundTripMs=seen.round_trip_ms,
        clockSkewMs=seen.clock_skew_ms,
    )
