"""What outbox and inbox do when an agreement changes, plugged into `app.federation.consequences`."""

from app.federation.consequences import Consequences, plug
from app.inbox import stream
from app.outbox import dispatch, withdraw


def plug_in() -> None:
    """Join the stages of an event's way to what happens between instances.

    Once per process; safe to repeat.
    """
    plug(
        Consequences(
            grants_shrank=withdraw.withdraw,
            connection_closed=withdraw.close_connection,
            waits_ended=dispatch.hurry,
            gap_told=stream.gap_told,
            head_told=stream.head_told,
        )
    )
