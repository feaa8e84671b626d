"""The form that asks a peer to send events again."""

from datetime import UTC, datetime
from typing import Any

from flask_wtf import FlaskForm
from wtforms import DateTimeLocalField, HiddenField, IntegerField, SelectField, StringField
from wtforms.validators import Length, NumberRange, Optional

from app.inbox.replays import Wanted

#: Largest sequence (2^53 - 1).
_MAX_SEQUENCE = 2**53 - 1

#: As browsers send `datetime-local`, and with the T that people may type otherwise.
_FORMATS = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"]


def _stripped(text: Any) -> Any:
    return text.strip() if isinstance(text, str) else text


class ReplayForm(FlaskForm):
    """Over which connection, and what; everything but the connection may be left out."""

    connection = SelectField("Connection")
    from_sequence = IntegerField(
        "From number", validators=[Optional(), NumberRange(1, _MAX_SEQUENCE, "A number is 1 or more.")]
    )
    to_sequence = IntegerField(
        "To number", validators=[Optional(), NumberRange(1, _MAX_SEQUENCE, "A number is 1 or more.")]
    )
    since = DateTimeLocalField("Published from (UTC)", format=_FORMATS, validators=[Optional()])
    until = DateTimeLocalField("Published to (UTC)", format=_FORMATS, validators=[Optional()])
    types = StringField("Event types", filters=[_stripped], validators=[Optional(), Length(max=1_000)])
    #: A UUID minted with the form, so that posting it twice asks once.
    key = HiddenField()

    def wanted(self) -> Wanted:
        """What is asked for."""
        patterns = (self.types.data or "").replace(",", " ").split()
        return Wanted(
            from_sequence=self.from_sequence.data,
            to_sequence=self.to_sequence.data,
            since=_milliseconds(self.since.data),
            until=_milliseconds(self.until.data),
            event_types=tuple(patterns) or None,
        )


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp() * 1000)
