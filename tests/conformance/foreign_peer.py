"""A small, complete peer of tidings/1 that shares no code with app/.

It serves its identity document and the five public endpoints from a thread on
loopback, and plays both roles: asks and is asked, subscribes and publishes.

    peer.take(...)         the next request that came in and was not yet looked at
    peer.answer_with(...)  what to answer instead of what the protocol asks for
    peer.violations        whatever came in that docs/protocol.md does not allow

It is strict with what it receives and can be as wrong as a test wants in what it sends.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.conformance import wire
from tests.conformance.exchanges import (
    CONNECTION,
    EVENT,
    EVENT_ACK,
    EVENTS,
    PROBLEMS,
    SUBSCRIPTION,
    Answer,
    Received,
    Refused,
    Reply,
    exchange,
    matcher,
    problem,
    reply,
)
from tests.conformance.links import MOVES, SAME, Link, Remote, Stream, Subscription
from tests.conformance.listening import Server
from tests.conformance.wire import DOCUMENT_PATH, FEDERATION, MISSING, Key, Message, Transport, new_id, now_ms


def _private_keys(number: int = 8) -> Iterator[rsa.RSAPrivateKey]:
    """A few RSA keys, made when first wanted and then in turn: peers that meet have different ones."""
    made = []
    for _ in range(number):
        made.append(rsa.generate_private_key(65537, 2048))
        yield made[-1]
    yield from itertools.cycle(made)


_PRIVATE_KEYS = _private_keys()


class ForeignPeer:
    """One instance: identity, server, connections. Use it as a context manager."""

    def __init__(
        self,
        *,
        key: Key | None = None,
        instance_id: str | None = None,
        features: Sequence[str] = ("ed25519",),
        limits: Message | None = None,
        grants: Sequence[str] = (),
        port: int = 0,
    ) -> None:
        self.instance_id = instance_id or new_id()
        self.key = key or Key(next(_PRIVATE_KEYS))
        self.keys = [self.key]
        self.features = list(features)
        self.limits = {
            "maxEventBytes": 65_536,
            "maxBatchEvents": 100,
            "maxRequestBytes": 1_048_576,
            "retentionMs": 86_400_000,
            **(limits or {}),
        }
        #: Patterns that are granted at once; anything else waits.
        self.grants = list(grants)
        #: What the document says instead of the truth.
        self.document_changes: Message = {}
        self.links: dict[str, Link] = {}
        self.remotes: dict[str, Remote] = {}
        self.received: list[Received] = []
        self.violations: list[str] = []
        self.base_url = ""
        self._scripts: list[tuple[Callable[[Received], bool], Iterator[Any]]] = []
        self._nonces: set[str] = set()
        self._batch_ids: set[str] = set()
        self._in_flight: dict[tuple[str, str], int] = {}
        self._changed = threading.Condition(threading.RLock())
        self._released = threading.Event()
        self._server: Server | None = None
        self.port = port

    # --- running ---

    def __enter__(self) -> ForeignPeer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before if it ran before."""
        self._released.clear()
        self._server = Server(("127.0.0.1", self.port), self.handle)
        self.port = self._server.server_address[1]
        self.base_url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening and cut every connection, also those that hang."""
        if self._server is not None:
            self._released.set()
            self._server.shutdown()
            self._server.cut()
            self._server.server_close()
            self._server = None

    # --- identity ---

    def document(self) -> Message:
        """The signed instance document of §2."""
        document = {
            "protocol": "tidings",
            "versions": ["1.0"],
            "instanceId": self.instance_id,
            "name": "A foreign peer",
            "baseUrl": self.base_url,
            "software": {"name": "foreign", "version": "1"},
            "serverTime": now_ms(),
            "validUntil": now_ms() + 3_600_000,
            "keys": [key.record() for key in self.keys],
            "features": self.features,
            "limits": self.limits,
        }
        return self.key.sign("instance", wire.with_members(document, self.document_changes))

    def pin(self, base_url: str) -> Remote:
        """Fetch, check and pin the other's document."""
        answer = self.get(base_url, DOCUMENT_PATH)
        assert answer.status == 200, answer
        assert len(answer.body) <= 50 * 1024
        document = wire.decode(answer.body)
        wire.check_document(document, base_url)
        keys = {record["keyId"]: record for record in document["keys"]}
        remote = Remote(base_url, document["instanceId"], keys, document)
        self.remotes[remote.instance_id] = remote
        return remote

    # --- what came in ---

    def take(
        self,
        match: Callable[[Received], bool] | str,
        *,
        timeout_s: float = 15.0,
    ) -> Received:
        """The first request not yet taken that matches: a control type, a path, or a predicate.

        Raises AssertionError when none came in time, naming what did come.
        """
        matches = matcher(match)

        def first() -> Received | None:
            return next((one for one in self.received if not one.taken and matches(one)), None)

        with self._changed:
            if not self._changed.wait_for(first, timeout_s):
                seen = [(one.path, one.type, one.reply.status) for one in self.received]
                raise AssertionError(f"{match} did not arrive in {timeout_s} s; these did: {seen}")
            found = first()
            assert found is not None
            found.taken = True
            return found

    def seen(self, match: Callable[[Received], bool] | str) -> list[Received]:
        """Everything that came in so far and matches."""
        matches = matcher(match)
        with self._changed:
            return [one for one in self.received if matches(one)]

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
        """Wait until something that changes with received requests is so."""
        with self._changed:
            assert self._changed.wait_for(is_so, timeout_s), f"not within {timeout_s} s: {what}"

    def answer_with(self, match: Callable[[Received], bool] | str, *replies: Any) -> None:
        """Answer the next matching requests with these, one each.

        A reply is a Reply, or a function of (request, usual) where usual() gives the usual reply.
        """
        self._scripts.append((matcher(match), iter(replies)))

    def always_answer(self, match: Callable[[Received], bool] | str, given: Any) -> None:
        """Answer every matching request with this, until `answer_as_usual`."""
        self._scripts.append((matcher(match), iter(lambda: given, object())))

    def answer_as_usual(self) -> None:
        """Forget every answer that was arranged."""
        with self._changed:
            self._scripts.clear()

    def is_busy(self, link: Link) -> bool:
        """Whether a batch came in that is not answered yet."""
        return self._in_flight.get(("events", link.connection_id), 0) > 0

    def release(self) -> None:
        """Cut the requests that hang."""
        self._released.set()

    def _scripted(self, request: Received) -> Any:
        with self._changed:
            for matches, replies in self._scripts:
                if matches(request):
                    found = next(replies, None)
                    if found is not None:
                        return found
        return None

    def handle(self, request: Received) -> Reply:
        """Answer one request; it is recorded before the answer leaves."""
        in_flight = self._enter(request)
        usual: Callable[[], Reply] = lambda: self._usual(request)  # noqa: E731
        try:
            if request.method == "GET":
                request.reply = self._serve(request)
            else:
                scripted = self._inspect(request) or self._scripted(request)
                request.reply = usual() if scripted is None else scripted
                if callable(scripted):
                    request.reply = scripted(request, usual)
        finally:
            with self._changed:
                self.received.append(request)
                self._changed.notify_all()
        if request.reply.hangs:
            self._released.wait(30)
        if in_flight is not None:
            with self._changed:
                self._in_flight[in_flight] -= 1
        return request.reply

    def _enter(self, request: Received) -> tuple[str, str] | None:
        """Count the request in: one event request and one control at a time, per connection."""
        if request.path not in {EVENTS, CONNECTION, SUBSCRIPTION}:
            return None
        with contextlib.suppress(ValueError):
            request.value = wire.decode(request.raw)
        if not isinstance(request.value, dict):
            return None
        lane = ("events" if request.path == EVENTS else "control", str(request.value.get("connectionId")))
        with self._changed:
            self._in_flight[lane] = self._in_flight.get(lane, 0) + 1
            if self._in_flight[lane] > 1:
                self.violations.append(f"two requests in flight: {lane}")
        return lane

    # --- serving documents ---

    def _serve(self, request: Received) -> Reply:
        scripted = self._scripted(request)
        if isinstance(scripted, Reply):
            return scripted
        if request.path in {DOCUMENT_PATH, f"{FEDERATION}/instance"}:
            return reply(self.document())
        prefix = f"{FEDERATION}/keys/"
        for key in self.keys:
            if request.path == prefix + key.key_id:
                return reply(key.record())
        return problem("not_found")

    # --- receiving: what every request goes through ---

    def _inspect(self, request: Received) -> Reply | None:
        """Check the request as strictly as the page allows; the refusal, or None."""
        try:
            self._verify_transport(request)
        except Refused as refused:
            return problem(refused.code, **refused.extras)
        except ValueError as error:
            request.wrong = str(error)
            self.violations.append(f"{request.path}: {error}")
            return problem("authentication_failed")
        return None

    def _verify_transport(self, request: Received) -> None:
        headers = {name.lower(): value for name, value in request.headers}
        if headers.get("content-type", "").replace(" ", "") not in {
            "application/json",
            "application/json;charset=utf-8",
        }:
            raise Refused("unsupported_media_type")
        if "content-encoding" in headers:
            raise Refused("unsupported_media_type")
        if len(request.raw) > self.limits["maxRequestBytes"]:
            raise Refused("too_large")
        claim = wire.read_claim(request.headers, self.base_url, request.target, request.raw)
        if abs(claim.created * 1000 - now_ms()) > 300_000:
            raise Refused("clock_skew", serverTime=now_ms())
        request.value = wire.decode(request.raw)
        remote = self.remotes.get(claim.instance_id)
        if remote is None:
            if request.type != "connection.request":
                raise Refused("authentication_failed")
            remote = self._stranger(request.value)
        record = remote.keys.get(claim.key_id)
        if record is None or record["status"] not in {"active", "next"}:
            raise ValueError(f"key {claim.key_id} may not sign requests")
        if not wire.verifies(record, claim.signature, claim.base):
            raise ValueError("transport signature does not verify")
        with self._changed:
            if claim.nonce in self._nonces:
                raise ValueError("a nonce was used twice")
            self._nonces.add(claim.nonce)
        said_by = request.value.get("instanceId", claim.instance_id)
        if said_by != claim.instance_id:
            raise ValueError("the message is another instance's")

    def _stranger(self, message: Message) -> Remote:
        """Read the claimed document. (This peer does not mind doing so inside the request.)"""
        try:
            return self.pin(message["payload"]["baseUrl"])
        except (AssertionError, OSError, KeyError, ValueError) as error:
            raise ValueError(f"the claimed document does not hold: {error!r}") from error

    def _usual(self, request: Received) -> Reply:
        """What docs/protocol.md asks this peer to answer."""
        try:
            with self._changed:
                if request.path in {CONNECTION, SUBSCRIPTION}:
                    return self._receive_control(request)
                if request.path == EVENTS:
                    return self._receive_batch(request)
                if request.path == EVENT:
                    return self._receive_event(request)
                if request.path == EVENT_ACK:
                    return Reply(204, headers=())
                raise Refused("not_found")
        except Refused as refused:
            return problem(refused.code, **refused.extras)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.violations.append(f"{request.path} {request.type}: {error!r} in {request.raw[:300]!r}")
            return problem("invalid_request")

    def _check_message(self, kind: str, message: Message, remote: Remote) -> None:
        record = remote.keys.get(message["keyId"])
        shared = kind == "event" and "proof" in message
        signed = wire.tree_input(wire.root_of(message)) if shared else wire.signing_input(kind, message)
        if record is None or not wire.verifies(record, message["signature"], signed):
            self.violations.append(f"the signature of a message does not verify: {message}")
            raise Refused("authentication_failed")

    # --- receiving controls ---

    def _receive_control(self, request: Received) -> Reply:
        message = request.value
        expected = (
            SUBSCRIPTION
            if message["type"].startswith(("subscription.", "replay.", "gap", "reconcile"))
            else CONNECTION
        )
        if request.path != expected:
            raise ValueError(f"{message['type']} came to {request.path}")
        remote = self.remotes[message["instanceId"]]
        link = self.links.get(message["connectionId"])
        if link is None and message["type"] == "connection.request":
            link = self._new_link(message, remote)
        if link is None or link.remote.instance_id != remote.instance_id:
            raise Refused("access_denied")
        self._check_message("control", message, link.remote)
        said = wire.digest("control", message)
        if message["messageId"] in link.answers:
            before, answer = link.answers[message["messageId"]]
            if before != said:
                self.violations.append(f"another message under the id {message['messageId']}")
                raise Refused("message_id_conflict")
            return answer
        if message["controlSequence"] <= link.last_control_sequence:
            raise Refused("sequence_conflict", lastControlSequence=link.last_control_sequence)
        link.last_control_sequence = message["controlSequence"]
        try:
            answer = self._apply(link, message)
        except Refused as refused:
            answer = problem(refused.code, **refused.extras)
        link.answers[message["messageId"]] = (said, answer)
        return answer

    def _new_link(self, message: Message, remote: Remote) -> Link:
        payload = message["payload"]
        if payload["baseUrl"] != remote.base_url:
            raise ValueError("the request claims another origin")
        link = Link(
            message["connectionId"],
            remote,
            "unknown",
            payload["workspace"],
            request_id=message["messageId"],
            offer=payload["offer"],
        )
        self.links[link.connection_id] = link
        return link

    def _apply(self, link: Link, message: Message) -> Reply:
        """Move the connection by the table of §4 and answer."""
        kind, payload = message["type"], message["payload"]
        if link.status == "unknown":
            link.status = "pending"
            return self._ack(link, message, "pending", status=202)
        move = MOVES[kind].get(link.state, "invalid_state")
        if move in PROBLEMS:
            raise Refused(move)
        if kind == "connection.accept":
            self._accepted(link, payload)
        elif kind == "connection.suspend":
            link.suspended_by.add("peer")
            link.status = "suspended"
        elif move == "resumed":
            if "peer" not in link.suspended_by:
                raise Refused("invalid_state")
            link.suspended_by.discard("peer")
            link.status = "suspended" if link.suspended_by else "active"
        elif kind == "keys.changed":
            link.remote.keys.update({record["keyId"]: record for record in payload["keys"]})
        elif kind.startswith("subscription."):
            return self._apply_to_subscription(link, message)
        elif kind == "gap":
            self._note_gap(link, payload)
        elif kind == "replay.request":
            raise Refused("replay_gone", streamEpoch=link.epoch, oldestSequence=link.head + 1)
        elif kind == "replay.complete":
            return self._ack(link, message, "complete")
        elif move != SAME:
            link.status = move
        state = {"payload": {"state": payload["state"]}} if kind == "verification" else {}
        return self._ack(link, message, link.status, **state)

    def _accepted(self, link: Link, payload: Message) -> None:
        if payload["requestMessageId"] != link.request_id:
            raise Refused("invalid_request", "/payload/requestMessageId")
        if payload["version"] not in link.offer["versions"]:
            raise Refused("invalid_request", "/payload/version")
        if not set(payload["features"]) <= set(link.offer["features"]):
            raise Refused("invalid_request", "/payload/features")
        link.workspace = payload["workspace"]
        link.status = "active"

    def _note_gap(self, link: Link, payload: Message) -> None:
        if payload["reason"] not in {"expired", "refused", "erased", "withdrawn"}:
            raise Refused("invalid_request", "/payload/reason")
        stream = link.streams.setdefault(payload["streamEpoch"], Stream(payload["streamEpoch"]))
        for sequence in range(payload["fromSequence"], payload["toSequence"] + 1):
            stream.filled.setdefault(sequence, "gap")
        stream.fill(payload["fromSequence"], stream.filled[payload["fromSequence"]])

    def _apply_to_subscription(self, link: Link, message: Message) -> Reply:
        verb, payload = message["type"].partition(".")[2], message["payload"]
        if verb == "request":
            return self._subscription_requested(link, message)
        table = link.theirs if verb == "cancel" else link.mine
        subscription = table.get(payload["subscriptionId"])
        if subscription is None:
            raise Refused("invalid_state")
        if subscription.status in {"rejected", "revoked", "cancelled", "expired"}:
            return self._ack(link, message, subscription.status)
        if verb == "approve":
            if not wire.is_subset(payload["eventType"], subscription.event_type):
                raise Refused("invalid_request", "/payload/eventType")
            subscription.granted = payload["eventType"]
            subscription.lease_expires_at = payload["leaseExpiresAt"]
            subscription.status = "active"
            assert payload["nextSequence"] >= 1
            assert payload["streamEpoch"]
        elif verb == "reject" and subscription.status == "active":
            raise Refused("invalid_state")
        else:
            subscription.status = {"reject": "rejected", "revoke": "revoked", "cancel": "cancelled"}[verb]
        return self._ack(link, message, subscription.status)

    def _subscription_requested(self, link: Link, message: Message) -> Reply:
        payload = message["payload"]
        if "filter" in payload:
            raise Refused("invalid_request", "/payload/filter")
        if not 60 <= payload["leaseSeconds"] <= 31_536_000:
            raise Refused("invalid_request", "/payload/leaseSeconds")
        subscription = link.theirs.setdefault(
            payload["subscriptionId"],
            Subscription(payload["subscriptionId"], payload["eventType"], "pending"),
        )
        if subscription.event_type != payload["eventType"]:
            raise Refused("invalid_state")
        if any(wire.is_subset(payload["eventType"], grant) for grant in self.grants):
            subscription.status = "active"
        if subscription.status != "active":
            return self._ack(link, message, "pending", status=202)
        subscription.granted = payload["eventType"]
        subscription.lease_expires_at = now_ms() + payload["leaseSeconds"] * 1000
        return self._ack(link, message, "active", payload=self._grant(link, subscription))

    def _grant(self, link: Link, subscription: Subscription) -> Message:
        return {
            "eventType": subscription.granted,
            "leaseExpiresAt": subscription.lease_expires_at,
            "streamEpoch": link.epoch,
            "nextSequence": link.head + 1,
        }

    def _ack(self, link: Link, message: Message, state: str, *, status: int = 200, **members: Any) -> Reply:
        return reply(self.control_ack(link, message, status=state, **members), status)

    def control_ack(self, link: Link, message: Message, **members: Any) -> Message:
        """A signed ControlAck; `members` replace or add."""
        ack = {
            "messageId": new_id(),
            "correlationId": message["messageId"],
            "instanceId": self.instance_id,
            "connectionId": link.connection_id,
            "timestamp": now_ms(),
        }
        return self.key.sign("control-ack", wire.with_members(ack, members))

    # --- receiving events ---

    def _receive_batch(self, request: Received) -> Reply:
        batch = request.value
        link = self.links.get(batch["connectionId"])
        if link is None:
            raise Refused("access_denied")
        self._check_batch(batch)
        if link.status != "active":
            raise Refused({"suspended": "connection_suspended"}.get(link.status, "invalid_state"))
        stream = link.streams.setdefault(batch["streamEpoch"], Stream(batch["streamEpoch"]))
        acks = [self._store(link, entry["event"], stream, entry["sequence"]) for entry in batch["events"]]
        return reply(self.ack_batch(link, batch, acks))

    def _check_batch(self, batch: Message) -> None:
        sequences = [entry["sequence"] for entry in batch["events"]]
        if batch["batchId"] in self._batch_ids:
            raise ValueError("batchId is not new")
        self._batch_ids.add(batch["batchId"])
        if sequences != sorted(set(sequences)) or not sequences or sequences[0] < 1:
            raise ValueError(f"sequences are {sequences}")
        if len(sequences) > self.limits["maxBatchEvents"]:
            self.violations.append(f"{len(sequences)} events in a batch")
            raise Refused("too_large")

    def _store(self, link: Link, event: Message, stream: Stream | None, sequence: int | None) -> Message:
        """Store one event and say so; what the sender should have known is a violation."""
        self._check_message("event", event, link.remote)
        if event["instanceId"] != link.remote.instance_id:
            raise ValueError("the event is another instance's")
        if len(wire.rfc8785.dumps(event)) > self.limits["maxEventBytes"]:
            self.violations.append("an event is larger than maxEventBytes")
        if "proof" in event and "tree" not in self.features:
            self.violations.append("an event has a proof, which this peer does not list")
        wanted = [one for one in link.mine.values() if one.status in {"requested", "pending", "active"}]
        if not any(wire.matches(one.granted or one.event_type, event["eventType"]) for one in wanted):
            self.violations.append(f"not subscribed to {event['eventType']}")
        said, message_id = wire.digest("event", event), event["messageId"]
        if stream is not None and sequence is not None:
            stream.fill(sequence, message_id)
        status = "duplicate" if message_id in link.stored else "stored"
        if status == "stored":
            link.stored[message_id] = said
            link.events.append(event)
        return {
            "sequence": sequence,
            "correlationId": message_id,
            "received": True,
            "status": status,
            "digest": said,
        }

    def ack_batch(self, link: Link, batch: Message, acks: list[Message], **members: Any) -> Message:
        """A signed EventAckBatch; `members` replace or add."""
        stream = link.streams.get(batch["streamEpoch"], Stream(batch["streamEpoch"]))
        ack = {
            "messageId": new_id(),
            "correlationId": batch["batchId"],
            "instanceId": self.instance_id,
            "connectionId": link.connection_id,
            "timestamp": now_ms(),
            "streamEpoch": batch["streamEpoch"],
            "contiguous": stream.contiguous,
            "acks": acks,
        }
        return self.key.sign("ack-batch", wire.with_members(ack, members))

    def _receive_event(self, request: Received) -> Reply:
        event = request.value
        named = request.query.get("connectionId")
        links = [one for one in self.links.values() if one.remote.instance_id == event["instanceId"]]
        links = [one for one in links if one.connection_id in named] if named else links
        links = [one for one in links if one.status in {"active", "suspended"}]
        if not links:
            raise Refused("access_denied")
        return reply(self.event_ack(links[0], self._store(links[0], event, None, None)))

    def event_ack(self, link: Link, entry: Message, **members: Any) -> Message:
        """A signed EventAck from what an entry of a batch says."""
        ack = {
            "messageId": new_id(),
            "instanceId": self.instance_id,
            "connectionId": link.connection_id,
            "timestamp": now_ms(),
            **{name: value for name, value in entry.items() if name != "sequence"},
        }
        return self.key.sign("ack", wire.with_members(ack, members))

    # --- calling ---

    def get(self, base_url: str, path: str) -> Answer:
        """A plain GET."""
        return exchange(base_url, "GET", path, [], None)

    def post(self, base_url: str, path: str, body: Any, transport: Transport | None = None) -> Answer:
        """A signed POST of a message, or of bytes as they are."""
        raw = body if isinstance(body, bytes) else wire.encode(body)
        transport = transport or Transport()
        headers = transport.apply(self.key, self.instance_id, base_url + path, raw)
        return exchange(base_url, transport.method, path, headers, raw)

    def control_message(self, link: Link, kind: str, payload: Message, /, **members: Any) -> Message:
        """A signed control message with the next number; `members` replace or add."""
        link.control_sequence += 1
        message = {
            "messageId": new_id(),
            "instanceId": self.instance_id,
            "type": kind,
            "connectionId": link.connection_id,
            "controlSequence": link.control_sequence,
            "payload": payload,
            "timestamp": now_ms(),
        }
        return self.key.sign("control", wire.with_members(message, members))

    def send_control(self, link: Link, message: Message, transport: Transport | None = None) -> Answer:
        """Post a control message where it belongs, and check the ack if there is one."""
        of_events = message["type"].startswith(("subscription.", "replay.", "gap", "reconcile"))
        path = SUBSCRIPTION if of_events else CONNECTION
        answer = self.post(link.remote.base_url, path, message, transport)
        if answer.status < 300:
            self.check_ack("control-ack", answer, link, message["messageId"])
        return answer

    def control(self, link: Link, kind: str, payload: Message | None = None, /, **members: Any) -> Answer:
        """Make a control message and send it."""
        return self.send_control(link, self.control_message(link, kind, payload or {}, **members))

    def check_ack(self, kind: str, answer: Answer, link: Link, correlation_id: str) -> None:
        """An ack counts only if its signature, instanceId, correlationId and connectionId verify."""
        ack = wire.decode(answer.body)
        assert answer.headers["content-type"].startswith("application/json"), answer
        assert (ack["instanceId"], ack["connectionId"], ack["correlationId"]) == (
            link.remote.instance_id,
            link.connection_id,
            correlation_id,
        )
        assert isinstance(ack["timestamp"], int)
        assert wire.verifies(
            link.remote.keys[ack["keyId"]], ack["signature"], wire.signing_input(kind, ack)
        ), f"{kind} does not verify: {ack}"

    # --- as one who asks ---

    def connection_request(
        self, remote: Remote, connection_id: str | None = None, **payload: Any
    ) -> tuple[Link, Message]:
        """A link of mine that waits, and the request to send for it."""
        said = {
            "baseUrl": self.base_url,
            "workspace": {"slug": "foreign", "name": "Foreign"},
            "offer": {"versions": ["1.0"], "features": self.features},
        }
        said = wire.with_members(said, payload)
        link = Link(connection_id or new_id(), remote, "requested", {}, offer=said.get("offer", {}))
        message = self.control_message(link, "connection.request", said)
        link.request_id = message["messageId"]
        self.links[link.connection_id] = link
        return link, message

    def request_connection(self, base_url: str, **payload: Any) -> Link:
        """Pin the other side and ask it for a connection."""
        link, message = self.connection_request(self.pin(base_url), **payload)
        answer = self.send_control(link, message)
        assert (answer.status, answer.value["status"]) == (202, "pending"), answer
        return link

    # --- as one who is asked ---

    def accept(self, link: Link, **payload: Any) -> Answer:
        """Accept a pending connection."""
        said = {
            "requestMessageId": link.request_id,
            "version": "1.0",
            "features": [name for name in link.offer["features"] if name in self.features],
            "workspace": {"slug": "foreign", "name": "Foreign"},
        }
        # What comes in is taken from the moment the accept is sent (§4).
        was, link.status = link.status, "active"
        answer = self.control(link, "connection.accept", wire.with_members(said, payload))
        if answer.status != 200:
            link.status = was
        return answer

    def suspend(self, link: Link) -> Answer:
        answer = self.control(link, "connection.suspend", {"reason": "upkeep"})
        if answer.status == 200:
            link.suspended_by.add("me")
            link.status = "suspended"
        return answer

    def resume(self, link: Link) -> Answer:
        was, link.status = link.status, "active" if link.suspended_by == {"me"} else link.status
        answer = self.control(link, "connection.resume")
        if answer.status == 200:
            link.suspended_by.discard("me")
        else:
            link.status = was
        return answer

    def disconnect(self, link: Link) -> Answer:
        answer = self.control(link, "connection.disconnect", {"reason": "goodbye"})
        if answer.status == 200:
            link.status = "disconnected"
        return answer

    # --- subscriptions ---

    def subscribe(self, link: Link, pattern: str, **payload: Any) -> tuple[Subscription, Answer]:
        """Ask for events; the subscription is kept as the answer says."""
        subscription = Subscription(new_id(), pattern, "requested")
        with self._changed:
            link.mine[subscription.subscription_id] = subscription
        said = {
            "subscriptionId": subscription.subscription_id,
            "eventType": pattern,
            "leaseSeconds": 2_592_000,
        }
        answer = self.control(link, "subscription.request", wire.with_members(said, payload))
        with self._changed:
            if answer.status < 300 and subscription.status == "requested":
                subscription.status = answer.value["status"]
                subscription.granted = answer.value.get("payload", {}).get("eventType")
            elif answer.status >= 300:
                del link.mine[subscription.subscription_id]
        return subscription, answer

    def approve(self, link: Link, subscription: Subscription, **payload: Any) -> Answer:
        """Grant what the other side asked for."""
        subscription.granted = payload.get("eventType", subscription.event_type)
        subscription.lease_expires_at = payload.get("leaseExpiresAt", now_ms() + 2_592_000_000)
        subscription.status = "active"
        said = {"subscriptionId": subscription.subscription_id, **self._grant(link, subscription)}
        return self.control(link, "subscription.approve", wire.with_members(said, payload))

    def end_subscription(self, link: Link, subscription: Subscription, verb: str) -> Answer:
        """`reject`, `revoke` or `cancel` a subscription."""
        answer = self.control(link, f"subscription.{verb}", {"subscriptionId": subscription.subscription_id})
        if answer.status == 200:
            subscription.status = answer.value["status"]
        return answer

    # --- events ---

    def event(self, event_type: str, payload: Message | None = None, /, **members: Any) -> Message:
        """A signed event; `members` replace or add."""
        message = {
            "messageId": new_id(),
            "instanceId": self.instance_id,
            "eventType": event_type,
            "payload": {} if payload is None else payload,
            "timestamp": now_ms(),
        }
        return self.key.sign("event", wire.with_members(message, members))

    def events_together(self, event_type: str, number: int) -> list[Message]:
        """Events that share one signature (§1.3)."""
        bare = [
            {**rest, "keyId": self.key.key_id}
            for rest in (
                {
                    name: value
                    for name, value in self.event(event_type, {"n": n}).items()
                    if name != "signature"
                }
                for n in range(number)
            )
        ]
        leaves = [wire.leaf(event) for event in bare]
        signature = self.key.sign_bytes(wire.tree_input(wire.root(leaves)))
        return [
            {
                **event,
                "proof": {
                    "index": index,
                    "size": number,
                    "path": [wire.to_base64(one) for one in wire.audit_path(index, leaves)],
                },
                "signature": signature,
            }
            for index, event in enumerate(bare)
        ]

    def batch(self, link: Link, entries: Iterable[tuple[int, Message]], **members: Any) -> Message:
        """An event batch of (sequence, event) pairs; `members` replace or add."""
        batch = {
            "batchId": new_id(),
            "connectionId": link.connection_id,
            "streamEpoch": link.epoch,
            "events": [{"sequence": sequence, "event": event} for sequence, event in entries],
        }
        return wire.with_members(batch, members)

    def send_batch(self, link: Link, batch: Message, transport: Transport | None = None) -> Answer:
        """Post a batch and check the ack batch if there is one."""
        answer = self.post(link.remote.base_url, EVENTS, batch, transport)
        if answer.status == 200:
            self.check_ack("ack-batch", answer, link, batch["batchId"])
            ack = answer.value
            given = [entry["sequence"] for entry in batch["events"]]
            assert [entry["sequence"] for entry in ack["acks"]] == given
            assert ack["streamEpoch"] == batch["streamEpoch"]
            for said, entry in zip(ack["acks"], batch["events"], strict=True):
                check_entry(said, entry["event"])
        return answer

    def publish(self, link: Link, *events: Message) -> Answer:
        """Send events under the next numbers of my stream."""
        entries = [(link.head + place, event) for place, event in enumerate(events, 1)]
        link.head += len(events)
        return self.send_batch(link, self.batch(link, entries))

    def send_event(
        self, remote: Remote, event: Message, link: Link | None = None, transport: Transport | None = None
    ) -> Answer:
        """Post a single event, naming the connection if one is given."""
        path = EVENT + (f"?connectionId={link.connection_id}" if link else "")
        return self.post(remote.base_url, path, event, transport)


def check_entry(said: Message, event: Message) -> None:
    """Check one EventAck, alone or in a batch, against the event that it speaks of."""
    assert said["correlationId"] == event["messageId"]
    assert said["received"] is (said["status"] != "rejected")
    assert said["status"] in {"stored", "duplicate", "rejected"}
    assert ("error" in said) == (said["status"] == "rejected")
    with contextlib.suppress(ValueError, wire.rfc8785.CanonicalizationError):
        assert said["digest"] == wire.digest("event", event)
    if "error" in said:
        assert set(said["error"]) >= {"code", "detail", "retryable"}
        assert said["error"]["retryable"] is PROBLEMS[said["error"]["code"]][1]


#: With what a test needs of the modules beside this one, so that it finds all in one place.
__all__ = [
    "CONNECTION",
    "EVENT",
    "EVENTS",
    "EVENT_ACK",
    "MISSING",
    "PROBLEMS",
    "SUBSCRIPTION",
    "Answer",
    "ForeignPeer",
    "Link",
    "Received",
    "Refused",
    "Remote",
    "Reply",
    "Stream",
    "Subscription",
    "check_entry",
    "exchange",
    "problem",
    "reply",
]
