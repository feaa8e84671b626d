"""Operations: many deliveries sent again or given up at once, with a look before and progress after.

selected   rows that were ticked: sent again at once where their peers are well, else after a preview
matching   all that fit a filter: always after a preview, which names the set and what becomes of it
start      the set is frozen and worked off; posting the same preview twice starts it once
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import UUID

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import StringField, TextAreaField
from wtforms.validators import DataRequired, Length, ValidationError

from app.models import OperationKind, Role, Workspace
from app.outbox import dead_letters, operations
from app.outbox.dead_letters import MAX_IDS, DeliveryFilter
from app.protocol.errors import InvalidState, invalid
from app.protocol.members import is_uuid
from app.reports import dead_list
from app.reports import operations as reports
from app.reports.receivers import Receiver, receivers_by_id
from app.web.console.gate import local_path, page
from app.web.console.view import redirect_done, redirect_refused, render, with_query

bp = Blueprint("operations", __name__)

#: How many a trial takes: enough to see whether it helps.
TRIAL = 10

#: What has to be typed before deliveries are given up.
TYPED = "discard"

_VERBS = {OperationKind.RETRY: "sent again", OperationKind.DISCARD: "given up"}


class DiscardForm(FlaskForm):
    """What giving up asks for."""

    reason = TextAreaField(
        "Reason", validators=[DataRequired("Say why, for whoever asks later."), Length(max=1_000)]
    )
    typed = StringField(f"Type {TYPED} to confirm")

    def validate_typed(self, field: StringField) -> None:
        """The word itself, and nothing else."""
        if (field.data or "").strip() != TYPED:
            raise ValidationError(f"This is not the word {TYPED}.")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a person asked for: which deliveries, and what is done to them."""

    kind: OperationKind
    filter: DeliveryFilter
    #: A UUID that is minted with the form: the same one starts nothing twice.
    key: str
    #: At most so many, the oldest.
    max_items: int | None
    #: Where the list is that people came from.
    back: str

    def hidden(self) -> list[tuple[str, str]]:
        """The fields that a form carries on, so that its POST means the same."""
        fields = {
            "act": self.kind.value,
            "status": self.filter.status,
            "connection": self.filter.connection_id,
            "type": self.filter.event_type,
            "error": self.filter.error,
            "key": self.key,
            "back": self.back,
        }
        ids = [("id", id_) for id_ in self.filter.ids or ()]
        return [(name, value) for name, value in fields.items() if value] + ids

    @property
    def operation_id(self) -> str:
        """The operation's public id: another set, or another act, under the same key is another one."""
        said = (self.kind.value, *sorted(self.filter.ids or ()), str(self.max_items))
        return str(uuid.uuid5(UUID(self.key), "\n".join(said)))


def new_key() -> str:
    """For the hidden field `key` of a form that starts an operation."""
    return str(uuid.uuid4())


def new_url(
    workspace: Workspace,
    kind: OperationKind,
    status: str,
    connection: str | None = None,
    event_type: str | None = None,
    error: str | None = None,
) -> str:
    """The address of the preview of an act on all that match."""
    given = {
        "act": kind.value,
        "status": status,
        "connection": connection,
        "type": event_type,
        "error": error,
        "back": with_query(),
    }
    return f"/w/{workspace.slug}/operations/new?{urlencode({k: v for k, v in given.items() if v})}"


@bp.post("/w/<workspace>/operations/selected")
@page(Role.OPERATOR)
def selected(workspace: Workspace) -> ResponseReturnValue:
    """Act on the rows that were ticked."""
    chosen = _read(request.form.getlist("id"))
    if not chosen.filter.ids:
        return redirect_refused(chosen.back, "Nothing is selected. Tick some rows first.")
    found = _preview(workspace, chosen)
    if chosen.kind is OperationKind.DISCARD or any(_warning(row.receiver) for row in found.rows):
        return _show(workspace, chosen, found)
    return _start(workspace, chosen)


@bp.get("/w/<workspace>/operations/new")
@page(Role.OPERATOR)
def new(workspace: Workspace) -> ResponseReturnValue:
    """Show what an act on all that match would do."""
    chosen = _read(None)
    return _show(workspace, chosen, _preview(workspace, chosen))


@bp.post("/w/<workspace>/operations")
@page(Role.OPERATOR)
def start(workspace: Workspace) -> ResponseReturnValue:
    """Do what the preview showed."""
    chosen = _read(request.form.getlist("id") or None)
    if chosen.kind is OperationKind.RETRY:
        return _start(workspace, chosen)
    form = DiscardForm()
    if not form.validate():
        return _show(workspace, chosen, _preview(workspace, chosen), form)
    return _start(workspace, chosen, (form.reason.data or "").strip())


@bp.get("/w/<workspace>/operations")
@page(Role.VIEWER)
def index(workspace: Workspace) -> ResponseReturnValue:
    """All of them, newest first."""
    return render(
        "console/operations/index.html",
        title="Operations",
        active="deliveries",
        found=reports.list_operations(workspace.id, cursor=request.args.get("cursor")),
    )


@bp.get("/w/<workspace>/operations/<uuid:operation_id>")
@page(Role.VIEWER)
def show(workspace: Workspace, operation_id: UUID) -> ResponseReturnValue:
    """How far one is."""
    operation = operations.get(workspace.id, str(operation_id))
    chosen = DeliveryFilter.from_json(json.loads(operation.filter))
    peer = receivers_by_id(workspace.id, [chosen.connection_id] if chosen.connection_id else [])
    return render(
        "console/operations/show.html",
        title=f"{'Retry' if operation.kind is OperationKind.RETRY else 'Discard'} "
        f"{operation.total:,} deliveries",
        active="dead_letters" if chosen.status == "dead" else "deliveries",
        operation=operation,
        details=reports.operation_details(operation),
        chosen=chosen,
        peer=peer.get(chosen.connection_id or ""),
        verb=_VERBS[operation.kind],
    )


@bp.post("/w/<workspace>/operations/<uuid:operation_id>/<any(pause, resume, cancel):act>")
@page(Role.OPERATOR)
def act(workspace: Workspace, operation_id: UUID, act: str) -> ResponseReturnValue:
    """Pause one, let it go on, or end it."""
    url = _url(workspace, str(operation_id))
    do = {"pause": operations.pause, "resume": operations.resume, "cancel": operations.cancel}[act]
    try:
        do(workspace.id, str(operation_id))
    except InvalidState as problem:
        return redirect_refused(url, problem)
    said = {"pause": "It is paused.", "resume": "It goes on.", "cancel": "It is cancelled."}[act]
    return redirect_done(url, said)


@dataclass(frozen=True, slots=True)
class Row:
    """The deliveries of one receiver with one error, and what becomes of them."""

    receiver: Receiver
    error: str
    count: int
    oldest_at: int
    then: str
    #: What helps against the error.
    help: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a choice means now."""

    preview: dead_letters.Preview
    rows: list[Row]

    @property
    def warnings(self) -> list[tuple[int, Receiver, str]]:
        """(how many, to whom, why that is no good now), the most first."""
        counts: dict[str, int] = {}
        for row in self.rows:
            counts[row.receiver.id] = counts.get(row.receiver.id, 0) + row.count
        by_id = {row.receiver.id: row.receiver for row in self.rows}
        found = [(counts[id_], one, _warning(one)) for id_, one in by_id.items() if _warning(one)]
        return sorted(found, key=lambda each: -each[0])

    @property
    def hopeless(self) -> int:
        """Deliveries whose bytes would be refused again."""
        return sum(row.count for row in self.rows if row.error in dead_list.HOPELESS)


def _read(ids: Sequence[str] | None) -> Chosen:
    """What the form or the address says. Raises InvalidRequest."""
    values = request.values
    try:
        kind = OperationKind(values.get("act", "retry"))
    except ValueError:
        raise invalid("/act", "must be retry or discard", "choice") from None
    if ids is not None and len(ids) > MAX_IDS:
        raise invalid("/id", f"at most {MAX_IDS} deliveries can be selected", "range")
    key = values.get("key", "")
    connection, event_type, error = (
        values.get(name, "").strip()[:255] or None for name in ("connection", "type", "error")
    )
    status = values.get("status", "dead")
    return Chosen(
        kind=kind,
        filter=DeliveryFilter(status, connection, event_type, error, None if ids is None else tuple(ids)),
        key=key if is_uuid(key) else new_key(),
        max_items=TRIAL if values.get("take") == "trial" else None,
        back=local_path(values.get("back"), _home(request.view_args or {}, status)),
    )


def _home(arguments: dict[str, object], status: str) -> str:
    return f"/w/{arguments.get('workspace', '')}/{'dead-letters' if status == 'dead' else 'deliveries'}"


def _preview(workspace: Workspace, chosen: Chosen) -> Found:
    found = dead_letters.preview(workspace.id, chosen.filter)
    by_id = receivers_by_id(workspace.id, {group.connection_id for group in found.groups})
    rows = [
        Row(
            by_id[group.connection_id],
            group.error or _waits_for(by_id[group.connection_id]),
            group.count,
            group.oldest_at,
            _then(chosen.kind, by_id[group.connection_id]),
            dead_list.advice(group.error) if group.error else "",
        )
        for group in found.groups
        if group.connection_id in by_id
    ]
    return Found(found, rows)


def _then(kind: OperationKind, receiver: Receiver) -> str:
    """What becomes of the deliveries to a receiver."""
    if kind is OperationKind.DISCARD:
        return "withdrawn for good; the peer is told of the numbers that it waits for"
    if receiver.is_ended:
        return "sent over an open connection to the same instance if there is one, else passed over"
    if receiver.obstacle:
        return f"held: {receiver.obstacle}"
    if receiver.is_probed:
        return "one request carries the first at once; the others follow when it is answered"
    if receiver.failures:
        return "tried at once: a retry ends the wait after failures"
    return "sent at once"


def _waits_for(receiver: Receiver) -> str:
    """The error of the connection, which its deliveries wait for without one of their own."""
    return receiver.wait_code if receiver.failures else ""


def _warning(receiver: Receiver) -> str:
    """Why sending something again to the receiver is no good now; empty if it is."""
    if receiver.is_ended:
        return f"whose connection is {receiver.condition}."
    if receiver.obstacle:
        return f"which gets nothing now: {receiver.obstacle}."
    if receiver.is_probed:
        return "which does not answer. They wait until one request is answered, and use up no attempts."
    if receiver.failures:
        return f"which fails: the last {receiver.failures} requests in a row did."
    return ""


def _show(
    workspace: Workspace, chosen: Chosen, found: Found, form: FlaskForm | None = None
) -> ResponseReturnValue:
    is_retry = chosen.kind is OperationKind.RETRY
    verb = "Retry" if is_retry else "Discard"
    return render(
        "console/operations/preview.html",
        title=f"{verb} {found.preview.count:,} {'delivery' if found.preview.count == 1 else 'deliveries'}",
        active="dead_letters" if chosen.filter.status == "dead" else "deliveries",
        chosen=chosen,
        found=found,
        is_retry=is_retry,
        verb=verb,
        form=None if is_retry else form or DiscardForm(formdata=None),
        trial=TRIAL,
        url=f"/w/{workspace.slug}/operations",
    )


def _start(workspace: Workspace, chosen: Chosen, reason: str | None = None) -> ResponseReturnValue:
    operation = operations.start(
        workspace.id,
        chosen.kind,
        chosen.filter,
        reason=reason,
        max_items=chosen.max_items,
        public_id=chosen.operation_id,
    )
    if operation.finished_at is None:
        return redirect_done(_url(workspace, operation.public_id))
    verb = _VERBS[operation.kind]
    passed = f", {operation.skipped:,} were passed over" if operation.skipped else ""
    plural = "delivery is" if operation.done == 1 else "deliveries are"
    said = f"{operation.done:,} {plural} {verb}{passed}."
    if chosen.filter.ids and not operation.skipped:
        return redirect_done(chosen.back, said)
    return redirect_done(_url(workspace, operation.public_id), said)


def _url(workspace: Workspace, operation_id: str) -> str:
    return f"/w/{workspace.slug}/operations/{operation_id}"
