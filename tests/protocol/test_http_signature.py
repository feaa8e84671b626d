"""Transport signatures: one form is accepted, parameters in any order; all else is refused alike."""

import base64
import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol import http_signature
from app.protocol.errors import AuthenticationFailed, ClockSkew, Problem, UnsupportedMediaType
from app.protocol.http_signature import read_signature, sign_request, target_uri
from app.protocol.keys import load_public_key
from tests.protocol.builders import NOW

BODY = b'{"a":1}'
URI = "https://b.example:8443/api/v1/federation/incoming/events?connectionId=%41"
NONCE = "nonce-0123456789"
COVER = '("@method" "@target-uri" "content-digest")'


def sign(signer, **changes) -> dict[str, str]:
    arguments = {"method": "POST", "target_uri": URI, "body": BODY, "created_s": NOW // 1000, "nonce": NONCE}
    return sign_request(signer, **arguments | changes)


def read(headers, **changes):
    arguments = {"method": "POST", "target_uri": URI, "body": BODY, "now_ms": NOW}
    lines = list(headers.items()) if isinstance(headers, dict) else headers
    return read_signature(lines, **arguments | changes)


def sign_input(signer, covered: str, label: str = "tidings") -> dict[str, str]:
    """Headers whose Signature-Input is free, signed over exactly that."""
    digest_line = http_signature.content_digest(BODY)
    base = http_signature.signature_base("POST", URI, digest_line, covered)
    signature = base64.b64encode(signer.private_key.sign(base)).decode()
    return {
        "Content-Digest": digest_line,
        "Signature-Input": f"{label}={covered}",
        "Signature": f"{label}=:{signature}:",
    }


def parameters(signer, **changes: str) -> dict[str, str]:
    usual = {
        "created": str(NOW // 1000),
        "keyid": f'"{signer.instance_id}#{signer.key_id}"',
        "nonce": f'"{NONCE}"',
        "tag": '"tidings"',
    }
    return usual | changes


def covered_by(members: dict[str, str]) -> str:
    return COVER + "".join(f";{name}={value}" for name, value in members.items())


def test_own_request_is_read_and_verified(signer, rsa_record, ed25519_record):
    headers = sign(signer)

    signature = read(headers)

    signature.verify(load_public_key(rsa_record.public_key_pem))
    assert (signature.instance_id, signature.key_id, signature.nonce, signature.created) == (
        signer.instance_id,
        signer.key_id,
        NONCE,
        NOW // 1000,
    )
    assert headers["Content-Type"] == "application/json"
    with pytest.raises(AuthenticationFailed):
        signature.verify(load_public_key(ed25519_record.public_key_pem))


@pytest.mark.parametrize("change", [{"method": "PUT"}, {"target_uri": URI.replace("%41", "A")}])
def test_request_for_another_target_does_not_verify(signer, rsa_record, change):
    signature = read(sign(signer), **change)

    with pytest.raises(AuthenticationFailed):
        signature.verify(load_public_key(rsa_record.public_key_pem))


def test_other_body_is_refused_before_any_key_is_asked_for(signer):
    with pytest.raises(AuthenticationFailed):
        read(sign(signer), body=BODY + b" ")


@pytest.mark.parametrize("seconds", [301, -301])
def test_clocks_that_differ_too_much_are_told_so(signer, seconds):
    with pytest.raises(ClockSkew) as refused:
        read(sign(signer), now_ms=NOW + seconds * 1000)

    assert refused.value.to_wire()["serverTime"] == NOW + seconds * 1000
    assert read(sign(signer), now_ms=NOW + seconds // 301 * 300_000)


ORDERS = list(itertools.permutations(["created", "keyid", "nonce", "tag", "alg"]))


def test_parameters_come_in_any_order_under_any_label(ed25519_signer, ed25519_record):
    members = parameters(ed25519_signer, alg='"ed25519"')
    key = load_public_key(ed25519_record.public_key_pem)

    for order, label in zip(ORDERS, itertools.cycle(["tidings", "*a.b-c_1", "x"])):
        covered = covered_by({name: members[name] for name in order})
        read(sign_input(ed25519_signer, covered, label)).verify(key)


@pytest.mark.parametrize(
    "covered",
    [
        pytest.param('("@method" "@target-uri")', id="less covered"),
        pytest.param('("@target-uri" "@method" "content-digest")', id="another order"),
        pytest.param('("@method" "@target-uri" "content-digest" "date")', id="more covered"),
        pytest.param('("@method"  "@target-uri" "content-digest")', id="two spaces"),
        pytest.param('( "@method" "@target-uri" "content-digest" )', id="spaces inside"),
        pytest.param('("@method" "@target-uri" "content-digest";sf)', id="component parameter"),
    ],
)
def test_other_cover_is_refused(ed25519_signer, covered):
    members = covered_by(parameters(ed25519_signer)).removeprefix(COVER)

    with pytest.raises(AuthenticationFailed):
        read(sign_input(ed25519_signer, covered + members))


@pytest.mark.parametrize(
    "changes",
    [
        {"tag": '"other"'},
        {"tag": "tidings"},
        {"tag": ' "tidings"'},
        {"nonce": '"short-nonce-015"'},
        {"nonce": f'"{"n" * 65}"'},
        {"nonce": '"nonce+0123456789"'},
        {"nonce": ":bm9uY2Utbm9uY2Utbm8=:"},
        {"created": "01767225600"},
        {"created": "1767225600.0"},
        {"created": "-1767225600"},
        {"created": '"1767225600"'},
        {"created": ""},
        {"keyid": '"k-1"'},
        {"keyid": '"0EB61D5E-37C1-5B5A-9AC2-216DA30062A0#k"'},
        {"keyid": '"0eb61d5e-37c1-5b5a-9ac2-216da30062a0#"'},
        {"keyid": '"0eb61d5e-37c1-5b5a-9ac2-216da30062a0#k#k"'},
        {"expires": "1999999999"},
        {"Alg": '"ed25519"'},
    ],
    ids=str,
)
def test_malformed_or_unknown_parameter_is_refused(ed25519_signer, changes):
    with pytest.raises(AuthenticationFailed):
        read(sign_input(ed25519_signer, covered_by(parameters(ed25519_signer, **changes))))


@pytest.mark.parametrize("name", ["created", "keyid", "nonce", "tag"])
def test_parameter_that_is_missing_or_repeated_is_refused(ed25519_signer, name):
    members = parameters(ed25519_signer)
    without = {other: value for other, value in members.items() if other != name}

    for covered in (covered_by(without), covered_by(members) + f";{name}={members[name]}"):
        with pytest.raises(AuthenticationFailed):
            read(sign_input(ed25519_signer, covered))


def test_alg_must_be_that_of_the_pinned_key(ed25519_signer, ed25519_record):
    key = load_public_key(ed25519_record.public_key_pem)
    right, wrong = (
        sign_input(ed25519_signer, covered_by(parameters(ed25519_signer, alg=alg)))
        for alg in ('"ed25519"', '"rsa-v1_5-sha256"')
    )

    read(right).verify(key)
    with pytest.raises(AuthenticationFailed):
        read(wrong).verify(key)


@pytest.mark.parametrize("name", ["Content-Digest", "Signature-Input", "Signature"])
def test_each_header_occurs_exactly_once_with_one_member(ed25519_signer, name):
    headers = sign(ed25519_signer)
    others = [(other, value) for other, value in headers.items() if other != name]
    value = headers[name]

    for lines in (
        others,
        [*others, (name, value), (name.lower(), value)],
        [*others, (name, f"{value}, {value}")],
        [*others, (name, f"{value},b=:AAAA:")],
        [*others, (name, f"{value};x=1")],
        [*others, (name, "")],
    ):
        with pytest.raises(AuthenticationFailed):
            read(lines)


@pytest.mark.parametrize(
    "signature",
    [
        "other=:AAAA:",
        "tidings=AAAA",
        "tidings=:AAA:",
        "tidings=:AB==:",
        "tidings=::",
        "tidings = :AAAA:",
        "é",
    ],
)
def test_malformed_signature_is_refused(ed25519_signer, signature):
    with pytest.raises(AuthenticationFailed):
        read(sign(ed25519_signer) | {"Signature": signature})


@pytest.mark.parametrize(
    "line",
    ["sha-512=:AAAA:", "sha-256=AAAA", "SHA-256=:{}:", "sha-256=:{}:, sha-512=:AAAA:", "sha-256=: {}:"],
)
def test_other_digest_is_refused(ed25519_signer, line):
    digest = http_signature.content_digest(BODY).removeprefix("sha-256=:").removesuffix(":")

    with pytest.raises(AuthenticationFailed):
        read(sign(ed25519_signer) | {"Content-Digest": line.format(digest)})


def test_refusal_says_nothing_but_keeps_the_reason_for_the_log(ed25519_signer):
    with pytest.raises(AuthenticationFailed) as refused:
        read(sign(ed25519_signer) | {"Signature": "x"})

    assert refused.value.reason == "Signature is malformed"
    assert "malformed" not in str(refused.value.to_wire())


def test_headers_may_be_given_as_a_getter(ed25519_signer):
    headers = {name: [value] for name, value in sign(ed25519_signer).items()}

    assert (
        read_signature(
            lambda name: headers.get(name, []), method="POST", target_uri=URI, body=BODY, now_ms=NOW
        ).nonce
        == NONCE
    )


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_any_header_is_refused_and_never_an_accident(digest, covered, signature):
    lines = [("Content-Digest", digest), ("Signature-Input", covered), ("Signature", signature)]

    with pytest.raises(Problem):
        read(lines)


def test_target_is_our_own_origin_and_the_raw_path():
    assert target_uri("https://b.example", "/a%2Fb?c=%20") == "https://b.example/a%2Fb?c=%20"
    for raw in ("http://evil.example/a", "", "*", "/a b", "/ä", "/a\n", "\\"):
        with pytest.raises(AuthenticationFailed):
            target_uri("https://b.example", raw)


def test_nonces_differ_and_are_accepted(ed25519_signer):
    nonces = {http_signature.new_nonce() for _ in range(100)}

    assert len(nonces) == 100
    for nonce in nonces:
        assert read(sign(ed25519_signer, nonce=nonce)).nonce == nonce


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json; charset="UTF-8"',
    ],
)
def test_json_is_accepted(content_type):
    http_signature.check_media_type(content_type, None)


@pytest.mark.parametrize(
    "content_type, content_encoding",
    [
        (None, None),
        ("", None),
        ("text/plain", None),
        ("application/json; charset=latin-1", None),
        ("application/jsonx", None),
        ("application/problem+json", None),
        ("application/json; version=1", None),
        ("application/json", "identity"),
        ("application/json", ""),
        ("application/json", "gzip"),
    ],
)
def test_other_media_types_and_encodings_are_refused(content_type, content_encoding):
    with pytest.raises(UnsupportedMediaType):
        http_signature.check_media_type(content_type, content_encoding)


def test_signature_of_one_request_is_no_other(ed25519_signer, ed25519_record):
    signature = read(sign(ed25519_signer))

    with pytest.raises(AuthenticationFailed):
        replace(signature, base=signature.base + b"x").verify(load_public_key(ed25519_record.public_key_pem))
