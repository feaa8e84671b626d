"""Signed messages for tests, with members replaced or removed."""

from typing import Any

from app.protocol.signing import Kind, Signer

MESSAGE, OTHER, CONNECTION, EPOCH = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(1, 5))
RECEIVER = "00000000-0000-4000-8000-00000000000f"
NOW = 1_767_225_600_000
DIGEST = "DfnOcTxz5wSHh36RObLTCVsRUt6vLH1dX3dozAXzGZA="


class _Absent:
    """Stands for a member that is left out. Its text is the same in all processes, as test ids must be."""

    def __repr__(self) -> str:
        return "ABSENT"


#: As the value of a member: leave it out.
ABSENT: Any = _Absent()


def event(signer: Signer, **members: Any) -> dict[str, Any]:
    """A signed event."""
    return _signed(
        signer,
        Kind.EVENT,
        {
            "messageId": MESSAGE,
            "instanceId": signer.instance_id,
            "eventType": "task.created",
            "payload": {"n": 1},
            "timestamp": NOW,
        },
        members,
    )


def ack(signer: Signer, **members: Any) -> dict[str, Any]:
    """A signed EventAck."""
    return _signed(
        signer,
        Kind.ACK,
        {
            "messageId": MESSAGE,
            "correlationId": OTHER,
            "instanceId": signer.instance_id,
            "connectionId": CONNECTION,
            "received": True,
            "timestamp": NOW,
            "status": "stored",
            "digest": DIGEST,
        },
        members,
    )


def ack_batch(signer: Signer, **members: Any) -> dict[str, Any]:
    """A signed EventAckBatch of one entry."""
    entry = {"sequence": 1, "correlationId": OTHER, "received": True, "status": "stored", "digest": DIGEST}
    return _signed(
        signer,
        Kind.ACK_BATCH,
        {
            "messageId": MESSAGE,
            "correlationId": OTHER,
            "instanceId": signer.instance_id,
            "connectionId": CONNECTION,
            "timestamp": NOW,
            "streamEpoch": EPOCH,
            "contiguous": 1,
            "acks": [entry],
        },
        members,
    )


def control(signer: Signer, control_type: str, payload: dict[str, Any], /, **members: Any) -> dict[str, Any]:
    """A signed control message."""
    return _signed(
        signer,
        Kind.CONTROL,
        {
            "messageId": MESSAGE,
            "instanceId": signer.instance_id,
            "type": control_type,
            "connectionId": CONNECTION,
            "controlSequence": 1,
            "payload": payload,
            "timestamp": NOW,
        },
        members,
    )


def batch(*events: dict[str, Any], **members: Any) -> dict[str, Any]:
    """The envelope of a batch, numbered from 1."""
    envelope = {
        "batchId": OTHER,
        "connectionId": CONNECTION,
        "streamEpoch": EPOCH,
        "events": [{"sequence": number, "event": event} for number, event in enumerate(events, 1)],
    }
    return without_absent(envelope | members)


def without_absent(message: dict[str, Any]) -> dict[str, Any]:
    """The message without the members that are ABSENT."""
    return {name: value for name, value in message.items() if value is not ABSENT}


def _signed(signer: Signer, kind: Kind, message: dict[str, Any], members: dict[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in members.items() if name in ("keyId", "signature")}
    return without_absent(signer.sign(kind, without_absent(message | members)) | own)
