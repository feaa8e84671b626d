"""What a foreign peer keeps of its connections, and the table of their moves (§4)."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tests.conformance.exchanges import Reply
from tests.conformance.wire import Message, new_id

ENDED = {"disconnected", "rejected", "expired"}


@dataclass
class Remote:
    """The other instance, as pinned."""

    base_url: str
    instance_id: str
    keys: dict[str, Message]
    document: Message


@dataclass
class Subscription:
    """A subscription as one side of it keeps it."""

    subscription_id: str
    event_type: str
    status: str
    granted: str | None = None
    lease_expires_at: int | None = None


@dataclass
class Stream:
    """What came in of one stream epoch."""

    epoch: str
    filled: dict[int, str] = field(default_factory=dict)
    contiguous: int = 0

    def fill(self, sequence: int, message_id: str) -> None:
        self.filled[sequence] = message_id
        while self.contiguous + 1 in self.filled:
            self.contiguous += 1


@dataclass
class Link:
    """This side of one connection."""

    connection_id: str
    remote: Remote
    status: str
    workspace: Message
    request_id: str = ""
    offer: Message = field(default_factory=dict)
    suspended_by: set[str] = field(default_factory=set)
    control_sequence: int = 0
    last_control_sequence: int = 0
    answers: dict[str, tuple[str, Reply]] = field(default_factory=dict)
    mine: dict[str, Subscription] = field(default_factory=dict)
    theirs: dict[str, Subscription] = field(default_factory=dict)
    epoch: str = field(default_factory=new_id)
    head: int = 0
    streams: dict[str, Stream] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)
    events: list[Message] = field(default_factory=list)
    is_checked: threading.Event = field(default_factory=threading.Event)

    @property
    def state(self) -> str:
        """The column of the table of §4."""
        return "ended" if self.status in ENDED else self.status


#: The table of §4: what a control does in a state; a code refuses, a state is gone into.
SAME = "same"
MOVES: dict[str, dict[str, str]] = {
    "connection.request": dict.fromkeys(
        ("requested", "pending", "active", "suspended", "ended"), "invalid_state"
    ),
    "connection.accept": {"requested": "active", "ended": "connection_closed"},
    "connection.reject": {"requested": "rejected", "ended": "connection_closed"},
    "connection.suspend": {"active": "suspended", "suspended": "suspended", "ended": "connection_closed"},
    "connection.resume": {"active": SAME, "suspended": "resumed", "ended": "connection_closed"},
    "connection.disconnect": {
        **dict.fromkeys(("requested", "pending", "active", "suspended"), "disconnected"),
        "ended": SAME,
    },
    "keys.changed": {
        **dict.fromkeys(("requested", "pending", "active", "suspended"), SAME),
        "ended": "connection_closed",
    },
}
for _type in ("verification", "heartbeat", "gap", "subscription.cancel", "replay.complete"):
    MOVES[_type] = {"active": SAME, "suspended": SAME, "ended": "connection_closed"}
for _type in ("request", "approve", "reject", "revoke"):
    MOVES[f"subscription.{_type}"] = {
        "active": SAME,
        "suspended": "connection_suspended",
        "ended": "connection_closed",
    }
MOVES["replay.request"] = MOVES["subscription.request"]
