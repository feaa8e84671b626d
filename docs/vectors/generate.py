"""Make the published test vectors of `tidings/1` anew: `python -m docs.vectors.generate` from the root.

Everything follows from the private keys in keys.json and from fixed ids and times, and both
kinds of signatures are deterministic, so the same bytes come out every time. Who takes part
is in cast.py, the requests with their answers are in request_cases.py, made by request_desk.py.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from app.protocol import control, http_signature, keys, messages, signing
from app.protocol.canonical import canonical, loads
from app.protocol.comparison import Held, Side, summarise
from app.protocol.control import ControlType
from app.protocol.event_types import is_pattern, is_subset, matches
from app.protocol.keys import KeyRecord, KeyStatus
from app.protocol.members import encode_base64
from app.protocol.messages import AckEntry, AckError, AckStatus
from app.protocol.signing import Kind, Signer
from docs.vectors.cast import (
    CONNECTION,
    DAY,
    EPOCH,
    HERE,
    NOW,
    RECEIVER,
    RECEIVER_URL,
    SENDER,
    SENDER_URL,
    Pair,
    load_pairs,
    uuid,
)
from docs.vectors.request_cases import make_requests
from docs.vectors.tree_cases import make_tree


def make_keys(pairs: dict[str, Pair]) -> Any:
    """keys.json."""
    first, second = pairs["rsa"].record, pairs["ed25519"].record
    return {
        "warning": "TEST ONLY. The private halves are published here: never trust these keys.",
        "instanceId": SENDER,
        "pairingCode": {
            "of": ["rsa", "ed25519"],
            "code": keys.pairing_code(first.fingerprint, second.fingerprint),
        },
        "keys": {
            name: {"privateKeyPem": pair.private_pem, "record": pair.record.to_wire()}
            for name, pair in pairs.items()
        },
    }


# Canonical JSON

ACCEPTED = {
    "whitespace and order": ' { "b" : [ 1 , { } ] , "a" : null } ',
    "integers": "[0, -0, 9007199254740991, -9007199254740991, 1e2, 7.0]",
    "fractions": "[0.1, 1.50, 123456.789, 1e-6, 0.000001, 1e-7, 5e-324, 1e-400]",
    "exponents": "[1e21, 1.5e300, -2E+30]",
    "keys beyond U+FFFF sort by UTF-16": '{"\\ufffd": 1, "\\ud83d\\ude00": 2, "z": 3, "": 4}',
    "escapes": '["\\u0001\\b\\f\\n\\r\\t\\"\\\\\\/", "\\u00e9\\u007f\\u2028"]',
    "noncharacters": '["\\ufdd0\\uffff"]',
    "depth 32": "[" * 32 + "]" * 32,
}
REFUSED: list[dict[str, Any]] = [
    {"name": "same key twice", "text": '{"a":1,"b":2,"a":1}'},
    {"name": "same key twice after unescaping", "text": '{"key":1,"\\u006bey":2}'},
    {"name": "NaN", "text": "[NaN]"},
    {"name": "overflow", "text": "[-1e999]"},
    {"name": "integer beyond 2^53-1", "text": "[9007199254740992]"},
    {"name": "fraction that is such an integer", "text": "[9007199254740993.5]"},
    {"name": "printed as such an integer", "text": "[1e20]"},
    {"name": "lone surrogate", "text": '["\\udfff"]'},
    {"name": "U+0000", "text": '{"\\u0000":1}'},
    {"name": "two values", "text": "{} {}"},
    {"name": "plus sign", "text": "[+1]"},
    {"name": "byte-order mark", "base64": base64.b64encode(b"\xef\xbb\xbf{}").decode()},
    {"name": "surrogate in UTF-8", "base64": base64.b64encode(b'["\xed\xa0\x80"]').decode()},
    {"name": "depth 33", "text": "[" * 33 + "]" * 33},
    {"name": "10 001 values", "parts": [["[", 1], ["{},", 9999], ["{}]", 1]]},
]


def make_canonical(pairs: dict[str, Pair]) -> Any:
    """canonical.json."""
    accepted = []
    for name, text in ACCEPTED.items():
        data = canonical(loads(text.encode()))
        digest = sha256(data).hexdigest()
        accepted.append({"name": name, "text": text, "canonical": data.decode(), "sha256": digest})
    return {"accepted": accepted, "refused": REFUSED}


# Messages


def event(signer: Signer, name: str, payload: dict[str, Any], **extras: str) -> dict[str, Any]:
    """A signed event of the sender."""
    return signer.sign(
        Kind.EVENT,
        {
            "messageId": uuid(name),
            "instanceId": SENDER,
            "eventType": "task.created",
            "payload": payload,
            "timestamp": NOW - 1000,
            **extras,
        },
    )


def digest_of(kind: Kind, message: dict[str, Any]) -> str:
    """The digest of a message."""
    return signing.digest(signing.signing_input(kind, message))


def make_events(pairs: dict[str, Pair]) -> list[tuple[Kind, str, dict[str, Any]]]:
    """Events with and without the optional members, by both algorithms."""
    extras = {
        "specVersion": "1.0",
        "subject": "tasks/17",
        "dataSchema": "https://sender.example/schemas/task",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-unknown": "members that nobody knows are covered too",
    }
    payload = {"title": "Grüße 😀", "weights": [1, 2.5, 1e21, -0.0], "ﬁ": None, "𝄞": {"done": True}}
    return [
        (Kind.EVENT, "rsa", event(pairs["rsa"].signer(), "event 1", {"n": 1})),
        (Kind.EVENT, "rsa", event(pairs["rsa"].signer(), "event 2", payload, **extras)),
        (Kind.EVENT, "ed25519", event(pairs["ed25519"].signer(), "event 3", {})),
    ]


def make_acks(pairs: dict[str, Pair]) -> list[tuple[Kind, str, dict[str, Any]]]:
    """A stored and a rejected ack, and an ack batch; the test keys stand for the receiver's."""
    signer = pairs["rsa"].signer(RECEIVER)
    first, second, _ = (message for _, _, message in make_events(pairs))
    stored = (first["messageId"], AckStatus.STORED, digest_of(Kind.EVENT, first))
    error = AckError("not_subscribed", "Nobody here asked for task.created.", False)
    rejected = (second["messageId"], AckStatus.REJECTED, digest_of(Kind.EVENT, second))
    acks = [
        messages.sign_event_ack(
            signer,
            message_id=uuid(f"ack {status}"),
            correlation_id=correlation_id,
            connection_id=CONNECTION,
            timestamp=NOW,
            status=status,
            digest=digest,
            error=error if status is AckStatus.REJECTED else None,
        )
        for correlation_id, status, digest in (stored, rejected)
    ]
    batch = messages.sign_ack_batch(
        signer,
        message_id=uuid("ack batch"),
        batch_id=uuid("batch"),
        connection_id=CONNECTION,
        timestamp=NOW,
        stream_epoch=EPOCH,
        contiguous=2,
        acks=[AckEntry(1, *stored), AckEntry(2, *rejected, error)],
    )
    return [(Kind.ACK, "rsa", loads(ack)) for ack in acks] + [(Kind.ACK_BATCH, "rsa", loads(batch))]


def make_payloads(pairs: dict[str, Pair]) -> dict[ControlType, control.ControlPayload]:
    """A payload for every type of control message."""
    subscription = uuid("subscription")
    return {
        ControlType.CONNECTION_REQUEST: control.ConnectionRequest(
            SENDER_URL, "default", "Default", ("1.0",), ("ed25519",), "sales", "Hello from next door"
        ),
        ControlType.CONNECTION_ACCEPT: control.ConnectionAccept(
            uuid("request"), "1.0", ("ed25519",), "sales", "Sales"
        ),
        ControlType.CONNECTION_REJECT: control.ConnectionReject(uuid("request"), "crossed"),
        ControlType.CONNECTION_SUSPEND: control.Reason("maintenance"),
        ControlType.CONNECTION_RESUME: control.Reason(),
        ControlType.CONNECTION_DISCONNECT: control.Reason("moved"),
        ControlType.VERIFICATION: control.Verification("c3RhdGU"),
        ControlType.HEARTBEAT: control.Heartbeat(EPOCH, 0, 1),
        ControlType.KEYS_CHANGED: control.KeysChanged((pairs["ed25519"].record,)),
        ControlType.SUBSCRIPTION_REQUEST: control.SubscriptionRequest(subscription, "task.**", 2_592_000),
        ControlType.SUBSCRIPTION_APPROVE: control.SubscriptionApprove(
            subscription, control.Grant("task.*", NOW + 30 * DAY, EPOCH, 1)
        ),
        ControlType.SUBSCRIPTION_REJECT: control.SubscriptionEnd(subscription, "not for you"),
        ControlType.SUBSCRIPTION_REVOKE: control.SubscriptionEnd(subscription),
        ControlType.SUBSCRIPTION_CANCEL: control.SubscriptionEnd(subscription),
        ControlType.REPLAY_REQUEST: control.ReplayRequest(
            uuid("replay"), EPOCH, 1, 100, NOW - DAY, NOW, ("task.*",)
        ),
        ControlType.REPLAY_COMPLETE: control.ReplayComplete(uuid("replay"), 100, True, 101),
        ControlType.GAP: control.Gap(EPOCH, 3, 5, control.GapReason.WITHDRAWN),
        ControlType.RECONCILE: control.Reconcile(
            uuid("reconciliation"),
            Side.PUBLISHER,
            EPOCH,
            (summarise(1, 3, _held()), summarise(4, 64, _held())),
        ),
    }


def _held() -> dict[int, Held]:
    """Two events under the numbers 1 and 3."""
    return {n: Held(n, uuid(f"event {n}"), encode_base64(sha256(b"%d" % n).digest())) for n in (1, 3)}


def make_controls(pairs: dict[str, Pair]) -> list[tuple[Kind, str, dict[str, Any]]]:
    """Every control message, and an answer to the verification."""
    signer = pairs["rsa"].signer()
    made = []
    for number, (control_type, payload) in enumerate(make_payloads(pairs).items(), 1):
        body = control.control_body(
            message_id=uuid(control_type.value),
            instance_id=SENDER,
            control_type=control_type,
            connection_id=CONNECTION,
            control_sequence=number,
            payload=payload,
            timestamp=NOW - 1000,
            key_id=signer.key_id,
        )
        wire = signing.with_signature(body, signer.sign_body(Kind.CONTROL, body))
        made.append((Kind.CONTROL, "rsa", loads(wire)))
    answer = control.sign_control_ack(
        pairs["ed25519"].signer(RECEIVER),
        message_id=uuid("answer"),
        correlation_id=uuid(ControlType.VERIFICATION.value),
        connection_id=CONNECTION,
        status="active",
        timestamp=NOW,
        payload={"state": "c3RhdGU"},
    )
    return [*made, (Kind.CONTROL_ACK, "ed25519", loads(answer))]


def make_document(pairs: dict[str, Pair]) -> Any:
    """instance.json."""
    document = messages.sign_document(
        pairs["rsa"].signer(),
        name="Sender (test vectors)",
        base_url=SENDER_URL,
        software=("vectors", "1"),
        now_ms=NOW,
        keys=[pair.record for pair in pairs.values()],
        features=["ed25519"],
        limits=messages.Limits(),
    )
    return loads(document)


def make_vouch_message(pairs: dict[str, Pair]) -> dict[str, Any]:
    """What a vouch is the signature of, and that signature."""
    record = pairs["ed25519"].record
    members = loads(keys.vouch_input(SENDER, record).split(b"\n", 2)[2])
    return {**members, "signature": record.vouch_signature}


def make_messages(pairs: dict[str, Pair]) -> Any:
    """messages.json."""
    made = [*make_events(pairs), *make_acks(pairs), *make_controls(pairs)]
    made += [(Kind.INSTANCE, "rsa", make_document(pairs)), (Kind.KEY, "rsa", make_vouch_message(pairs))]
    return {
        "messages": [
            {
                "kind": kind.value,
                "key": key,
                "message": message,
                "signingInput": base64.b64encode(signing.signing_input(kind, message)).decode(),
                "digest": digest_of(kind, message),
            }
            for kind, key, message in made
        ]
    }


def make_http(pairs: dict[str, Pair]) -> Any:
    """http.json."""
    signer = pairs["rsa"].signer()
    wire = signing.with_signature(*_body_and_signature(event(signer, "event 1", {"n": 1})))
    url = f"/api/v1/federation/incoming/event?connectionId={CONNECTION}"
    uri = http_signature.target_uri(RECEIVER_URL, url)
    headers = http_signature.sign_request(
        signer, method="POST", target_uri=uri, body=wire, created_s=NOW // 1000, nonce="vector-nonce-0001"
    )
    read = http_signature.read_signature(
        headers.items(), method="POST", target_uri=uri, body=wire, now_ms=NOW
    )
    request = {
        "method": "POST",
        "url": url,
        "headers": [list(line) for line in headers.items()],
        "body": wire.decode(),
    }
    return {"key": "rsa", "baseUrl": RECEIVER_URL, "request": request, "signatureBase": read.base.decode()}


def _body_and_signature(message: dict[str, Any]) -> tuple[bytes, str]:
    return signing.body_of(Kind.EVENT, message), message["signature"]


# Patterns

TYPES = ["a", "task", "task.created", "tasks.created", "task.status.changed", "a.b.c.d.e.f.g.h"]
PATTERNS = ["a", "task", "task.created", "task.*", "task.**", "task.status.*", "a.b.c.d.e.f.g.*", "**"]
BAD_TYPES = ["", "Task", "a..b", ".a", "a.", "a b", "ä", "a" * 65, "a.b.c.d.e.f.g.h.i", "task.*", "a\n"]
BAD_PATTERNS = ["", "*", "*.a", "a.*.b", "a*", "**.a", "a.***", "A.**", "a.b.c.d.e.f.g.h.*", "a,b"]
LONGEST = ".".join(["a" * 64, "b" * 64, "c" * 64, "d" * 60])


def make_patterns(pairs: dict[str, Pair]) -> Any:
    """patterns.json: every pair of the patterns and types above."""
    return {
        "match": [[pattern, name, matches(pattern, name)] for pattern in PATTERNS for name in TYPES],
        "subset": [[pattern, of, is_subset(pattern, of)] for pattern in PATTERNS for of in PATTERNS],
        "goodTypes": [*TYPES, "0-_", LONGEST],
        "badTypes": [*BAD_TYPES, LONGEST + "ddd"],
        "goodPatterns": [pattern for pattern in [*PATTERNS, *TYPES] if is_pattern(pattern)],
        "badPatterns": [*BAD_PATTERNS, LONGEST + ".**"],
    }


# Vouch chains


def make_vouch(pairs: dict[str, Pair]) -> Any:
    """vouch.json: `first` is pinned, `second` vouched for by it, `third` by the second."""
    first, second = pairs["rsa"].record, pairs["ed25519"].record
    plain = replace(
        pairs["retired"].record,
        status=KeyStatus.NEXT,
        not_after=None,
        vouch_by=None,
        vouch_signature=None,
    )
    third = keys.vouch(SENDER, plain, second.key_id, pairs["ed25519"].private)
    records = {
        "first": first,
        "first, retired": replace(first, status=KeyStatus.RETIRED, not_after=NOW - DAY),
        "first, revoked": replace(first, status=KeyStatus.REVOKED, revoked_at=NOW),
        "second": second,
        "second, revoked": replace(second, status=KeyStatus.REVOKED, revoked_at=NOW),
        "second, from another time": replace(second, not_before=second.not_before + 1),
        "second, vouched for elsewhere": keys.vouch(RECEIVER, second, first.key_id, pairs["rsa"].private),
        "third": third,
        "third, without a vouch": plain,
    }
    cases: list[tuple[str, list[str], list[str]]] = [
        ("a chain of two, in any order", ["first"], ["third", "second", "first"]),
        ("a chain from the second", ["first", "second"], ["first", "second", "third"]),
        ("nothing is pinned", [], ["first", "second", "third"]),
        ("no vouch", ["first"], ["first", "third, without a vouch"]),
        ("the link in the middle is missing", ["first"], ["first", "third"]),
        ("the link in the middle was revoked", ["first"], ["first", "second, revoked", "third"]),
        ("the link was revoked where it is pinned", ["first", "second, revoked"], ["second", "third"]),
        ("a retired key may have vouched", ["first, retired"], ["first, retired", "second"]),
        ("the document revokes the voucher", ["first"], ["first, revoked", "second"]),
        ("notBefore is covered", ["first"], ["first", "second, from another time"]),
        ("instanceId is covered", ["first"], ["first", "second, vouched for elsewhere"]),
    ]
    return {
        "instanceId": SENDER,
        "records": {name: record.to_wire() for name, record in records.items()},
        "cases": [
            {
                "name": name,
                "pinned": pinned,
                "document": document,
                "trusted": _trusted_names(records, pinned, document),
            }
            for name, pinned, document in cases
        ],
    }


def _trusted_names(records: dict[str, KeyRecord], pinned: list[str], document: list[str]) -> list[str]:
    trusted = keys.trusted_records(SENDER, [records[n] for n in pinned], [records[n] for n in document])
    return [name for name in document if records[name] in trusted]


#: What is made of the keys, by file.
FILES: dict[str, Callable[[dict[str, Pair]], Any]] = {
    "keys.json": make_keys,
    "canonical.json": make_canonical,
    "messages.json": make_messages,
    "instance.json": make_document,
    "http.json": make_http,
    "patterns.json": make_patterns,
    "vouch.json": make_vouch,
    "requests.json": make_requests,
    "tree.json": make_tree,
}


def build() -> dict[str, str]:
    """The text of every file."""
    pairs = load_pairs()
    return {
        name: json.dumps(make(pairs), ensure_ascii=False, indent=1) + "\n" for name, make in FILES.items()
    }


def main() -> None:
    """Write the files beside this one."""
    for name, text in build().items():
        (HERE / name).write_text(text, "utf-8")
        print(name)


if __name__ == "__main__":
    main()
