"""The story: two instances connect, subscribe, publish, deliver and acknowledge; each step is checked.

Everything is asked from the outside, by API and commands, and compared between the two sides. The first
thing that is not as it must be ends the story with one line.
"""

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from app.cli.demo.instances import DemoInstance, StoryBroken, wait_for

#: Where the story happens; the workspace `default` of both instances stays empty for whoever tries it.
WORKSPACE = "story"

#: Events of the burst, and how many go into one call.
BURST = 1_000
BURST_BATCH = 100

#: What alpha publishes first, one by one.
TOLD_EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("task.created", {"id": 17, "title": "Check the bridge at Elm Street", "priority": "high"}),
    ("task.assigned", {"id": 17, "to": "maria@beta.example"}),
    ("task.completed", {"id": 17, "minutes": 95, "note": "Zwei Schrauben ersetzt – alles dicht ✓"}),
)

#: Something that beta did not ask for.
UNWANTED_EVENT = ("invoice.paid", {"id": 4, "amount": "120.00"})

Tell = Callable[[str], None]


def tell_story(alpha: DemoInstance, beta: DemoInstance, tell: Tell) -> None:
    """The whole story between two instances that are ready. Raises StoryBroken."""
    tell("\n1  Shake hands")
    ours, theirs = _shake_hands(alpha, beta, tell)
    tell("\n2  Subscribe")
    _subscribe(alpha, beta, ours, theirs, tell)
    tell("\n3  Publish, deliver, acknowledge")
    for number, (event_type, payload) in enumerate(TOLD_EVENTS, 1):
        _publish(alpha, beta, event_type, payload, number, tell)
    _publish_unwanted(alpha, beta, tell)
    tell(f"\n4  A burst of {BURST:,} events")
    _burst(alpha, beta, ours, theirs, tell)


def _shake_hands(alpha: DemoInstance, beta: DemoInstance, tell: Tell) -> tuple[str, str]:
    """Connect the two workspaces. Returns each side's id of the connection."""
    known = alpha.call("POST", "/connections/preview", {"remoteUrl": beta.base_url})
    _check(known.get("instanceId") == beta.made["instanceId"], "the preview names another instance than beta")
    tell(f"   alpha  asked {beta.base_url} who it is: {known['name']}, instance {known['instanceId']}")
    tell(f"          fingerprint {_pairs(known['fingerprint'])}")
    started = time.monotonic()
    request = alpha.call(
        "POST",
        "/connections/initiate",
        {"remoteUrl": beta.base_url, "toWorkspace": WORKSPACE, "note": "The demo's handshake"},
    )
    tell(f"   alpha  pinned beta's key and sent a signed connection.request ({request['wireConnectionId']})")
    asked = wait_for("beta shows the request", lambda: _only(beta.call("GET", "/connections?status=pending")))
    tell("   beta   fetched alpha's document, found both signatures of the request good, and shows it")
    pairing = wait_for(
        "both sides show a pairing code",
        lambda: alpha.call("GET", f"/connections/{request['id']}")["pairingCode"],
    )
    _check(pairing == asked["pairingCode"], "the pairing codes of the two sides differ")
    tell(f"   both   show the pairing code {pairing}")
    beta.call("POST", f"/connections/{asked['id']}/accept", {})
    for side, connection_id in ((alpha, request["id"]), (beta, asked["id"])):
        wait_for(f"the connection is active at {side.name}", lambda s=side, c=connection_id: _is_active(s, c))  # type: ignore[misc]
    tell(f"   beta   accepted; both sides are active {_ms(started)} after the request")
    tested = alpha.call("POST", f"/connections/{request['id']}/verify")
    tell(f"   alpha  sent a verification and got its random state back, signed, in {_round_trip(tested)} ms")
    return request["id"], asked["id"]


def _subscribe(alpha: DemoInstance, beta: DemoInstance, ours: str, theirs: str, tell: Tell) -> None:
    wish = beta.call("POST", "/events/subscribe", {"connectionId": theirs, "eventType": "task.*"})
    _check(wish["direction"] == "incoming", "beta's subscription is not incoming")
    tell(f"   beta   asked for task.*; alpha's policy grants nothing by itself, so it is {wish['status']}")
    pending = wait_for(
        "alpha shows the wish",
        lambda: _only(
            alpha.call("GET", f"/events/subscriptions?connectionId={ours}&direction=outgoing&status=pending")
        ),
    )
    alpha.call("POST", f"/events/subscriptions/{pending['id']}/approve", {})
    for side, direction in ((alpha, "outgoing"), (beta, "incoming")):
        path = f"/events/subscriptions?direction={direction}&status=active"
        granted = wait_for(
            f"the subscription is active at {side.name}",
            lambda s=side, p=path: _only(s.call("GET", p)),  # type: ignore[misc]
        )
        _check(
            granted["eventType"] == "task.*", f"{side.name} lists {granted['eventType']} instead of task.*"
        )
    tell(f"   alpha  approved; both lists say task.* is active, until {granted['leaseExpiresAt']}")


def _publish(
    alpha: DemoInstance, beta: DemoInstance, event_type: str, payload: dict[str, Any], number: int, tell: Tell
) -> None:
    """Publish one event, and follow it to the receiver and back."""
    started = time.monotonic()
    published = alpha.call("POST", "/events/publish", {"eventType": event_type, "payload": payload})
    message_id = published["messageId"]
    _check(
        published["deliveries"] == 1, f"{event_type} has {published['deliveries']} deliveries instead of 1"
    )
    sent = wait_for(f"{event_type} is acknowledged", lambda: _delivered(alpha, message_id))
    waited = _ms(started)
    got = wait_for(f"beta has {event_type}", lambda: _message(beta, message_id))
    _check(got["direction"] == "incoming", f"beta has {event_type} as {got['direction']}")
    _check(got["payload"] == payload, f"beta's payload of {event_type} differs from what was published")
    _check(got["signature"] == sent["signature"], f"beta's signature of {event_type} differs from alpha's")
    [delivery] = sent["deliveries"]
    _check(delivery["sequence"] == number == got["sequence"], f"{event_type} came under a wrong number")
    evidence = alpha.flask("event", "show", message_id, "--workspace", WORKSPACE)
    [receipt] = evidence["receipts"]
    _check(receipt["digest"] == evidence["digest"], f"the ack of {event_type} is for another content")
    attempt = delivery["attempts"][-1]
    tell(f"   alpha  published {event_type}  {message_id}")
    tell(f"          signed   with {sent['keyId']}, SHA-256 {evidence['digest']}")
    tell(
        f"          sent     as number {delivery['sequence']} of the stream, "
        f"answered {attempt['statusCode']} after {attempt['durationMs']} ms"
    )
    tell(f"   beta   verified the signature and stored it: {_short(got['payload'])}")
    tell(
        f"          ack      {receipt['status']}, signed by {receipt['keyId']}, same digest: "
        f"verified and recorded {waited} after publishing"
    )


def _publish_unwanted(alpha: DemoInstance, beta: DemoInstance, tell: Tell) -> None:
    event_type, payload = UNWANTED_EVENT
    published = alpha.call("POST", "/events/publish", {"eventType": event_type, "payload": payload})
    _check(published["deliveries"] == 0, f"{event_type} is sent although nobody subscribed to it")
    kept = alpha.call("GET", f"/events/messages/{published['messageId']}")
    _check(kept["status"] == "unsubscribed", f"{event_type} is {kept['status']} instead of unsubscribed")
    tell(
        f"   alpha  published {event_type}: nobody subscribed, so it is kept ({kept['status']}) and not sent"
    )
    found = beta.call("GET", f"/events/messages?direction=incoming&eventType={event_type}")["data"]
    _check(not found, f"beta got {event_type} although it did not ask for it")


def _burst(alpha: DemoInstance, beta: DemoInstance, ours: str, theirs: str, tell: Tell) -> None:
    events = (
        {"eventType": "task.progress", "payload": {"id": 17, "step": step, "of": BURST}}
        for step in range(1, BURST + 1)
    )
    last = len(TOLD_EVENTS) + BURST
    started = time.monotonic()
    message_ids: list[str] = []
    while batch := list(islice(events, BURST_BATCH)):
        answer = alpha.call("POST", "/events/publish/batch", {"events": batch})
        message_ids += [event["messageId"] for event in answer["data"]]
    published_s = time.monotonic() - started
    # The peer's signed word for "all up to here is stored"; it comes with the last ack.
    wait_for(
        "all events of the burst are acknowledged",
        lambda: alpha.call("GET", f"/connections/{ours}/stream")["outgoing"]["contiguous"] >= last,
    )
    took_s = time.monotonic() - started
    wait_for("the last event counts as delivered", lambda: _delivered(alpha, message_ids[-1]))
    received = _all_incoming(beta)
    _check(len(received) == last, f"beta stored {len(received)} events instead of {last}")
    _check(received[-BURST:] == message_ids, "beta has the events of the burst in another order")
    stream = beta.call("GET", f"/connections/{theirs}/stream")["incoming"]
    _check(stream["contiguous"] == last and not stream["missing"], f"beta misses events: {stream['missing']}")
    tell(f"   alpha  signed and stored {BURST:,} in {BURST // BURST_BATCH} calls: {published_s:.2f} s")
    tell(
        f"   beta   verified, stored and acknowledged all after {took_s:.2f} s: "
        f"{BURST / took_s:,.0f} events/s, in order, none missing, none twice"
    )


def _all_incoming(instance: DemoInstance) -> list[str]:
    """messageIds of all incoming events in the order of their arrival, as a consumer reads them."""
    found: list[str] = []
    path = "/events/messages?direction=incoming&order=asc&limit=200"
    page = instance.call("GET", path)
    while page["data"]:
        found += [event["messageId"] for event in page["data"]]
        page = instance.call("GET", f"{path}&cursor={page['nextCursor']}")
    return found


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StoryBroken(otherwise)


def _only(page: Mapping[str, Any]) -> dict[str, Any] | None:
    """The only row of a list, None while there is none."""
    rows: list[dict[str, Any]] = page["data"]
    _check(len(rows) <= 1, f"one row was expected, there are {len(rows)}")
    return rows[0] if rows else None


def _is_active(instance: DemoInstance, connection_id: str) -> bool:
    return bool(instance.call("GET", f"/connections/{connection_id}")["status"] == "active")


def _delivered(instance: DemoInstance, message_id: str) -> dict[str, Any] | None:
    message = instance.call("GET", f"/events/messages/{message_id}")
    return message if message["status"] == "delivered" else None


def _message(instance: DemoInstance, message_id: str) -> dict[str, Any] | None:
    page = instance.call("GET", "/events/messages?direction=incoming&limit=10")
    return next((event for event in page["data"] if event["messageId"] == message_id), None)


def _round_trip(result: Mapping[str, Any]) -> Any:
    found = result.get("roundTripMs")
    _check(found is not None, "the verification was not answered")
    return found


def _ms(started: float) -> str:
    return f"{(time.monotonic() - started) * 1000:.0f} ms"


def _short(payload: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name}: {value}" for name, value in payload.items())
    return text if len(text) <= 70 else text[:67] + "..."


def _pairs(fingerprint: str) -> str:
    """A fingerprint in groups of eight, to be read by people."""
    return " ".join(fingerprint[n : n + 8] for n in range(0, len(fingerprint), 8))
