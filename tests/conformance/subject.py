"""The instance under test, known only by its URL and a token of docs/reference/api.md."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from tests.conformance.foreign_peer import Answer, ForeignPeer, Link, Received, Subscription, exchange
from tests.conformance.wire import FEDERATION, Message, new_id

T = TypeVar("T")


@dataclass
class Subject:
    """One instance, by its bearer API."""

    base_url: str
    token: str
    #: A port on 127.0.0.1 whose origin the instance accepts at once; None: not known.
    accepted_port: int | None = None
    #: An instanceId that the instance blocks.
    blocked_id: str | None = None
    #: Makes a workspace by its slug and gives a token of it; None: cannot be done from here.
    make_workspace: Callable[[str], str] | None = None
    #: Runs a command of the instance and gives what it prints; None: cannot be done from here.
    run_flask: Callable[..., str] | None = None

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Answer:
        """One call of the API."""
        headers = [("Authorization", f"Bearer {self.token}")]
        raw = None if body is None and method == "GET" else json.dumps(body or {}).encode()
        if raw is not None:
            headers.append(("Content-Type", "application/json"))
        asked = "?" + urlencode(query) if query else ""
        return exchange(self.base_url, method, FEDERATION + path + asked, headers, raw)

    def get(self, path: str, **query: Any) -> Any:
        """The value of a call that must succeed."""
        return self._value(self.call("GET", path, **query))

    def post(self, path: str, **body: Any) -> Any:
        """The value of a call that must succeed."""
        return self._value(self.call("POST", path, body))

    @staticmethod
    def _value(answer: Answer) -> Any:
        assert answer.status < 300, answer
        return answer.value

    # --- connections ---

    def connections(self, peer: ForeignPeer) -> list[Message]:
        """Every connection with that peer's origin, newest first."""
        listed = self.get("/connections", limit=200)["data"]
        return [one for one in listed if one["remoteUrl"] == peer.base_url]

    def connection(self, wire_connection_id: str) -> Message | None:
        """The connection with that id on the wire, or None if it is not shown."""
        listed = self.get("/connections", limit=200)["data"]
        return next((one for one in listed if one["wireConnectionId"] == wire_connection_id), None)

    def initiate(self, peer: ForeignPeer, **body: Any) -> Message:
        """Ask the peer for a connection."""
        return self.post("/connections/initiate", remoteUrl=peer.base_url, **body)

    def pending(self, link: Link) -> Message:
        """The connection that the peer asked for, once its request was checked."""
        return wait_for(
            lambda: (found := self.connection(link.connection_id)) and found["status"] == "pending" and found,
            "the request is shown",
        )

    # --- events ---

    def publish(self, event_type: str, payload: Message | None = None, **members: Any) -> Message:
        """Publish one event."""
        return self.post("/events/publish", eventType=event_type, payload=payload or {}, **members)

    def publish_many(self, event_type: str, count: int) -> list[Message]:
        """Publish a batch of small events {"n": 0}, {"n": 1}, …"""
        events = [{"eventType": event_type, "payload": {"n": n}} for n in range(count)]
        return self.post("/events/publish/batch", events=events)["data"]

    def delivery(self, message_id: str, connection_id: str) -> Message | None:
        """The delivery of an event over one connection, with the event's details under `event`."""
        event = self.get(f"/events/messages/{quote(message_id)}")
        found = [one for one in event["deliveries"] if one["connectionId"] == connection_id]
        return {**found[0], "event": event} if found else None

    def wait_for_delivery(self, message_id: str, connection_id: str, status: str) -> Message:
        """The delivery once it has that status."""
        last: list[Any] = [None]

        def reached() -> Any:
            last[0] = self.delivery(message_id, connection_id)
            return last[0] if last[0] and last[0]["status"] == status else None

        try:
            return wait_for(reached, f"delivery is {status}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {last[0]}") from None


@dataclass
class Bond:
    """An active connection between the subject and a foreign peer, seen from both sides."""

    subject: Subject
    peer: ForeignPeer
    link: Link
    local_id: str
    #: The first segments of the event types of this test alone; granted at once.
    topic: str = field(default_factory=lambda: f"auto.t{new_id()[:8]}")

    def details(self) -> Message:
        """ConnectionDetails as the subject tells them now."""
        return self.subject.get(f"/connections/{self.local_id}")

    def act(self, verb: str, **body: Any) -> Message:
        """An action of the API on this connection."""
        return self.subject.post(f"/connections/{self.local_id}/{verb}", **body)

    def wait_until(self, **members: Any) -> Message:
        """The details once they have these members."""
        last: list[Message] = [{}]

        def reached() -> Message | None:
            last[0] = self.details()
            return last[0] if members.items() <= last[0].items() else None

        try:
            return wait_for(reached, f"connection with {members}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {last[0]}") from None

    def listen(self, pattern: str | None = None) -> Subscription:
        """Let the peer subscribe; granted by the policy of the subject, or else by its operator."""
        subscription, answer = self.peer.subscribe(self.link, pattern or f"{self.topic}.*")
        assert answer.status in {200, 202}, answer
        if subscription.status != "active":
            [row] = self.subscriptions("outgoing", eventType=subscription.event_type)
            self.subject.post(f"/events/subscriptions/{row['id']}/approve")
            self.peer.wait_until(lambda: subscription.status == "active", "the grant arrives")
        return subscription

    def offer(self, pattern: str | None = None) -> Subscription:
        """Let the subject subscribe, and grant it at once."""
        pattern = pattern or f"{self.topic}.*"
        self.peer.grants.append(pattern)
        self.subject.post("/events/subscribe", connectionId=self.local_id, eventType=pattern)
        wait_for(
            lambda: self.subscriptions("incoming", eventType=pattern, status="active"),
            "the subscription is active",
        )
        return next(one for one in self.link.theirs.values() if one.event_type == pattern)

    def subscriptions(self, direction: str, **members: Any) -> list[Message]:
        """The subject's subscriptions on this connection that have these members."""
        listed = self.subject.get(
            "/events/subscriptions", connectionId=self.local_id, direction=direction, limit=200
        )["data"]
        return [one for one in listed if members.items() <= one.items()]

    def stream(self, direction: str) -> Message:
        """The subject's view of one stream."""
        return self.subject.get(f"/connections/{self.local_id}/stream")[direction]

    def stored(self) -> list[Message]:
        """The incoming events of this test's topic that the subject stored, oldest first."""
        listed = self.subject.get(
            "/events/messages", connectionId=self.local_id, direction="incoming", order="asc", limit=200
        )["data"]
        return [one for one in listed if one["eventType"].startswith(self.topic)]

    def publish(self, name: str = "created", payload: Message | None = None) -> Message:
        """Publish an event of this test's topic."""
        return self.subject.publish(f"{self.topic}.{name}", payload)

    def take_batch(self, **given: Any) -> Received:
        """The next event batch that arrives at the peer for this connection."""
        return self.peer.take(
            lambda one: (
                one.path.endswith("/incoming/events")
                and isinstance(one.value, dict)
                and one.value.get("connectionId") == self.link.connection_id
            ),
            **given,
        )

    def wait_for_delivery(self, published: Message, status: str) -> Message:
        """The delivery of a published event over this connection, once it has that status."""
        return self.subject.wait_for_delivery(published["messageId"], self.local_id, status)

    def wait_for_failure(self, published: Message, attempts: int = 1) -> Message:
        """The delivery once that many attempts are recorded and none is under way."""

        def failed() -> Any:
            found = self.subject.delivery(published["messageId"], self.local_id)
            return found if found and found["attempts"] and found["status"] != "sending" else None

        return wait_for(failed, f"{attempts} attempts are recorded")


def wait_for(look: Callable[[], T], what: str, timeout_s: float = 15.0) -> T:
    """Look again and again until it is true of something; AssertionError after the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
