"""`flask connection`: agreements with other instances, from the first question to the end."""

from collections.abc import Callable

import click

from app.cli.answered import tell_answer
from app.cli.lookup import connection_id, workspace_named
from app.cli.output import (
    Failure,
    Group,
    note,
    output_option,
    print_list,
    print_one,
    refused,
    workspace_option,
)
from app.errors import RemoteInvalid
from app.federation import asking, connections, trust
from app.models import Direction
from app.protocol.control import ControlType
from app.protocol.states import OPEN, ConnectionStatus
from app.reports.ailments import what_ails
from app.reports.connections import connection_row, get_connection_details, list_connections


@click.group(cls=Group)
def connection() -> None:
    """Ask other instances for connections, answer those who ask, stop and end them."""


@connection.command()
@click.argument("url")
@output_option
def preview(url: str, output: str) -> None:
    """Ask the instance at URL who it is. Nothing is stored.

    Compare the fingerprint with what its people tell you by another way.
    """
    seen = asking.preview(url)
    print_one(
        {
            "instanceId": seen.instance_id,
            "name": seen.name,
            "remoteUrl": seen.base_url,
            "software": seen.software,
            "versions": list(seen.versions),
            "features": list(seen.features),
            "limits": seen.limits,
            "keyId": seen.key_id,
            "fingerprint": seen.fingerprint,
            "pairingCode": seen.pairing_code,
            "knownFingerprints": list(seen.known_fingerprints),
            "isSelf": seen.is_self,
            "clockSkewMs": seen.clock_skew_ms,
            "latencyMs": seen.latency_ms,
        },
        output,
    )


@connection.command()
@click.argument("url")
@click.option("--to-workspace", metavar="SLUG", help="The workspace there; its default one if not given.")
@click.option("--note", "message", help="For the people there, up to 1000 characters.")
@click.option("--replace", is_flag=True, help="Ask to replace the connection that is open.")
@workspace_option
@output_option
def request(
    url: str, to_workspace: str | None, message: str | None, replace: bool, workspace: str, output: str
) -> None:
    """Ask the instance at URL for a connection with this workspace."""
    place = workspace_named(workspace)
    made = asking.initiate(place.id, url, to_workspace, message, replace)
    details = get_connection_details(place.id, made.public_id)
    print_one(details, output)
    if made.status is ConnectionStatus.REJECTED:
        refused(f"The other side rejected the request: {made.reason or 'no reason given'}")
    tell_answer(made.id, ControlType.CONNECTION_REQUEST)
    if made.status is ConnectionStatus.REQUESTED:
        note(f"Waiting for the people there to accept. Both sides show {details['pairingCode']}.")


@connection.command("list")
@click.option(
    "--status", type=click.Choice([value.value for value in ConnectionStatus]), help="Only with this status."
)
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Rows of a page.")
@click.option("--cursor", help="Go on after a page: its nextCursor.")
@workspace_option
@output_option
def list_(status: str | None, limit: int, cursor: str | None, workspace: str, output: str) -> None:
    """List connections, the newest first."""
    place = workspace_named(workspace)
    page = list_connections(place.id, status=status, limit=limit, cursor=cursor)
    print_list(page, ("id", "status", "direction", "remoteName", "remoteUrl", "waiting", "createdAt"), output)


@connection.command()
@click.argument("id_", metavar="ID")
@workspace_option
@output_option
def show(id_: str, workspace: str, output: str) -> None:
    """Show the connection ID (or the beginning of its id)."""
    place = workspace_named(workspace)
    row = connection_row(place.id, connection_id(place, id_))
    details = get_connection_details(place.id, row.public_id)
    if output == "json":
        print_one(details, output)
        return
    ailment = what_ails(row) if row.status in OPEN else None
    trouble = {"trouble": ailment.detail, "whatToDo": ailment.do or None} if ailment else {"trouble": None}
    paused = _paused(row.paused_outgoing, row.paused_incoming)
    print_one({**details, "pausedHere": paused, **trouble}, output)


def _paused(outgoing: bool, incoming: bool) -> str | None:
    """What people here stopped, in words; the other side does not know of it."""
    ways = [
        way.value
        for way, stopped in ((Direction.OUTGOING, outgoing), (Direction.INCOMING, incoming))
        if stopped
    ]
    return f"{' and '.join(ways)}; `flask connection unpause` goes on" if ways else None


def _move(name: str, act: Callable[[int, str | None], object], tells: ControlType, says: str) -> None:
    """Add a command that moves a connection and tells the other side."""

    @connection.command(name, help=says)
    @click.argument("id_", metavar="ID")
    @click.option("--reason", help="Told to the other side, up to 1000 characters.")
    @workspace_option
    @output_option
    def move(id_: str, reason: str | None, workspace: str, output: str) -> None:
        place = workspace_named(workspace)
        row = connection_row(place.id, connection_id(place, id_))
        act(row.id, reason)
        print_one(get_connection_details(place.id, row.public_id), output)
        tell_answer(row.id, tells)


_move(
    "accept",
    connections.accept,
    ControlType.CONNECTION_ACCEPT,
    "Accept a request; only the side that was asked can.",
)
_move(
    "reject",
    connections.reject,
    ControlType.CONNECTION_REJECT,
    "Reject a request; only the side that was asked can.",
)
_move(
    "suspend",
    connections.suspend,
    ControlType.CONNECTION_SUSPEND,
    "Stop the traffic of a connection; what is to be sent is held.",
)
_move(
    "resume",
    connections.resume,
    ControlType.CONNECTION_RESUME,
    "Take back our suspension; one of the other side stays.",
)
_move(
    "disconnect",
    connections.disconnect,
    ControlType.CONNECTION_DISCONNECT,
    "End a connection, or withdraw a request. Subscriptions end, and what waits becomes dead letters.",
)


@connection.command()
@click.argument("id_", metavar="ID")
@workspace_option
@output_option
def verify(id_: str, workspace: str, output: str) -> None:
    """Send a signed question to the other side, and check its signed answer."""
    place = workspace_named(workspace)
    row = connection_row(place.id, connection_id(place, id_))
    try:
        seen = connections.verify(row.id)
    except RemoteInvalid as problem:
        refused(problem.detail)
    print_one(
        {
            "connectionId": row.public_id,
            "ok": seen.matched,
            "status": seen.status,
            "roundTripMs": seen.round_trip_ms,
            "clockSkewMs": seen.clock_skew_ms,
        },
        output,
    )
    if not seen.matched:
        raise Failure(
            f"The answer is not the one to our question. `flask connection show {row.public_id}` tells more."
        )


@connection.command("trust")
@click.argument("id_", metavar="ID")
@click.option("--refuse", is_flag=True, help="Go on with the keys that were trusted before.")
@workspace_option
@output_option
def trust_keys(id_: str, refuse: bool, workspace: str, output: str) -> None:
    """Trust the new keys of the other side, which no older key vouches for.

    `flask connection show` has both fingerprints, the trusted one and the new one. Compare the new one with
    what its people tell you by another way before you do.
    """
    place = workspace_named(workspace)
    row = connection_row(place.id, connection_id(place, id_))
    before = get_connection_details(place.id, row.public_id)
    decide = trust.refuse_keys if refuse else trust.accept_keys
    decide(row.id)
    print_one(get_connection_details(place.id, row.public_id), output)
    note(
        f"{'Refused' if refuse else 'Trusted'} is {before['newFingerprint']}; "
        f"before it was {before['fingerprint']}."
    )


@connection.command("mark-verified")
@click.argument("id_", metavar="ID")
@click.option("--reason", help="How it was compared, for the record.")
@workspace_option
@output_option
def mark_verified(id_: str, reason: str | None, workspace: str, output: str) -> None:
    """Note that the pairing code was compared with the people of the other side."""
    place = workspace_named(workspace)
    row = connection_row(place.id, connection_id(place, id_))
    trust.mark_verified(row.id, by="command line", reason=reason)
    print_one(get_connection_details(place.id, row.public_id), output)


@connection.command("retry-now")
@click.argument("id_", metavar="ID")
@workspace_option
@output_option
def retry_now(id_: str, workspace: str, output: str) -> None:
    """End a wait after failures, or a hold after a refusal: send now."""
    place = workspace_named(workspace)
    row = connection_row(place.id, connection_id(place, id_))
    connections.retry_now(row.id)
    print_one(get_connection_details(place.id, row.public_id), output)


def _pausing(name: str, act: Callable[[int, Direction | None], object], says: str) -> None:
    """Add a command that stops or continues here, without telling the other side."""

    @connection.command(name, help=says)
    @click.argument("id_", metavar="ID")
    @click.option(
        "--direction",
        type=click.Choice([value.value for value in Direction]),
        help="Only this one; both if not given.",
    )
    @workspace_option
    @output_option
    def steer(id_: str, direction: str | None, workspace: str, output: str) -> None:
        place = workspace_named(workspace)
        row = connection_row(place.id, connection_id(place, id_))
        act(row.id, Direction(direction) if direction else None)
        print_one(get_connection_details(place.id, row.public_id), output)


_pausing("pause", connections.pause, "Pause here, without telling the other side.")
_pausing("unpause", connections.unpause, "End a pause.")
