"""Acts: what everything that our own people do with a connection has in common.

An act says something to the peer in the transaction that changes the state here (`lifecycle`, `controls`), is
noted in the audit log in that same transaction, commits, and waits a moment for the answer, so that its
caller is told what is so.
"""

from app.access import audit
from app.database import db
from app.errors import RemoteInvalid
from app.federation import controls, identity
from app.models import Connection, ControlOut
from app.protocol.errors import invalid
from app.protocol.keys import Algorithm

#: Longest note or reason, in characters.
MAX_NOTE = 1000


def check_text(text: str | None, pointer: str) -> None:
    """Raises InvalidRequest at the pointer for a note or reason that is empty or too long."""
    if text is not None and not 1 <= len(text) <= MAX_NOTE:
        raise invalid(pointer, f"has 1 to {MAX_NOTE} characters", "limit")


def check_algorithm(features: frozenset[str]) -> None:
    """With an Ed25519 key we talk only to who verifies such signatures (§1.2). Raises RemoteInvalid."""
    if identity.local_instance().algorithm is Algorithm.ED25519 and "ed25519" not in features:
        raise RemoteInvalid("The other side does not verify Ed25519 signatures, and ours is such a key.")


def note(
    verb: str,
    connection: Connection,
    after: dict[str, object] | None = None,
    *,
    before: dict[str, object] | None = None,
) -> None:
    """Write the act into the audit log, inside the caller's transaction."""
    audit.record(
        f"connection.{verb}",
        "connection",
        connection.public_id,
        before=before,
        after=after,
        workspace_id=connection.workspace_id,
    )


def answered(connection_id: int, control: ControlOut) -> Connection:
    """The connection when the message was answered, or 2 s are over. No transaction may be open."""
    controls.wait_for_answer(control.id)
    return read(connection_id)


def read(connection_id: int) -> Connection:
    """The connection as it is in the database now."""
    return db.session.get_one(Connection, connection_id, populate_existing=True)
