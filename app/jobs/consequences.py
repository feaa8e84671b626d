"""What outbox and inbox do when an agreement changes, plugged into `app.federation.consequences`."""

from app.federation.consequences import Consequences, plug
from app.inbox import replays, stream
from app.outbox import dispatch, replay, withdraw
from app.reconciliation import run


def plug_in() -> None:
    """Join the stages of an event's way to what happens between instances.

    Once per process; safe to repeat.
    """
    plug(
        Consequences(
            grants_shrank=withdraw.withdraw,
            connection_closed=_close_connection,
            waits_ended=dispatch.hurry,
            gap_told=stream.gap_told,
            head_told=stream.head_told,
            replay_asked=replay.accept,
            replay_answered=replays.answered,
            replay_completed=replays.completed,
            reconcile_asked=run.asked,
            reconcile_answered=run.answered,
        )
    )


def _close_connection(connection_id: int) -> None:
    withdraw.close_connection(connection_id)
    replay.connection_closed(connection_id)
    replays.connection_closed(connection_id)
