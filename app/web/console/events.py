"""Events: search them, publish one, and see what became of each.

The list is kept fresh by reading the page again, as all lists are: a stream to each browser would hold a
thread of a web process each, and a page that asks every few seconds costs a few milliseconds. With `tail=1`
new rows come by themselves; else they wait behind "3 new – show".
"""

from uuid import UUID

from flask import Blueprint, Response, request, stream_with_context
from flask.typing import ResponseReturnValue

from app.config import settings
from app.models import Direction, Role, Workspace
from app.outbox.dead_letters import retry_event
from app.protocol.errors import NotFound
from app.reports import event_detail, event_export, event_search
from app.reports.event_detail import EventFacts
from app.reports.event_types import seen_types
from app.reports.patterns import by_first_segment
from app.reports.proof import Proof, findings, own_receipt, read_proof
from app.reports.proof_files import openssl_lines, proof_files
from app.reports.why import explain
from app.reports.words import visible
from app.web.console import event_query, publishing, shell
from app.web.console.event_query import EventQuery, href, read_query
from app.web.console.events_forms import PublishForm, RetryForm
from app.web.console.gate import current_user, page
from app.web.console.view import problems, redirect_done, redirect_refused, render
from app.web.limits import draw

bp = Blueprint("events", __name__)

HOME = "/w/<workspace>/events"
ONE = f"{HOME}/<uuid:message_id>"

#: Seconds after which a page that follows the log comes again without scripts.
_TAIL_S = 5

_FORMS = ("tree", "pretty", "raw")


@bp.get(HOME)
@page(Role.VIEWER)
def index(workspace: Workspace) -> ResponseReturnValue:
    """The list: `?q=` is the query, `older` and `newer` are places in it, `tail=1` follows it."""
    moved = event_query.moved(request.args)
    if moved is not None:
        return redirect_done(href(_home(workspace), moved, tail=request.args.get("tail")))
    query = read_query(request.args.get("q", ""))
    found = event_search.search_events(
        workspace.id, query.search, older=request.args.get("older"), newer=request.args.get("newer")
    )
    is_tail = request.args.get("tail") == "1" and found.newer is None
    return render(
        "console/events/list.html",
        422 if query.error else None,
        title="Events",
        active="events",
        query=query,
        found=found,
        peer_choices=_with(query.control("peer"), event_search.peer_names(workspace.id)),
        periods=_periods(query.control("after")),
        controls=event_query,
        home=_home(workspace),
        href=href,
        is_tail=is_tail,
        tail_s=_TAIL_S,
        commands=publishing.list_commands(query.search),
    )


@bp.get(f"{HOME}/export.<any(ndjson,csv):kind>")
@page(Role.VIEWER)
def export(workspace: Workspace, kind: str) -> ResponseReturnValue:
    """The events of the query as a file, streamed."""
    query = read_query(request.args.get("q", ""))
    if query.error:
        raise query.error
    write = event_export.ndjson if kind == "ndjson" else event_export.csv_lines
    media_type = "application/x-ndjson" if kind == "ndjson" else "text/csv; charset=utf-8"
    return Response(
        stream_with_context(write(workspace.id, query.search)),
        content_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="events-{workspace.slug}.{kind}"'},
    )


@bp.route(f"{HOME}/publish", methods=["GET", "POST"])
@page(Role.OPERATOR)
def publish(workspace: Workspace) -> ResponseReturnValue:
    """The form, with an example or with a copy of an event (`?copy=`); a POST publishes it once."""
    form = PublishForm()
    if form.validate_on_submit():
        with problems(form, publishing.POINTERS):
            draw("publish", current_user().public_id, 1, settings().rate_limit_publish)
            done = publishing.publish_once(
                workspace.id,
                form.key.data or "",
                (form.event_type.data or "").strip(),
                form.payload.data or "",
                (form.subject.data or "").strip(),
            )
            return redirect_done(f"{_home(workspace)}/{done.message_id}", _published(done))
    elif request.method == "GET":
        _fill_in(form, workspace)
    place = publishing.place_of_error(form.payload.data or "") if form.payload.errors else None
    return render(
        "console/events/publish.html",
        title="Publish an event",
        active="events",
        form=form,
        home=_home(workspace),
        marked=visible(place.marked) if place else "",
        groups=by_first_segment(seen_types(workspace.id)),
        commands=_commands_of(form),
    )


@bp.get(ONE)
@bp.get(f"{ONE}/deliveries", endpoint="deliveries")
@page(Role.VIEWER)
def show(workspace: Workspace, message_id: UUID) -> ResponseReturnValue:
    """Where it went, with every attempt and every receipt; or why it went to nobody."""
    event, proof = _event(workspace, message_id)
    deliveries = event_detail.event_deliveries(workspace.id, event, proof)
    is_ours = event.direction is Direction.OUTGOING
    return render(
        "console/events/deliveries.html",
        **_header(workspace, event, proof, "deliveries"),
        deliveries=deliveries,
        verdict=event_detail.verdict(event, deliveries),
        reasons=explain(workspace.id, event.message_id) if is_ours and not _goes(deliveries) else [],
        retry_all=sum(1 for delivery in deliveries if not delivery.no_retry),
        most=event_detail.MAX_DELIVERIES,
        curl=shell.curl(f"/events/messages/{event.message_id}"),
    )


@bp.get(f"{ONE}/payload")
@page(Role.VIEWER)
def payload(workspace: Workspace, message_id: UUID) -> ResponseReturnValue:
    """What it says: as a tree, over several lines, or as it was sent."""
    event, proof = _event(workspace, message_id)
    tree = event_detail.tree(event.payload)
    form = request.args.get("form")
    if form not in _FORMS or (form == "tree" and tree is None):
        form = "tree" if tree is not None else "pretty"
    text = event_detail.payload_text(event.payload, pretty=form == "pretty")
    return render(
        "console/events/payload.html",
        **_header(workspace, event, proof, "payload"),
        tree=tree,
        form_shown=form,
        text=text,
        values=event_detail.count_values(event.payload),
        commands=publishing.commands(event.event_type, event.payload, event.subject),
    )


@bp.get(f"{ONE}/signature")
@page(Role.VIEWER)
def signature(workspace: Workspace, message_id: UUID) -> ResponseReturnValue:
    """Who said it, in words and with the evidence."""
    event, proof = _event(workspace, message_id)
    return render(
        "console/events/signature.html",
        **_header(workspace, event, proof, "signature"),
        checks=event_detail.checks(event, proof),
        verdict=event_detail.signature_verdict(event, proof),
        signed=visible(proof.event.signed_bytes.decode("utf-8", "replace")),
        sha256=event_detail.hex_digest(proof),
        openssl=openssl_lines("event", proof.event),
    )


@bp.get(f"{ONE}/raw")
@page(Role.VIEWER)
def raw(workspace: Workspace, message_id: UUID) -> ResponseReturnValue:
    """The message as it is sent."""
    event, proof = _event(workspace, message_id)
    return render(
        "console/events/raw.html",
        **_header(workspace, event, proof, "raw"),
        text=visible(proof.event.wire.decode("utf-8", "replace")),
        curl=shell.curl(f"/events/messages/{event.message_id}"),
    )


@bp.get(f"{ONE}/files/<name>")
@page(Role.VIEWER)
def file(workspace: Workspace, message_id: UUID, name: str) -> ResponseReturnValue:
    """One file of the evidence, or `payload.json`."""
    event, proof = _event(workspace, message_id)
    ours = own_receipt(workspace.id, event.message_id) if name.startswith(("receipt-", "README")) else None
    files = dict(proof_files(proof._replace(receipts=[ours]) if ours else proof))
    files["payload.json"] = event_detail.payload_text(event.payload, pretty=False, whole=True).encode()
    if name not in files:
        raise NotFound("There is no such file.")
    return Response(
        files[name],
        content_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@bp.post(f"{ONE}/retry")
@page(Role.OPERATOR)
def retry(workspace: Workspace, message_id: UUID) -> ResponseReturnValue:
    """Send it again, now: over one connection, or wherever it did not arrive."""
    connection = RetryForm().connection.data or None
    taken = retry_event(workspace.id, str(message_id), connection)
    back = f"{_home(workspace)}/{message_id}"
    if not taken:
        return redirect_refused(back, "Nothing was sent again: it has arrived, or is being sent now.")
    return redirect_done(back, f"{taken} {'delivery goes' if taken == 1 else 'deliveries go'} out again now.")


def _home(workspace: Workspace) -> str:
    return f"/w/{workspace.slug}/events"


def _event(workspace: Workspace, message_id: UUID) -> tuple[EventFacts, Proof]:
    event = event_detail.event_facts(workspace.id, str(message_id))
    return event, read_proof(workspace.id, event.message_id)


def _header(workspace: Workspace, event: EventFacts, proof: Proof, tab: str) -> dict[str, object]:
    """What all tabs of an event show: its facts, and its neighbours in the list that one came from."""
    query: EventQuery = read_query(request.args.get("q", ""))
    newer, older = event_search.neighbours(workspace.id, query.search, event.id)
    home = _home(workspace)

    def to(message_id: str | None, place: str = "") -> str | None:
        return message_id and href(f"{home}/{message_id}{place}", query.text)

    return {
        "title": f"{event.event_type} · Event",
        "active": "events",
        "event": event,
        "proof": proof,
        "tab": tab,
        "home": home,
        "query": query,
        "href": href,
        "here": f"{home}/{event.message_id}",
        "newer": to(newer, "" if tab == "deliveries" else f"/{tab}"),
        "older": to(older, "" if tab == "deliveries" else f"/{tab}"),
        "size": len(proof.event.wire),
        "row": event_search.row_of(event.id),
        "findings": findings(proof),
    }


def _with(current: str, names: list[str]) -> list[tuple[str, str]]:
    """Choices by name, with the one that was typed if it is none of them."""
    known = names if current in ("", *names) else [current, *names]
    return [(name, visible(name)[:60]) for name in known]


def _periods(current: str) -> list[tuple[str, str]]:
    known = list(event_query.PERIODS)
    return known if current in dict(known) else [*known, (current, f"After {current}")]


def _goes(deliveries: list[event_detail.DeliveryShown]) -> bool:
    return any(delivery.state != "withdrawn" for delivery in deliveries)


def _fill_in(form: PublishForm, workspace: Workspace) -> None:
    form.key.data = publishing.new_key()
    copied = request.args.get("copy")
    if copied:
        event = event_detail.event_facts(workspace.id, copied)
        form.event_type.data, form.subject.data = event.event_type, event.subject
        form.payload.data = event_detail.payload_text(event.payload, pretty=True, whole=True)
    else:
        form.event_type.data = request.args.get("type") or publishing.EXAMPLE_TYPE
        form.payload.data = event_detail.payload_text(publishing.EXAMPLE_PAYLOAD, pretty=True, whole=True)


def _commands_of(form: PublishForm) -> tuple[str, str]:
    event_type = form.event_type.data or publishing.EXAMPLE_TYPE
    text = form.payload.data or ""
    typed = publishing.EXAMPLE_PAYLOAD if form.errors else publishing.read_payload(text)
    return publishing.commands(event_type, typed, form.subject.data or "")


def _published(done: publishing.Done) -> str:
    again = "It was published before; the form was sent twice. " if done.is_repeat else "Published. "
    if not done.deliveries:
        return f"{again}Nobody is subscribed to it; below stands why."
    return f"{again}It goes to {done.deliveries} {'peer' if done.deliveries == 1 else 'peers'}."
