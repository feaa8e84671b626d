"""Every vector is reproduced: those of an independent peer, and our own as a stranger would read them."""

import base64
from hashlib import sha256
from typing import Any

import pytest

from app.protocol import control, event_types, http_signature, keys, messages, signing
from app.protocol.canonical import canonical_message, check_message, loads
from app.protocol.errors import AuthenticationFailed, InvalidRequest, KeyUntrusted, Problem
from app.protocol.keys import KeyRecord, find_key, load_public_key, may_sign_transport, parse_key_record
from app.protocol.signing import Kind
from docs.vectors import generate
from tests.protocol import vectors

NOW = {"shared": 1_767_225_600_000, "published": generate.NOW}


def name_of(value: Any) -> str | None:
    return value.get("name") or value.get("kind") if isinstance(value, dict) else None


@pytest.mark.parametrize("which, case", vectors.cases("canonical.json", "accepted"), ids=name_of)
def test_canonical_text_is_reproduced(which, case):
    text = canonical_message(loads(vectors.raw_text(case)))

    assert text.decode() == case["canonical"]
    assert sha256(text).hexdigest() == case["sha256"]


@pytest.mark.parametrize("which, case", vectors.cases("canonical.json", "refused"), ids=name_of)
def test_text_that_is_no_strict_json_is_refused(which, case):
    with pytest.raises(InvalidRequest):
        check_message(loads(vectors.raw_text(case)))


@pytest.mark.parametrize("which, case", vectors.cases("messages.json", "messages"), ids=name_of)
def test_signing_input_digest_and_signature_are_reproduced(which, case):
    kind, message = Kind(case["kind"]), case["message"]
    key = vectors.read(which, "keys.json")["keys"][case["key"]]

    signed = signing.signing_input(kind, message)
    signature = keys.load_private_key(key["privateKeyPem"]).sign(signed)

    assert signed == base64.b64decode(case["signingInput"])
    assert signing.digest(signed) == case["digest"]
    assert base64.b64encode(signature).decode() == message["signature"]
    signing.verify(kind, message, load_public_key(key["record"]["publicKeyPem"]))


PARSERS = {
    "event": messages.parse_event,
    "ack": messages.parse_event_ack,
    "ack-batch": messages.parse_ack_batch,
    "control": control.parse_control,
    "control-ack": control.parse_control_ack,
    "instance": messages.parse_instance_document,
}


@pytest.mark.parametrize(
    "which, case",
    [(which, case) for which, case in vectors.cases("messages.json", "messages") if case["kind"] in PARSERS],
    ids=name_of,
)
def test_message_is_read_and_written_again_unchanged(which, case):
    parsed = PARSERS[case["kind"]](case["message"])

    assert signing.body_input(Kind(case["kind"]), parsed.body) == base64.b64decode(case["signingInput"])
    assert loads(parsed.to_wire()) == case["message"]


@pytest.mark.parametrize("which", vectors.FOLDERS)
def test_published_control_payloads_are_written_as_they_were_read(which):
    for case in vectors.read(which, "messages.json")["messages"]:
        if case["kind"] == "control":
            parsed = control.parse_control(case["message"])

            assert parsed.payload.to_wire() == case["message"]["payload"]


@pytest.mark.parametrize("which", vectors.FOLDERS)
def test_signed_request_and_its_base_are_reproduced(which):
    vector = vectors.read(which, "http.json")
    key = vectors.read(which, "keys.json")["keys"][vector["key"]]
    request = vector["request"]
    sent = dict(map(tuple, request["headers"]))
    uri = http_signature.target_uri(vector["baseUrl"], request["url"])

    read = http_signature.read_signature(
        request["headers"],
        method=request["method"],
        target_uri=uri,
        body=request["body"].encode(),
        now_ms=NOW[which],
    )
    signer = signing.Signer(read.instance_id, read.key_id, keys.load_private_key(key["privateKeyPem"]))
    made = http_signature.sign_request(
        signer,
        method=request["method"],
        target_uri=uri,
        body=request["body"].encode(),
        created_s=read.created,
        nonce=read.nonce,
    )

    assert read.base.decode() == vector["signatureBase"]
    read.verify(load_public_key(key["record"]["publicKeyPem"]))
    assert made == sent


@pytest.mark.parametrize("which", vectors.FOLDERS)
def test_instance_document_is_accepted_where_and_when_it_was_made(which):
    value = vectors.read(which, "instance.json")

    document = messages.parse_instance_document(value)
    verified = messages.verify_document(document, base_url=value["baseUrl"], now_ms=NOW[which])

    assert verified.active_key().key_id == value["keyId"]
    assert [record.to_wire() for record in verified.keys] == value["keys"]


@pytest.mark.parametrize("which", vectors.FOLDERS)
def test_patterns_match_and_contain_as_shown(which):
    vector = vectors.read(which, "patterns.json")

    for pattern, event_type, expected in vector["match"]:
        assert event_types.matches(pattern, event_type) is expected, (pattern, event_type)
        found = event_types.Matcher([(pattern, "item")]).find(event_type)
        assert found == (["item"] if expected else []), (pattern, event_type)
    for pattern, of, expected in vector["subset"]:
        assert event_types.is_subset(pattern, of) is expected, (pattern, of)


@pytest.mark.parametrize("which", vectors.FOLDERS)
def test_types_and_patterns_are_good_or_bad_as_shown(which):
    vector = vectors.read(which, "patterns.json")

    for name, is_good, check in (
        ("goodTypes", True, event_types.is_event_type),
        ("badTypes", False, event_types.is_event_type),
        ("goodPatterns", True, event_types.is_pattern),
        ("badPatterns", False, event_types.is_pattern),
    ):
        for text in vector[name]:
            assert check(text) is is_good, text


@pytest.mark.parametrize("which, case", vectors.cases("vouch.json", "cases"), ids=name_of)
def test_vouch_chains_lead_to_the_trusted_records(which, case):
    vector = vectors.read(which, "vouch.json")
    records = {name: parse_key_record(record) for name, record in vector["records"].items()}

    trusted = keys.trusted_records(
        vector["instanceId"],
        [records[name] for name in case["pinned"]],
        [records[name] for name in case["document"]],
    )

    assert trusted == [records[name] for name in case["trusted"]]


def test_pairing_code_is_reproduced():
    vector = vectors.read("published", "keys.json")
    one, other = (vector["keys"][name]["record"]["fingerprint"] for name in vector["pairingCode"]["of"])

    assert keys.pairing_code(one, other) == keys.pairing_code(other, one) == vector["pairingCode"]["code"]


def test_generating_the_published_vectors_again_gives_the_same_bytes():
    for name, text in generate.build().items():
        assert (vectors.FOLDERS["published"] / name).read_text("utf-8") == text, name


# requests.json: as far as it is decided without a database

REQUESTS = vectors.read("shared", "requests.json")
CONTEXT = REQUESTS["context"]
PINNED = [parse_key_record(record) for record in CONTEXT["pinned"]["keys"]]

#: Refusals that follow from the request alone, given the pinned keys.
PURE_CODES = {
    "authentication_failed",
    "clock_skew",
    "unsupported_media_type",
    "unsupported_version",
    "event_expired",
    "invalid_request",
}
#: What needs to know what came before, or what was asked for.
STATEFUL = {
    "a nonce used again",
    "more granted than requested",
    "after activation: the old key signs no request",
    "after activation: an event of before",
    "after activation: a later event by the old key",
}


def examine(request: dict[str, Any]) -> Any:
    """Everything that is checked of a request before the database is asked."""
    sent = {name.lower(): value for name, value in request["headers"]}
    http_signature.check_media_type(sent.get("content-type"), sent.get("content-encoding"))
    body = request["body"].encode()
    read = http_signature.read_signature(
        request["headers"],
        method=request["method"],
        target_uri=http_signature.target_uri(CONTEXT["receiver"]["baseUrl"], request["url"]),
        body=body,
        now_ms=CONTEXT["now"],
    )
    record = find_key(PINNED, read.key_id)
    if record is None or not may_sign_transport(record):
        raise AuthenticationFailed("no such key")
    read.verify(load_public_key(record.public_key_pem))
    return examine_body(request["url"].partition("?")[0], loads(body))


def examine_body(path: str, value: Any) -> Any:
    match path.rpartition("/")[2]:
        case "event":
            event = messages.parse_event(value)
            verified = messages.verify_event(event, find_key(PINNED, event.key_id))
            messages.check_event_time(verified, CONTEXT["now"])
            return verified
        case "events":
            return messages.parse_event_batch(value, max_events=100)
        case "ack":
            ack = messages.parse_event_ack(value)
            return messages.verify_event_ack(ack, find_key(PINNED, ack.key_id))
        case endpoint:
            allowed = control.CONNECTION_TYPES if endpoint == "connection" else control.SUBSCRIPTION_TYPES
            message = control.parse_control(value, allowed)
            verified_control = control.verify_control(message, find_key(PINNED, message.key_id))
            if isinstance(message.payload, control.KeysChanged):
                keys.merge_changed_keys(message.instance_id, PINNED, message.payload.keys)
            return verified_control


def is_pure_refusal(case: dict[str, Any]) -> bool:
    return case["expect"].get("code") in PURE_CODES and case["name"] not in STATEFUL


@pytest.mark.parametrize("case", [case for case in REQUESTS["cases"] if is_pure_refusal(case)], ids=name_of)
def test_request_is_refused_before_the_database_is_asked(case):
    with pytest.raises(Problem) as refused:
        examine(case["request"])

    problem, expected = refused.value, case["expect"]
    assert (problem.status, problem.code) == (expected["status"], expected["code"])
    if "pointer" in expected:
        assert [error.pointer for error in problem.errors] == [expected["pointer"]]


def is_accepted(case: dict[str, Any]) -> bool:
    return case["expect"]["status"] in (200, 204) and case["name"] not in STATEFUL


@pytest.mark.parametrize("case", [case for case in REQUESTS["cases"] if is_accepted(case)], ids=name_of)
def test_request_that_is_answered_200_passes_all_pure_checks(case):
    assert examine(case["request"]) is not None


def verdicts(case: dict[str, Any]) -> list[str]:
    """What reading and verifying say of each entry of a batch."""
    batch = examine(case["request"])
    found = []
    for entry in batch.entries:
        try:
            if entry.event is None:
                raise entry.problem
            record: KeyRecord | None = find_key(PINNED, entry.event.key_id)
            messages.verify_event(entry.event, record, barred=KeyUntrusted)
            found.append("verified")
        except Problem as problem:
            found.append(problem.code)
    return found


def test_entries_of_a_batch_are_judged_one_by_one():
    cases = {case["name"]: case for case in REQUESTS["cases"]}

    assert verdicts(cases["batch of good and bad"]) == [
        "verified",
        "authentication_failed",
        "verified",
        "invalid_request",
    ]
    assert verdicts(cases["batch entry by a key that is barred"]) == ["key_untrusted"]


@pytest.mark.parametrize(
    "tree", vectors.read("published", "tree.json")["trees"], ids=lambda tree: tree["root"]
)
def test_a_shared_signature_is_reproduced_and_verifies_for_each_event(tree):
    key = vectors.read("published", "keys.json")["keys"][tree["key"]]
    record = parse_key_record(key["record"])

    events = [messages.parse_event(event) for event in tree["events"]]

    signer = signing.Signer(generate.SENDER, record.key_id, keys.load_private_key(key["privateKeyPem"]))
    assert [signing.EventSignature(event.signature, event.proof) for event in events] == signer.sign_together(
        [event.body for event in events]
    )
    for event, leaf in zip(events, tree["leaves"], strict=True):
        assert base64.b64encode(signing.event_leaf(event.body)).decode() == leaf
        assert signing.tree_input(event.body, event.proof) == base64.b64decode(tree["signingInput"])
        messages.verify_event(event, record)


@pytest.mark.parametrize("case", vectors.read("published", "tree.json")["refused"], ids=name_of)
def test_a_proof_that_lies_is_refused(case):
    record = parse_key_record(vectors.read("published", "keys.json")["keys"]["rsa"]["record"])

    with pytest.raises(Problem) as refused:
        messages.verify_event(messages.parse_event(case["event"]), record)

    assert refused.value.code == case["code"]
