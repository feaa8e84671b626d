"""Acks: the signed receipts for what came in, made after it was committed."""

from collections.abc import Sequence
from uuid import uuid4

from app.protocol.canonical import loads
from app.protocol.errors import Problem
from app.protocol.messages import (
    AckEntry,
    AckStatus,
    EventAck,
    EventBatch,
    EventMessage,
    ack_error,
    parse_event_ack,
    sign_ack_batch,
    sign_event_ack,
)
from app.protocol.signing import Signer


def sign_ack(
    signer: Signer, wire_connection_id: str, event: EventMessage, status: AckStatus, now: int
) -> EventAck:
    """The receipt for one event, stored now or before."""
    wire = sign_event_ack(
        signer,
        message_id=str(uuid4()),
        correlation_id=event.message_id,
        connection_id=wire_connection_id,
        timestamp=now,
        status=status,
        digest=event.digest,
    )
    return parse_event_ack(loads(wire))


def sign_batch(
    signer: Signer, batch: EventBatch, verdicts: Sequence[AckStatus | Problem], contiguous: int, now: int
) -> bytes:
    """The receipt for a batch in its wire form: an entry for each event, one signature for all."""
    entries = [
        AckEntry(entry.sequence, entry.message_id, AckStatus.REJECTED, entry.digest, ack_error(verdict))
        if isinstance(verdict, Problem)
        else AckEntry(entry.sequence, entry.message_id, verdict, entry.digest)
        for entry, verdict in zip(batch.entries, verdicts, strict=True)
    ]
    return sign_ack_batch(
        signer,
        message_id=str(uuid4()),
        batch_id=batch.batch_id,
        connection_id=batch.connection_id,
        timestamp=now,
        stream_epoch=batch.stream_epoch,
        contiguous=contiguous,
        acks=entries,
    )
