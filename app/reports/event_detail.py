"""One event as its page shows it: its facts, where it went, who signed for it, and what is in the way."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from app.database import db
from app.models import Connection, Direction, Event, EventStatus, Peer, event_named
from app.protocol.errors import NotFound
from app.reports.deliveries import deliveries_of_event
from app.reports.details import Attempt, EventDelivery
from app.reports.proof import Finding, Proof, Result, findings
from app.reports.receivers import Receiver, receivers_by_id
from app.reports.search import quoted
from app.reports.times import parse_rfc3339
from app.reports.words import visible

#: Deliveries of one event that a page shows.
MAX_DELIVERIES = 200
#: Of a payload this much is shown, characters; the rest is downloaded.
MAX_SHOWN = 262_144
#: Values that are shown as a tree at most.
MAX_TREE = 1_000


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What an event says of itself, and where it stands. Times are Unix ms."""

    id: int
    message_id: str
    direction: Direction
    event_type: str
    status: EventStatus
    #: When it was published or stored here, and when its sender says that it was.
    created_at: int
    said_at: int
    subject: str
    data_schema: str
    traceparent: str
    key_id: str
    payload: dict[str, Any]
    #: Incoming: the connection that it came over, its peer, and its number in the stream.
    connection_id: str | None
    peer: str | None
    sequence: int | None


@dataclass(frozen=True, slots=True)
class AttemptShown:
    """One request that carried the event. Times are Unix ms."""

    number: int
    trigger: str
    started_at: int
    duration_ms: int
    #: ok, warn (it is tried again) or bad.
    tone: str
    #: What came of it, in a few words, and all that is known of it.
    outcome: str
    detail: str
    status_code: int | None
    batch_id: str
    #: The answer's beginning as it came; None if none was read.
    answer: str | None


@dataclass(frozen=True, slots=True)
class DeliveryShown:
    """The event on its way to one connection. Times are Unix ms."""

    id: str
    connection_id: str
    peer: str
    receiver: Receiver | None
    #: As shown: pending, sending, held, retrying, delivered, dead, withdrawn.
    state: str
    sequence: int | None
    #: The latest first.
    attempts: list[AttemptShown]
    #: From publishing to the ack, ms.
    ack_ms: int | None
    next_at: int | None
    #: What the last attempt came to, in a line.
    said: str
    #: What was checked of the ack.
    receipt: list[Finding]
    #: Why it cannot be sent again now; empty if it can.
    no_retry: str

    @property
    def is_proven(self) -> bool:
        """Whether an ack is kept, and all of it holds."""
        return bool(self.receipt) and all(finding.result is Result.HOLDS for finding in self.receipt)


class Verdict(NamedTuple):
    """The answer to "did it arrive": a tone (ok, wait, warn, bad, off) and two sentences."""

    tone: str
    lead: str
    why: str


class Node(NamedTuple):
    """One value of a payload in a tree."""

    #: Its key or number; empty for the whole.
    label: str
    #: "object", "list", "text", "number" or "literal".
    kind: str
    #: A leaf as JSON; how many there are in an object or list.
    text: str
    #: Terms of a search for events that share a leaf; None where it cannot be written.
    query: str | None
    children: list["Node"]


def event_facts(workspace_id: int, message_id: str) -> EventFacts:
    """One event, the newest with this messageId. Raises NotFound."""
    row = db.session.execute(
        sa.select(Event, Connection.public_id, Peer.name)
        .outerjoin(Connection, Connection.id == Event.connection_id)
        .outerjoin(Peer, Peer.id == Connection.peer_id)
        .where(event_named(workspace_id, message_id))
        .order_by(Event.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such event in this workspace.")
    event, connection_id, peer = row
    message = orjson.loads(event.body)
    return EventFacts(
        event.id,
        event.message_id,
        event.direction,
        event.event_type,
        event.status,
        event.created_at,
        event.timestamp,
        message.get("subject") or "",
        message.get("dataSchema") or "",
        message.get("traceparent") or "",
        event.key_id,
        message["payload"],
        connection_id,
        None if peer is None else visible(peer),
        event.sequence,
    )


def event_deliveries(workspace_id: int, event: EventFacts, proof: Proof) -> list[DeliveryShown]:
    """An outgoing event's deliveries with all their attempts; what needs a person, or waits, first."""
    if event.direction is Direction.INCOMING:
        return []
    found = deliveries_of_event(event.id)[:MAX_DELIVERIES]
    peers = receivers_by_id(workspace_id, {delivery["connectionId"] for delivery in found})
    checked = receipts_of(proof)
    shown = [_delivery(event, delivery, peers.get(delivery["connectionId"]), checked) for delivery in found]
    return sorted(shown, key=lambda delivery: _ORDER.get(delivery.state, 9))


_ORDER = {"dead": 0, "held": 1, "retrying": 2, "sending": 3, "pending": 4, "delivered": 5}


def receipts_of(proof: Proof) -> dict[str, list[Finding]]:
    """What was checked of each connection's ack, by the connection's public id."""
    checked: dict[str, list[Finding]] = {}
    for finding in findings(proof):
        kind, _, rest = finding.check.partition(" ")
        if kind == "receipt" and rest:
            checked.setdefault(rest.split(" ")[0], []).append(finding)
    return checked


def verdict(event: EventFacts, deliveries: Sequence[DeliveryShown]) -> Verdict:
    """Did it arrive, who says so, and if not, why not."""
    if event.direction is Direction.INCOMING:
        peer = event.peer or "The peer"
        return Verdict(
            "ok", f"{peer} sent it, and has our signed ack.", "It is stored, and goes nowhere else."
        )
    going = [delivery for delivery in deliveries if delivery.state != "withdrawn"]
    if not going:
        return Verdict(
            "off",
            "Stored, but sent to nobody: no connection had a subscription that fits.",
            "Nothing failed. Below stands how each connection stands to it.",
        )
    arrived = [delivery for delivery in going if delivery.state == "delivered"]
    if len(arrived) == len(going):
        proven = sum(delivery.is_proven for delivery in arrived)
        several = "Both peers have it" if len(going) == 2 else f"All {len(going)} peers have it"
        who = f"{arrived[0].peer} has it" if len(going) == 1 else several
        signed = "" if proven < len(arrived) else " and has signed" if len(going) == 1 else " and have signed"
        return Verdict("ok", f"{who}{signed and f'{signed} for it'}.", _proven_words(proven, len(arrived)))
    dead = [delivery for delivery in going if delivery.state == "dead"]
    late = dead or [delivery for delivery in going if delivery.state != "delivered"]
    first = late[0]
    tone = "bad" if dead else "warn" if any(d.state in ("held", "retrying") for d in late) else "wait"
    more = f" and {len(late) - 1} more" if len(late) > 1 else ""
    share = f"{len(arrived) or 'None'} of {len(going)} peers {'has' if len(arrived) == 1 else 'have'} it. "
    lead = f"{share if len(going) > 1 else ''}{first.peer}{more}: {_STANDS[first.state]}."
    return Verdict(tone, lead, f"{first.said.rstrip('.')}." if first.attempts or first.no_retry else "")


_STANDS = {
    "dead": "given up, a dead letter",
    "held": "not sent, held here",
    "retrying": "not yet; it is tried again by itself",
    "sending": "being sent now",
    "pending": "on its way, waits for its turn",
}


class Check(NamedTuple):
    """One question about the signature, its answer, and what shows it."""

    question: str
    result: Result
    answer: str
    evidence: str


def checks(event: EventFacts, proof: Proof) -> list[Check]:
    """What was checked of an event's signature and receipts, as questions with answers."""
    found = {finding.check: finding for finding in findings(proof)}
    whose = "ours" if event.direction is Direction.OUTGOING else "theirs"
    rows = [
        _check("Do the bytes fit the signature?", _shorter(found["signature"], proof), "yes"),
        _check("Was the key valid then?", found["key"], "yes"),
        _check("Is it what was stored?", found["digest"], "yes"),
    ]
    if proof.event.key is not None:
        evidence = f"Key {proof.event.key_id} of {visible(proof.event.signer)}."
        rows.insert(1, Check("Whose key is it?", Result.HOLDS, whose, evidence))
    return [*rows, _receipts_check(event, proof)]


def _check(question: str, finding: Finding, yes: str) -> Check:
    answer = {Result.HOLDS: yes, Result.FAILS: "no", Result.MISSING: "not known"}[finding.result]
    return Check(question, finding.result, answer, visible(finding.detail))


def _shorter(finding: Finding, proof: Proof) -> Finding:
    """The finding without what the page shows beside it."""
    key = proof.event.key
    if finding.result is not Result.HOLDS or key is None:
        return finding
    bytes_ = len(proof.event.signed_bytes)
    return finding._replace(detail=f"{key.algorithm.value} over the {bytes_:,} bytes below.")


def _receipts_check(event: EventFacts, proof: Proof) -> Check:
    question = "Did the peers get the same?"
    if event.direction is Direction.INCOMING:
        evidence = "Our signed ack, which its sender keeps, names its digest."
        return Check("Did we sign for it?", Result.HOLDS, "yes", evidence)
    receipts = receipts_of(proof)
    good = sum(all(one.result is Result.HOLDS for one in checked) for checked in receipts.values())
    arrived = len(receipts) + len(proof.without_receipt)
    if not arrived:
        return Check(question, Result.MISSING, "nobody yet", "Nobody has acknowledged it.")
    evidence = "The digest in each signed ack is the one below."
    if good < arrived:
        evidence = f"{arrived - good} of the acks is not kept, or does not hold: see Deliveries."
    return Check(
        question, Result.HOLDS if good == arrived else Result.FAILS, f"{good} of {arrived}", evidence
    )


def signature_verdict(event: EventFacts, proof: Proof) -> Verdict:
    """Who said it, in words."""
    who = "We" if event.direction is Direction.OUTGOING else event.peer or "The peer"
    failed = [one for one in findings(proof) if one.check in ("signature", "key", "digest")]
    failed = [one for one in failed if one.result is not Result.HOLDS]
    if failed:
        return Verdict("bad", f"Not proven: {failed[0].detail}", "Do not rely on who it says it is from.")
    why = "Signed once; every peer and every attempt gets the same signature."
    if event.direction is Direction.INCOMING:
        why = "It was checked before it was stored."
    return Verdict(
        "ok", f"Valid. {who} said exactly this", f"{why} Checked again just now, from the stored bytes."
    )


def hex_digest(proof: Proof) -> str:
    """SHA-256 of the event's signing input, in hex as sha256sum prints it."""
    return base64.b64decode(proof.event.digest).hex()


def payload_text(payload: Any, *, pretty: bool, whole: bool = False) -> str:
    """The payload as JSON; unless `whole`, at most MAX_SHOWN characters. What cannot be seen is escaped."""
    text = json.dumps(payload, indent=2, ensure_ascii=False) if pretty else orjson.dumps(payload).decode()
    if whole:
        return visible(text) if pretty else text
    return visible(text[:MAX_SHOWN])


def tree(payload: dict[str, Any]) -> Node | None:
    """The payload as a tree, or None if it has too many values to be read as one."""
    return None if count_values(payload) > MAX_TREE else _node("", payload, "payload")


def count_values(value: Any) -> int:
    """Leaves, objects and lists, the value itself included."""
    pending, number = [value], 0
    while pending:
        one = pending.pop()
        number += 1
        if isinstance(one, dict):
            pending += one.values()
        elif isinstance(one, list):
            pending += one
    return number


def _node(label: str, value: Any, path: str | None) -> Node:
    if isinstance(value, dict):
        children = [_node(visible(key), member, _below(path, key)) for key, member in value.items()]
        return Node(label, "object", str(len(value)), None, children)
    if isinstance(value, list):
        return Node(
            label, "list", str(len(value)), None, [_node(str(n), one, path) for n, one in enumerate(value)]
        )
    text = orjson.dumps(value).decode()
    kind = (
        "text"
        if isinstance(value, str)
        else "literal"
        if value is None or isinstance(value, bool)
        else "number"
    )
    plain = value if isinstance(value, str) else text
    query = path if path and 0 < len(plain) <= 100 and plain.isprintable() else None
    return Node(label, kind, visible(text), query and f"{query}:{quoted(plain)}", [])


def _below(path: str | None, key: str) -> str | None:
    """The path of a member in a search, if its key can be written there."""
    plain = key and key.isprintable() and not any(c.isspace() or c in ':".' for c in key)
    return f"{path}.{key}" if path and plain else None


def _proven_words(proven: int, arrived: int) -> str:
    if proven == arrived:
        return "Each ack was checked again just now, from what is kept."
    return f"{arrived - proven} of their acks is not kept, or does not hold: see below."


def _delivery(
    event: EventFacts,
    delivery: EventDelivery,
    receiver: Receiver | None,
    checked: dict[str, list[Finding]],
) -> DeliveryShown:
    state = _state(delivery, receiver)
    attempts = list(_attempts(delivery, state))
    delivered_at = _ms(delivery["deliveredAt"])
    return DeliveryShown(
        id=delivery["id"],
        connection_id=delivery["connectionId"],
        peer=visible(receiver.name) if receiver else "unknown",
        receiver=receiver,
        state=state,
        sequence=delivery["sequence"],
        attempts=attempts,
        ack_ms=None if delivered_at is None else max(0, delivered_at - event.created_at),
        next_at=_ms(delivery["nextAttemptAt"]),
        said=_said(delivery, state, attempts, receiver, checked.get(delivery["connectionId"], [])),
        receipt=checked.get(delivery["connectionId"], []),
        no_retry=_no_retry(state, receiver),
    )


def _state(delivery: EventDelivery, receiver: Receiver | None) -> str:
    status = delivery["status"]
    failed = delivery["error"] is not None or (receiver is not None and receiver.failures > 0)
    return "retrying" if status == "pending" and failed else status


def _no_retry(state: str, receiver: Receiver | None) -> str:
    match state:
        case "delivered":
            return "it arrived"
        case "withdrawn":
            return "the subscription ended before it was sent"
        case "sending":
            return "it is being sent now"
    return receiver.obstacle if receiver and state == "held" else ""


def _said(
    delivery: EventDelivery,
    state: str,
    attempts: list[AttemptShown],
    receiver: Receiver | None,
    receipt: list[Finding],
) -> str:
    if state == "delivered":
        return _receipt_words(receipt)
    if state == "held" and receiver is not None and receiver.obstacle:
        return receiver.obstacle
    if state == "withdrawn":
        return "The subscription ended before it was sent."
    if attempts:
        return _sentence(attempts[0].detail or attempts[0].outcome)
    return _sentence(delivery["error"] or "not tried yet")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _receipt_words(receipt: list[Finding]) -> str:
    if not receipt:
        return "It arrived; the ack is not kept"
    if all(finding.result is Result.HOLDS for finding in receipt):
        return "Stored. Their ack is signed and names this content"
    return next(finding.detail for finding in receipt if finding.result is not Result.HOLDS)


def _attempts(delivery: EventDelivery, state: str) -> Iterator[AttemptShown]:
    """The latest first. The last attempt of one that arrived is the one that was acknowledged."""
    last = len(delivery["attempts"]) - 1
    for position, attempt in reversed(list(enumerate(delivery["attempts"]))):
        is_last = position == last
        arrived = is_last and state == "delivered"
        tone = "ok" if arrived else "bad" if is_last and state == "dead" else "warn"
        yield AttemptShown(
            number=attempt["number"],
            trigger=_TRIGGERS.get(attempt["trigger"], attempt["trigger"]),
            started_at=parse_rfc3339(attempt["startedAt"]),
            duration_ms=attempt["durationMs"],
            tone=tone,
            outcome="stored" if arrived else outcome_of(attempt),
            detail=visible(attempt["errorDetail"] or ""),
            status_code=attempt["statusCode"],
            batch_id=attempt["batchId"],
            answer=None if attempt["responseBody"] is None else visible(attempt["responseBody"]),
        )


_TRIGGERS = {"auto": "by itself", "manual": "by hand", "replay": "replay"}

_OUTCOMES = {
    "timeout": "no answer in time",
    "connection_refused": "nobody listens there",
    "dns_failed": "the name was not found",
    "tls_failed": "no safe connection",
    "address_refused": "the address may not be called",
    "redirect": "it was redirected",
    "response_too_large": "the answer was too large",
}


def outcome_of(attempt: Attempt) -> str:
    """What an attempt that did not deliver came to, in a few words."""
    code, status = attempt["errorCode"], attempt["statusCode"]
    words = _OUTCOMES.get(code or "", (code or "no ack").replace("_", " "))
    return f"answered {status}, {words}" if status is not None and status != 200 else words


def _ms(text: str | None) -> int | None:
    return None if text is None else parse_rfc3339(text)
