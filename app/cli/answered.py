"""What the other side said to the message that a command sent."""

from app.cli.output import note, refused
from app.federation import controls
from app.models import ControlState
from app.protocol.control import ControlType


def tell_answer(connection_id: int, control_type: ControlType) -> None:
    """Say if the newest message of this type is not answered yet; end the command if it was refused.

    connection_id: our row number.
    """
    control = controls.newest(connection_id, control_type)
    if control is None:
        return
    if control.state in (ControlState.REFUSED, ControlState.HELD):
        refused(f"The other side answered {control.error_code}: {control.error_detail or 'no detail'}")
    if control.state is ControlState.WAITING:
        tried = f" ({control.error_code}: {control.error_detail})" if control.error_code else ""
        note(
            f"The other side has not answered yet{tried}. It is asked again by itself while `flask up` runs."
        )
