"""Forms that several pages share, and how a service's refusal finds its field."""

import re
from collections.abc import Mapping
from typing import Any

from flask_wtf import FlaskForm
from wtforms import StringField, TextAreaField
from wtforms.validators import Length, ValidationError

from app.protocol.errors import Problem

#: Fields of a form by the names that the services' JSON pointers use, where these differ.
Pointers = Mapping[str, str]


class ConfirmForm(FlaskForm):
    """What a confirmation asks for; fields that it does not need are taken out by `confirm_form`."""

    typed = StringField("Type the name to confirm")
    reason = TextAreaField("Reason", validators=[Length(max=1_000)])


def confirm_form(type_the_name: str | None = None, *, reason: str | None = None) -> ConfirmForm:
    """The form of a confirmation.

    type_the_name: what has to be typed, exactly. reason: the label of a text that may be given, such as
    "Reason, which they are told".
    """
    form = ConfirmForm()
    if type_the_name is None:
        del form.typed
    else:
        form.typed.label.text = f"Type {type_the_name} to confirm"
        form.typed.validators = [_same(type_the_name)]
    if reason is None:
        del form.reason
    else:
        form.reason.label.text = reason
    return form


def _same(wanted: str) -> Any:
    def check(_form: FlaskForm, field: StringField) -> None:
        if (field.data or "").strip() != wanted:
            raise ValidationError(f"This is not {wanted}.")

    return check


def place_problem(form: FlaskForm, problem: Problem, pointers: Pointers | None = None) -> None:
    """Put the refusal where it belongs: each error at its field, what has no field into the summary."""
    placed = False
    for error in problem.errors:
        name = _field_name(error.pointer, pointers or {})
        if name in form:
            field = form[name]
            field.errors = [*field.errors, _sentence(error.detail)]
            placed = True
        else:
            form.form_errors.append(_sentence(error.detail))
    if not placed and not form.form_errors:
        form.form_errors.append(_sentence(problem.detail or problem.title))


def _field_name(pointer: str, pointers: Pointers) -> str:
    """`/payload/order` is `payload`, `/eventType` is `event_type`."""
    first = pointer.lstrip("/").partition("/")[0]
    return pointers.get(first) or re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", first)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
