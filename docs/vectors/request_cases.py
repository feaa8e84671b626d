"""Requests with their answers: what the receiver answers to the sender, from one state (requests.json).

A case is one HTTP request, whole and signed, and what has to come back. The answers are
written down here, from protocol.md, and not asked of the code: a test plays every case against
the app.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from app.protocol import control, http_signature, messages
from app.protocol.canonical import loads
from app.protocol.control import ControlType
from app.protocol.keys import KeyStatus
from app.protocol.signing import Kind
from docs.vectors.cast import (
    CONNECTION,
    DAY,
    EPOCH,
    NOW,
    RECEIVER,
    RECEIVER_URL,
    SENDER,
    SENDER_URL,
    Pair,
    uuid,
)
from docs.vectors.request_desk import (
    COVER,
    COVERED,
    LAST_CONTROL,
    MAX_GAP,
    PARAMETERS,
    PATTERN,
    SUBSCRIPTION,
    UNAUTHENTICATED,
    Case,
    Desk,
    Message,
    ack_wire,
    batch,
    batch_ack,
    control_wire,
    draft,
    invalid,
    newcomer,
    refused,
    stored,
    wire,
    with_header,
)


def events(desk: Desk) -> Iterator[Case]:
    """Events outside the stream."""
    first = wire(desk.rsa, draft("1"))
    yield desk.case("event", stored(), first)
    yield desk.case("event repeated", stored("duplicate"), first, before=["event"])
    yield desk.case("event, connectionId named", stored(), first, f"event?connectionId={CONNECTION}")
    full = draft(
        "2",
        specVersion="1.0",
        subject="orders/2",
        dataSchema="https://sender.example/schemas/order",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        colour="a member that nobody knows",
    )
    yield desk.case("event with every member and an unknown one", stored(), wire(desk.rsa, full))
    spaced = first.replace(b',"', b' ,\n "')
    yield desk.case("event with white space between members", stored(), spaced)
    by_next = wire(desk.pairs["ed25519"], draft("3"))
    yield desk.case("event by the next key", stored(), by_next, key="ed25519")
    early = wire(desk.pairs["retired"], draft("4", timestamp=NOW - 2 * DAY))
    yield desk.case("event signed before its key retired", stored(), early, needs_ed25519=True)
    again = wire(desk.pairs["ed25519"], draft("1"))
    yield desk.case(
        "event signed again by another key",
        stored("duplicate"),
        again,
        before=["event"],
        needs_ed25519=True,
    )


def batches(desk: Desk) -> Iterator[Case]:
    """Batches of the stream."""
    one, two, three = (wire(desk.rsa, draft(f"in a batch, {n}")) for n in (1, 2, 3))
    unasked = wire(desk.rsa, draft("unasked", eventType="invoice.sent"))
    altered = three.replace(b"250", b"251")
    formless = wire(desk.rsa, draft("formless", subject=""))
    barred = wire(desk.pairs["retired"], draft("by a retired key"))
    yield desk.case("batch", batch_ack("stored", "stored", contiguous=2), batch((1, one), (2, two)), "events")
    yield desk.case(
        "batch repeated, and one more",
        batch_ack("duplicate", "duplicate", "stored", contiguous=3),
        batch((1, one), (2, two), (3, three)),
        "events",
        before=["batch"],
    )
    hole = batch((1, one), (3, three))
    yield desk.case("batch with a hole", batch_ack("stored", "stored", contiguous=1), hole, "events")
    yield desk.case(
        "batch that fills the hole",
        batch_ack("stored", contiguous=3),
        batch((2, two)),
        "events",
        before=["batch with a hole"],
    )
    late = batch((2, two))
    yield desk.case("batch that lacks the beginning", batch_ack("stored", contiguous=0), late, "events")
    yield desk.case(
        "batch of good and bad",
        {
            "status": 200,
            "acks": ["stored", "authentication_failed", "not_subscribed", "invalid_request", "stored"],
        },
        batch((1, one), (2, altered), (3, unasked), (4, formless), (5, two)),
        "events",
    )
    yield desk.case(
        "batch entry by a key that is barred",
        batch_ack("key_untrusted", contiguous=0),
        batch((1, barred)),
        "events",
        needs_ed25519=True,
    )
    yield desk.case(
        "another event under a used sequence",
        batch_ack("sequence_conflict", contiguous=2),
        batch((2, three)),
        "events",
        before=["batch"],
    )
    yield desk.case(
        "a used sequence, and not asked for",
        batch_ack("sequence_conflict", contiguous=2),
        batch((2, unasked)),
        "events",
        before=["batch"],
    )
    yield desk.case("empty batch", invalid("/events"), batch(), "events")
    descending = batch((2, one), (1, two))
    yield desk.case("sequences not ascending", invalid(), descending, "events")
    yield desk.case("sequence 0", invalid("/events/0/sequence"), batch((0, one)), "events")
    nameless = one.replace(b"messageId", b"messageld")
    yield desk.case(
        "entry without a messageId", invalid("/events/0/event/messageId"), batch((1, nameless)), "events"
    )


def acks(desk: Desk) -> Iterator[Case]:
    """Acks that come later than their answer could."""
    ack = ack_wire(desk.rsa)
    yield desk.case("late ack", {"status": 204}, ack, "event/ack")
    yield desk.case("late ack after disconnect", {"status": 204}, ack, "event/ack", before=["disconnect"])
    foreign = ack_wire(desk.rsa, uuid("connection of others"))
    yield desk.case("late ack, unknown connection", refused(403, "access_denied"), foreign, "event/ack")
    unsigned = {name: value for name, value in loads(ack).items() if name != "signature"}
    for name, members in (
        ("ack: stored, but not received", {"received": False}),
        ("ack: rejected without error", {"received": False, "status": "rejected"}),
    ):
        yield desk.case(name, invalid(), wire(desk.rsa, unsigned | members, Kind.ACK), "event/ack")


def transport(desk: Desk) -> Iterator[Case]:
    """Transport signatures, good and bad (§1.4)."""
    swapped = COVER + ';alg="rsa-v1_5-sha256";tag="tidings";nonce="{nonce}";created={created};keyid="{keyid}"'
    yield desk.by_hand("parameters in another order, with alg", stored(), signed=swapped)
    plain = desk.by_hand
    yield with_header(plain("no Signature"), "Signature", None)
    yield with_header(plain("no Signature-Input"), "Signature-Input", None)
    yield with_header(plain("no Content-Digest"), "Content-Digest", None)
    other = http_signature.content_digest(b"{}")
    yield with_header(plain("Content-Digest of another body"), "Content-Digest", other)
    yield _doubled(plain("two signatures"))
    relabelled = plain("Signature with another label")
    signature = relabelled["request"]["headers"][-1][1]
    yield with_header(relabelled, "Signature", signature.replace("tidings", "news"))
    yield plain("cover in another order", signed='("content-digest" "@method" "@target-uri")' + PARAMETERS)
    yield plain("cover without the digest", signed='("@method" "@target-uri")' + PARAMETERS)
    yield plain("wrong tag", signed=COVERED.replace('tag="tidings"', 'tag="gossip"'))
    yield plain("no tag", signed=COVERED.replace(';tag="tidings"', ""))
    yield plain("unknown parameter", signed=COVERED + f";expires={NOW // 1000 + 60}")
    yield plain("parameter repeated", signed=COVERED + ';nonce="{nonce}"')
    yield plain("nonce of 15 characters", nonce="fifteen-of-them")
    yield plain("nonce of 65 characters", nonce="n" * 65)
    yield plain("alg of another key", signed=COVERED + ';alg="ed25519"')
    yield plain("signed for another host", base_url="https://elsewhere.example:8443")
    yield plain("keyId that is not known", under="k-nobody")
    yield plain("signed by another key under this keyid", key="ed25519", under=desk.rsa.record.key_id)
    yield plain("transport by a retired key", key="retired")
    yield plain("transport by a revoked key", key="revoked")
    spaced = COVERED.replace(";nonce", "; nonce")
    yield plain("Signature-Input with a space", signed=spaced)
    yield plain("Signature-Input with a space, signed in canonical form", sent=spaced)
    yield plain("created with a leading zero", signed=COVERED.replace("{created}", "0{created}"))
    yield plain("cover with two spaces", signed=COVERED.replace(" ", "  ", 1))
    skew = refused(401, "clock_skew")
    yield plain("created 301 s ago", skew, created=NOW // 1000 - 301)
    yield plain("created in 301 s", skew, created=NOW // 1000 + 301)
    yield plain("created 300 s ago", stored(), created=NOW // 1000 - 300)
    once = "used-once-and-once-more"
    yield plain("first use of a nonce", stored(), nonce=once)
    yield plain("a nonce used again", nonce=once, order="5", before=["first use of a nonce"])
    unsupported = refused(415, "unsupported_media_type")
    yield with_header(plain("text/plain", unsupported), "Content-Type", "text/plain")
    yield with_header(plain("Content-Encoding: identity", unsupported), "Content-Encoding", "identity")
    latin = "application/json; charset=iso-8859-1"
    yield with_header(plain("another charset", unsupported), "Content-Type", latin)


def _doubled(case: Case) -> Case:
    """With a second signature, as a list of two members."""
    headers = [
        [name, f"{value}, second={value.partition('=')[2]}" if name.startswith("Signature") else value]
        for name, value in case["request"]["headers"]
    ]
    return case | {"request": case["request"] | {"headers": headers}}


def texts(desk: Desk) -> Iterator[Case]:
    """Bodies that are no strict JSON, and members that are wrong (§1.1, §3)."""
    first = wire(desk.rsa, draft("1"))
    for name, body in (
        ("duplicate key", first.replace(b'"timestamp"', b'"eventType":"order.placed","timestamp"')),
        ("NaN", first.replace(b"250", b"NaN")),
        ("integer beyond 2^53-1", first.replace(b"250", b"9007199254740992")),
        ("not UTF-8", first.replace("ä".encode(), b"\xe4")),
        ("two values", first + b"{}"),
        ("no JSON", b"order 1"),
        ("no object", b"[]"),
    ):
        yield desk.case(name, invalid(), body)
    for name, pointer, members in (
        ("optional member null", "/subject", {"subject": None}),
        ("subject of no character", "/subject", {"subject": ""}),
        ("traceparent of 56", "/traceparent", {"traceparent": "0" * 56}),
        ("upper-case id", "/messageId", {"messageId": uuid("order 1").upper()}),
        ("required member missing", "/payload", {"payload": ...}),
        ("payload that is no object", "/payload", {"payload": ["order", 1]}),
        ("eventType in upper case", "/eventType", {"eventType": "Order.Placed"}),
        ("eventType with a wildcard", "/eventType", {"eventType": "order.*"}),
        ("timestamp as text", "/timestamp", {"timestamp": "2026-11-24T12:00:00Z"}),
        ("in the future", "/timestamp", {"timestamp": NOW + 300_001}),
    ):
        yield desk.case(name, invalid(pointer), wire(desk.rsa, draft("1", **members)))
    yield desk.case("base64 without padding", invalid("/signature"), first.replace(b'=="}', b'"}'))
    yield desk.case("300 s in the future", stored(), wire(desk.rsa, draft("1", timestamp=NOW + 300_000)))
    version = wire(desk.rsa, draft("1", specVersion="3.0"))
    yield desk.case("specVersion 3.0", refused(400, "unsupported_version"), version)
    old = wire(desk.rsa, draft("1", timestamp=NOW - 8 * DAY - 1))
    yield desk.case("older than 8 days", refused(410, "event_expired"), old)


def rights(desk: Desk) -> Iterator[Case]:
    """Signatures over messages, and who may say what (§2, §7)."""
    first = wire(desk.rsa, draft("1"))
    yield desk.case("payload altered", UNAUTHENTICATED, first.replace(b"250", b"520"))
    yield desk.case("a member added", UNAUTHENTICATED, b'{"colour":"red",' + first[1:])
    yield desk.case("signed as another kind", UNAUTHENTICATED, wire(desk.rsa, draft("1"), Kind.CONTROL))
    for name, key, timestamp in (
        ("signed after its key retired", "retired", NOW - DAY + 1),
        ("signed by a revoked key", "revoked", NOW - 2 * DAY),
    ):
        body = wire(desk.pairs[key], draft("1", timestamp=timestamp))
        yield desk.case(name, UNAUTHENTICATED, body, needs_ed25519=True)
    foreign = wire(desk.rsa, draft("1", instanceId=uuid("a third instance")))
    yield desk.case("message of another instance", refused(403, "invalid_issuer"), foreign)
    url = f"event?connectionId={uuid('connection of others')}"
    yield desk.case("somebody else's connection", refused(403, "access_denied"), first, url)
    yield desk.case("connectionId that is no UUID", invalid(), first, "event?connectionId=1")
    similar = wire(desk.rsa, draft("1", eventType="orders.placed"))
    yield desk.case("not subscribed", refused(403, "not_subscribed"), similar)
    conflict = refused(409, "message_id_conflict")
    other = wire(desk.rsa, draft("1", payload={"order": "another one"}))
    yield desk.case("same id, other content", conflict, other, before=["event"])
    unasked = wire(desk.rsa, draft("1", eventType="invoice.sent"))
    yield desk.case("same id, other type that nobody asked for", conflict, unasked, before=["event"])


def grants(desk: Desk) -> Iterator[Case]:
    """What the sender says of the subscription, and what follows for events (§5)."""
    say, first = desk.control, wire(desk.rsa, draft("1"))
    narrow = control.SubscriptionApprove(SUBSCRIPTION, control.Grant("order.placed", NOW + 7 * DAY, EPOCH, 1))
    approve = "approve of an active subscription"
    yield say(approve, stored("active"), ControlType.SUBSCRIPTION_APPROVE, narrow)
    outside = wire(desk.rsa, draft("6", eventType="order.cancelled"))
    unasked = refused(403, "not_subscribed")
    yield desk.case("event that the grant covers", stored(), outside)
    yield desk.case("event outside the new grant", unasked, outside, before=[approve])
    yield desk.case("event inside the new grant", stored(), first, before=[approve])
    wide = control.SubscriptionApprove(SUBSCRIPTION, control.Grant("**", NOW + 7 * DAY, EPOCH, 1))
    yield say(
        "more granted than requested", invalid("/payload/eventType"), ControlType.SUBSCRIPTION_APPROVE, wide
    )
    end = control.SubscriptionEnd(SUBSCRIPTION, "the shop has closed")
    illegal = refused(409, "invalid_state")
    yield say("reject of an active subscription", illegal, ControlType.SUBSCRIPTION_REJECT, end)
    yield say("revoke", stored("revoked"), ControlType.SUBSCRIPTION_REVOKE, end)
    yield say(
        "approve after revoke",
        stored("revoked"),
        ControlType.SUBSCRIPTION_APPROVE,
        narrow,
        number=LAST_CONTROL + 2,
        before=["revoke"],
    )
    yield desk.case("event after revoke", unasked, first, before=["revoke"])
    yield desk.case("event repeated after revoke", stored("duplicate"), first, before=["event", "revoke"])
    unknown = control.SubscriptionEnd(uuid("no subscription"))
    yield say("unknown subscription", illegal, ControlType.SUBSCRIPTION_REVOKE, unknown)
    for name, pointer, members in (
        ("filter is reserved", "/payload/filter", {"filter": {}}),
        ("pattern *", "/payload/eventType", {"eventType": "*"}),
        ("lease missing", "/payload/leaseSeconds", {"leaseSeconds": ...}),
    ):
        asked = {"subscriptionId": uuid("wish"), "eventType": "stock.*", "leaseSeconds": 3600, **members}
        payload = {member: value for member, value in asked.items() if value is not ...}
        yield say(name, invalid(pointer), ControlType.SUBSCRIPTION_REQUEST, payload)


def streams(desk: Desk) -> Iterator[Case]:
    """Gaps, heartbeat and replay (§6)."""
    say = desk.control
    for reason in (control.GapReason.EXPIRED, control.GapReason.WITHDRAWN):
        gap = control.Gap(EPOCH, 1, MAX_GAP, reason)
        yield say(f"gap, {reason.value}", stored("active"), ControlType.GAP, gap)
    first = batch((3, wire(desk.rsa, draft("7"))))
    yield say(
        "gap of two",
        stored("active"),
        ControlType.GAP,
        control.Gap(EPOCH, 1, 2, control.GapReason.EXPIRED),
    )
    yield desk.case(
        "batch after the gap", batch_ack("stored", contiguous=3), first, "events", before=["gap of two"]
    )
    long = {"streamEpoch": EPOCH, "fromSequence": 1, "toSequence": MAX_GAP + 1, "reason": "expired"}
    yield say("gap of more than 1 000 000", invalid(), ControlType.GAP, long)
    bored = long | {"toSequence": 2, "reason": "weather"}
    yield say("gap, unknown reason", invalid("/payload/reason"), ControlType.GAP, bored)
    unknown = control.ReplayRequest(uuid("replay of nothing"), uuid("epoch of nobody"))
    yield say("replay of an unknown epoch", refused(410, "replay_gone"), ControlType.REPLAY_REQUEST, unknown)


def connections(desk: Desk) -> Iterator[Case]:
    """Control messages about the connection, and what its state means for events (§4)."""
    say, illegal = desk.control, refused(409, "invalid_state")
    check = control.Verification("are you there?")
    verification = ControlType.VERIFICATION
    yield say("verification", stored("active"), verification, check)
    yield say(
        "verification repeated",
        stored("active"),
        verification,
        check,
        before=["verification"],
        same_id_as="verification",
    )
    yield say(
        "same id, other control",
        refused(409, "message_id_conflict"),
        verification,
        control.Verification("are you still there?"),
        before=["verification"],
        same_id_as="verification",
    )
    for name, state in (("state of no character", ""), ("state of 129", "s" * 129)):
        yield say(name, invalid("/payload/state"), verification, {"state": state})
    used = refused(409, "sequence_conflict", lastControlSequence=LAST_CONTROL)
    yield say("used controlSequence", used, verification, check, number=LAST_CONTROL)
    misplaced = control_wire(desk.rsa, "misplaced", verification, check)
    yield desk.case("type of another endpoint", invalid("/type"), misplaced, "subscription")
    accept = control.ConnectionAccept(uuid("a request"), "1.0", (), "shop", "The shop")
    yield say("accept of an active connection", illegal, ControlType.CONNECTION_ACCEPT, accept)
    first, nothing = wire(desk.rsa, draft("1")), control.Reason()
    yield say("suspend", stored("suspended"), ControlType.CONNECTION_SUSPEND, control.Reason("stocktaking"))
    suspended = refused(403, "connection_suspended")
    yield desk.case("event while suspended", suspended, first, before=["suspend"])
    yield desk.case("event repeated while suspended", stored("duplicate"), first, before=["event", "suspend"])
    resume, number = ControlType.CONNECTION_RESUME, LAST_CONTROL + 2
    yield say("resume", stored("active"), resume, nothing, number=number, before=["suspend"])
    yield desk.case("event after resume", stored(), first, before=["suspend", "resume"])
    yield say("disconnect", stored("disconnected"), ControlType.CONNECTION_DISCONNECT, nothing)
    named = f"event?connectionId={CONNECTION}"
    closed = refused(410, "connection_closed")
    yield desk.case("event after disconnect", closed, first, named, before=["disconnect"])
    yield desk.case(
        "event repeated after disconnect",
        stored("duplicate"),
        first,
        named,
        before=["event", "disconnect"],
    )


def offers(desk: Desk) -> Iterator[Case]:
    """Requests of a connection, by a pair that has an active one, and with members that are wrong (§4)."""
    request: Message = {
        "baseUrl": SENDER_URL,
        "workspace": {"slug": "shop", "name": "The shop"},
        "offer": {"versions": ["1.0"], "features": []},
    }
    of_request = ControlType.CONNECTION_REQUEST
    yield desk.control("request of an active connection", refused(409, "invalid_state"), of_request, request)
    for name, pointer, members in (
        ("slug in upper case", "workspace/slug", {"workspace": {"slug": "Shop", "name": "The shop"}}),
        ("slug of 65", "workspace/slug", {"workspace": {"slug": "s" * 65, "name": "The shop"}}),
        ("name of no character", "workspace/name", {"workspace": {"slug": "shop", "name": ""}}),
        ("toWorkspace that is no slug", "toWorkspace", {"toWorkspace": "the yard"}),
        ("33 features", "offer/features", _offer([f"feature-{n}" for n in range(33)])),
        ("feature in upper case", "offer/features/1", _offer(["ed25519", "Tree"])),
        ("11 versions", "offer/versions", _offer([], [f"1.{n}" for n in range(11)])),
        ("baseUrl with a path", "baseUrl", {"baseUrl": SENDER_URL + "/tidings"}),
    ):
        yield desk.control(name, invalid(f"/payload/{pointer}"), of_request, request | members)


def _offer(features: list[str], versions: Sequence[str] = ("1.0",)) -> Message:
    return {"offer": {"versions": list(versions), "features": features}}


def rotations(desk: Desk) -> Iterator[Case]:
    """What the sender says of its keys (§2)."""
    pinned = {name: pair.record for name, pair in desk.pairs.items()}
    retiring = replace(pinned["rsa"], status=KeyStatus.RETIRED, not_after=NOW - 1500)
    following = replace(pinned["ed25519"], status=KeyStatus.ACTIVE)
    back = replace(pinned["revoked"], status=KeyStatus.NEXT, revoked_at=None)
    endless = replace(retiring, not_after=None)
    for name, pointer, records in (
        ("new key without a vouch", None, [newcomer()]),
        ("back from revoked", None, [back]),
        ("retired without a time", "/payload/keys/0/notAfter", [endless]),
        ("17 keys", "/payload/keys", [pinned["retired"]] * 17),
    ):
        changed = control.KeysChanged(tuple(records))
        yield desk.control(name, invalid(pointer), ControlType.KEYS_CHANGED, changed)
    activated = control.KeysChanged((retiring, following))
    yield desk.control("activation", stored("active"), ControlType.KEYS_CHANGED, activated, key="ed25519")
    first, after = wire(desk.rsa, draft("1")), ["activation"]
    yield desk.case(
        "after activation: the old key signs no request",
        UNAUTHENTICATED,
        first,
        before=after,
        needs_ed25519=True,
    )
    yield desk.case("after activation: an event of before", stored(), first, before=after, key="ed25519")
    late = wire(desk.rsa, draft("8", timestamp=NOW - 1499))
    yield desk.case(
        "after activation: a later event by the old key", UNAUTHENTICATED, late, before=after, key="ed25519"
    )


#: The chapters of requests.json, in its order.
CHAPTERS = (
    events,
    batches,
    streams,
    connections,
    grants,
    acks,
    transport,
    texts,
    rights,
    offers,
    rotations,
)


def make_requests(pairs: dict[str, Pair]) -> Any:
    """requests.json."""
    desk = Desk(pairs)
    cases = [case for chapter in CHAPTERS for case in chapter(desk)]
    return {
        "note": "What the receiver answers to the sender (`pinned`), starting from `context` in every case.",
        "context": {
            "now": NOW,
            "receiver": {
                "instanceId": RECEIVER,
                "baseUrl": RECEIVER_URL,
                "maxEventBytes": messages.Limits().max_event_bytes,
            },
            "pinned": {
                "instanceId": SENDER,
                "baseUrl": SENDER_URL,
                "keys": [pair.record.to_wire() for pair in pairs.values()],
            },
            "connection": {
                "connectionId": CONNECTION,
                "state": "active",
                "lastControlSequence": LAST_CONTROL,
            },
            "subscriptions": [
                {
                    "subscriptionId": SUBSCRIPTION,
                    "eventType": PATTERN,
                    "state": "active",
                    "leaseExpiresAt": NOW + 3 * DAY,
                }
            ],
        },
        "cases": cases,
    }
