"""Forms of the subscriptions pages."""

from flask_wtf import FlaskForm
from wtforms import Field, SelectField, StringField
from wtforms.validators import InputRequired, ValidationError

from app.reports.patterns import mistake_in


class SubscribeForm(FlaskForm):
    """A pattern of event types, and the connection over which they are to come."""

    connection = SelectField("Peer", validators=[InputRequired("Choose a peer.")])
    event_type = StringField("Event type or pattern")

    def validate_event_type(self, field: Field) -> None:
        """A pattern that is none is refused at the character that is wrong."""
        field.data = (field.data or "").strip()
        mistake = mistake_in(field.data)
        if mistake is not None:
            raise ValidationError(mistake.detail)
