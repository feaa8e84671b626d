"""Forms of the pages about connections."""

from flask_wtf import FlaskForm
from wtforms import BooleanField, HiddenField, PasswordField, RadioField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import InputRequired, Length


class AddressForm(FlaskForm):
    """Whom to look at."""

    address = StringField(
        "Address of their instance",
        validators=[InputRequired("Type the address of their instance."), Length(max=300)],
    )


class RequestForm(FlaskForm):
    """What is sent to whom was looked at."""

    address = HiddenField(validators=[InputRequired(), Length(max=300)])
    #: Of the key that the person saw.
    fingerprint = HiddenField(validators=[InputRequired(), Length(max=64)])
    note = TextAreaField("Note to the people there", validators=[Length(max=1_000)])
    to_workspace = StringField("Their workspace", validators=[Length(max=64)])
    replace = BooleanField("Ask to replace the connection that is open now")


class ComparedForm(FlaskForm):
    """How somebody compared the pairing code."""

    how = RadioField(
        "How did you compare?",
        choices=[
            SelectChoice("by phone or video call", "By phone or video call"),
            SelectChoice("in person", "In person"),
            SelectChoice("over another channel that we trust", "Over another channel that we trust"),
        ],
        default="by phone or video call",
    )
    whom = StringField("With whom", validators=[Length(max=200)])


class KeyReviewForm(FlaskForm):
    """A decision about a key, by somebody who shows once more who they are."""

    password = PasswordField(
        "Your password", validators=[InputRequired("Type your password."), Length(max=1_000)]
    )
