"""Forms of the events pages."""

from flask_wtf import FlaskForm
from wtforms import HiddenField, StringField, TextAreaField
from wtforms.validators import InputRequired, Length, Regexp


class PublishForm(FlaskForm):
    """An event to publish. What its fields may hold is decided where every event is published."""

    event_type = StringField(
        "Event type", validators=[InputRequired("Name the event type."), Length(max=255)]
    )
    subject = StringField("Subject", validators=[Length(max=1_024)])
    payload = TextAreaField("Payload", validators=[Length(max=262_144)])
    key = HiddenField(validators=[Regexp(r"[0-9a-f-]{36}\Z", message="Load the form again.")])


class RetryForm(FlaskForm):
    """Send an event again, over one connection or over all where it did not arrive."""

    connection = HiddenField()
