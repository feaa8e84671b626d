"""Evidence as files: the signed bytes, signatures and keys of a proof, and the lines that check them."""

from collections.abc import Iterator

import orjson

from app.protocol.keys import Algorithm
from app.protocol.tree import Proof as Place
from app.protocol.tree import sides
from app.reports.proof import Proof, Receipt, Signed
from app.reports.times import rfc3339

_INTRODUCTION = """\
`.signed` holds exactly the bytes that were signed: two lines that name the protocol and the kind of message,
and the message in canonical JSON (RFC 8785) without its signature. `.sig` is the signature, `.key.pem` the
public key that was trusted for the signer, `.key.json` its record, `.json` the message as it is sent.

Events that were published together may share one signature. Then `.signed` names the root of a tree whose
leaves are those events (RFC 6962), `.leaf` holds this event's own bytes, of which its digest is made, and
`.1.hash`, `.2.hash` … are the hashes beside the way from it to the root; the lines go that way.

The lines below need a shell and openssl; run them in this folder. Each part's first line checks the
signature, the second prints the fingerprint of the key, the third the digest. A receipt is for the event
whose digest it names. Whether a key is its owner's is for you to find out: compare its
fingerprint with what the owner says by another way."""


def _parts(proof: Proof) -> list[tuple[str, Signed]]:
    """Each signed message under the beginning of its files' names."""
    return [
        ("event", proof.event),
        *((f"former-{n}", signed) for n, signed in enumerate(proof.former, 1)),
        *((f"receipt-{n}", receipt.ack) for n, receipt in enumerate(proof.receipts, 1)),
    ]


def proof_files(proof: Proof) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file: what was signed, how, with which key, and a README.md with the lines."""
    for name, signed in _parts(proof):
        yield f"{name}.json", signed.wire
        yield f"{name}.signed", signed.signed_bytes
        yield f"{name}.sig", signed.raw_signature
        if signed.place is not None:
            yield f"{name}.leaf", signed.signing_input
            yield from ((f"{name}.{n}.hash", one) for n, one in enumerate(signed.place.path, 1))
        if signed.key is not None:
            yield f"{name}.key.pem", signed.key.public_key_pem.encode()
            yield f"{name}.key.json", orjson.dumps(signed.key.to_wire(), option=orjson.OPT_INDENT_2)
    yield "README.md", _readme(proof).encode()


def _readme(proof: Proof) -> str:
    lines = [f"# Evidence for the event {proof.message_id}", "", _INTRODUCTION]
    receipts = {f"receipt-{n}": receipt for n, receipt in enumerate(proof.receipts, 1)}
    for name, signed in _parts(proof):
        lines += ["", f"## {_title(name, receipts.get(name))}", "", *_about(signed, receipts.get(name)), ""]
        lines += ["```sh", *openssl_lines(name, signed), "```"]
    return "\n".join(lines) + "\n"


def _title(name: str, receipt: Receipt | None) -> str:
    if receipt is not None:
        return f"Receipt over connection {receipt.connection_id}"
    return "The event" if name == "event" else "The same event under a further signature of its sender"


def _about(signed: Signed, receipt: Receipt | None) -> list[str]:
    about = [
        f"- signed by {signed.signer}, with the key `{signed.key_id}`",
        f"- dated {rfc3339(signed.timestamp)}",
        f"- digest `{signed.digest}`",
    ]
    if signed.key is None:
        about.append("- no such key is kept, so the signature cannot be checked")
    else:
        about.append(f"- fingerprint of the key `{signed.key.fingerprint}` ({signed.key.status.value})")
    if signed.place is not None:
        about.append(f"- the signature is shared by {signed.place.size} events, of which this is one")
    if receipt is not None:
        about.append(f"- says `{receipt.status}` of the content with the digest `{receipt.digest}`")
    return about


def openssl_lines(name: str, signed: Signed) -> list[str]:
    """The signature, then the fingerprint and the digest, which are to be compared."""
    if signed.key is None:
        return _digest_lines(name, signed)
    files = f"{name}.key.pem", f"{name}.sig", f"{name}.signed"
    if signed.key.algorithm is Algorithm.ED25519:
        check = "openssl pkeyutl -verify -pubin -inkey {} -sigfile {} -rawin -in {}".format(*files)
    else:
        check = "openssl dgst -sha256 -verify {} -signature {} {}".format(*files)
    return [
        check,
        f"openssl pkey -pubin -in {name}.key.pem -outform DER | openssl dgst -sha256",
        *_digest_lines(name, signed),
    ]


def _digest_lines(name: str, signed: Signed) -> list[str]:
    if signed.place is None:
        return [f"openssl dgst -sha256 -binary {name}.signed | openssl base64"]
    return [
        f"openssl dgst -sha256 -binary {name}.leaf | openssl base64",
        *_way_to_the_root(name, signed.place),
    ]


def _way_to_the_root(name: str, place: Place) -> list[str]:
    """From the leaf to the root, one hash a line; the last shows whether it is the one that was signed."""
    node, above = f"{name}.node", f"{name}.above"
    lines = [f"(printf '\\0'; cat {name}.leaf) | openssl dgst -sha256 -binary > {node}"]
    for n, is_left in enumerate(sides(place.index, place.size), 1):
        pair = f"{name}.{n}.hash {node}" if is_left else f"{node} {name}.{n}.hash"
        lines.append(
            f"(printf '\\1'; cat {pair}) | openssl dgst -sha256 -binary > {above}; mv {above} {node}"
        )
    return [
        *lines,
        f"(printf 'tidings/1\\nevent-tree\\n'; openssl base64 -A -in {node}) | cmp - {name}.signed"
        " && echo It is in the tree that was signed.",
    ]
