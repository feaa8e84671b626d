"""The tables: what is kept, in which unit, and which rules the database itself enforces.

Times are integer Unix milliseconds. Ids of rows are numbers; what the outside sees are UUIDs
(`public_id` columns, or `ids.public_id` for the large tables).
"""

from app.models.attempt import Attempt, AttemptEntry
from app.models.connection import Connection, Direction
from app.models.control_message import ControlOut, ControlReceived, ControlState
from app.models.delivery import Delivery
from app.models.event import Event, EventAlias, EventSignature, EventStatus, EventTrace, event_named
from app.models.idempotency import IdempotencyKey
from app.models.instance import Instance, KeyTold, SigningKey
from app.models.operation import Operation, OperationKind, OperationState
from app.models.peer import Peer, PeerKey
from app.models.people import AuditEntry, SignIn, SignInLink
from app.models.reconciliation import Reconciliation, ReconciliationState
from app.models.replay import OPEN_REPLAY, Replay, ReplayState
from app.models.stream import Stream, StreamGap
from app.models.subscription import Subscription
from app.models.token import Token
from app.models.workspace import Member, Role, User, Workspace

__all__ = [
    "OPEN_REPLAY",
    "Attempt",
    "AttemptEntry",
    "AuditEntry",
    "Connection",
    "ControlOut",
    "ControlReceived",
    "ControlState",
    "Delivery",
    "Direction",
    "Event",
    "EventAlias",
    "EventSignature",
    "EventStatus",
    "EventTrace",
    "IdempotencyKey",
    "Instance",
    "KeyTold",
    "Member",
    "Operation",
    "OperationKind",
    "OperationState",
    "Peer",
    "PeerKey",
    "Reconciliation",
    "ReconciliationState",
    "Replay",
    "ReplayState",
    "Role",
    "SignIn",
    "SignInLink",
    "SigningKey",
    "Stream",
    "StreamGap",
    "Subscription",
    "Token",
    "User",
    "Workspace",
    "event_named",
]
