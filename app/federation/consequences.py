"""Consequences: what the stages of an event's way do when an agreement changes.

The packages that send and receive events stand above this one and know it; this one must not know them. So
they plug in from above, once, when the app is made (`app.jobs.consequences`), and are called by what
happened here, inside the transaction of the change, so that cause and effect are one whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.protocol.control import Reconcile, ReplayComplete, ReplayRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequences:
    """Who is told what; every argument is a row number, a wire value or payload, or Unix ms."""

    #: (connection_id): fewer types may be sent over the connection than before.
    grants_shrank: Callable[[int], object]
    #: (connection_id): the connection has ended.
    connection_closed: Callable[[int], object]
    #: (connection_id): somebody wants everything that waits there to be tried at once.
    waits_ended: Callable[[int], object]
    #: (connection_id, epoch, from_sequence, to_sequence, reason): the peer will not send these numbers.
    gap_told: Callable[[int, str, int, int, str], object]
    #: (connection_id, epoch, head_sequence, oldest_sequence): how far the peer has counted.
    head_told: Callable[[int, str, int, int], object]
    #: (connection_id, request): the peer wants events again. Raises what it is answered if it gets none.
    replay_asked: Callable[[int, ReplayRequest], object]
    #: (connection_id, replay_id, code, detail): the peer answered that request of ours; code None: it begins.
    replay_answered: Callable[[int, str, str | None, str | None], object]
    #: (connection_id, complete): the peer has sent again what we asked for.
    replay_completed: Callable[[int, ReplayComplete], object]
    #: (connection_id, request): the peer compares what it has with what we have. The payload of the answer.
    reconcile_asked: Callable[[int, Reconcile], dict[str, Any]]
    #: (connection_id, our payload, payload of the answer): what the peer said to a comparison of ours.
    reconcile_answered: Callable[[int, dict[str, Any], dict[str, Any] | None], object]


_plugged: list[Consequences] = []


def plug(consequences: Consequences) -> None:
    """Say who is told. The last call counts."""
    _plugged[:] = [consequences]


def plugged() -> Consequences:
    """Who is told.

    Raises LookupError if nobody plugged in, which is a mistake in putting the app together.
    """
    if not _plugged:
        raise LookupError("nobody is told what follows; the app was not put together")
    return _plugged[0]
