"""`flask event verify` and `flask event export`: evidence, and checking it without this software."""

from collections.abc import Iterator
from pathlib import Path

import click
import orjson
from flask.cli import with_appcontext

from app.cli.lookup import message_id, workspace_named
from app.cli.output import (
    Command,
    Exit,
    Failure,
    note,
    output_option,
    print_json,
    print_one,
    print_rows,
    workspace_option,
)
from app.protocol.keys import Algorithm
from app.reports.proof import Proof, Receipt, Result, Signed, findings, own_receipt, read_proof
from app.reports.times import rfc3339


@click.command(cls=Command)
@click.argument("event_id", metavar="ID")
@workspace_option
@output_option
@click.pass_context
@with_appcontext
def verify(context: click.Context, event_id: str, workspace: str, output: str) -> None:
    """Check all that is kept of the event ID: signature, key, digest, receipts. Ends with 1 if one fails."""
    place = workspace_named(workspace)
    found = message_id(place, event_id)
    checked = findings(read_proof(place.id, found))
    is_valid = all(finding.result is not Result.FAILS for finding in checked)
    if output == "json":
        document = {
            "messageId": found,
            "valid": is_valid,
            "findings": [
                {"check": finding.check, "result": finding.result.value, "detail": finding.detail}
                for finding in checked
            ],
        }
        print_json(document)
    else:
        print_rows(("result", "check", "detail"), [[f.result.value, f.check, f.detail] for f in checked])
    if not is_valid:
        note("Not everything holds; the lines that begin with `fails` say what.")
        context.exit(Exit.FAILED)


@click.command(cls=Command)
@click.argument("event_id", metavar="ID")
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="An empty or a new folder; proof-ID in the current one if not given.",
)
@workspace_option
@output_option
@with_appcontext
def export(event_id: str, folder: Path | None, workspace: str, output: str) -> None:
    """Write the evidence for the event ID as files that openssl checks.

    The exact signed bytes, the signature and the public key of the event and of each receipt, and a README.md
    with the lines that check them.
    """
    place = workspace_named(workspace)
    found = message_id(place, event_id)
    proof = read_proof(place.id, found)
    ours = own_receipt(place.id, found)
    if ours is not None:
        proof = proof._replace(receipts=[ours])
    folder = folder or Path(f"proof-{found}")
    files = dict(_files(proof))
    try:
        _write(folder, files)
    except OSError as error:
        raise Failure(f"{folder} cannot be written: {error.strerror}. Choose another --to.") from error
    print_one({"messageId": found, "folder": str(folder), "files": sorted(files)}, output)
    note(f"{folder / 'README.md'} has the lines that check it.")


_INTRODUCTION = """\
`.signed` holds exactly the bytes that were signed: two lines that name the protocol and the kind of message,
and the message in canonical JSON (RFC 8785) without its signature. `.sig` is the signature, `.key.pem` the
public key that was trusted for the signer, `.key.json` its record, `.json` the message as it is sent.

The lines below need openssl and nothing else; run them in this folder. Each part's first line checks the
signature, the second prints the fingerprint of the key, the last the digest of the signed bytes. A receipt is
for the event whose digest it names. Whether a key is its owner's is for you to find out: compare its
fingerprint with what the owner says by another way."""


def _write(folder: Path, files: dict[str, bytes]) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise Failure(f"{folder} is not empty. Give an empty or a new folder with --to.", Exit.USAGE)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _parts(proof: Proof) -> list[tuple[str, Signed]]:
    """Each signed message under the beginning of its files' names."""
    return [
        ("event", proof.event),
        *((f"former-{n}", signed) for n, signed in enumerate(proof.former, 1)),
        *((f"receipt-{n}", receipt.ack) for n, receipt in enumerate(proof.receipts, 1)),
    ]


def _files(proof: Proof) -> Iterator[tuple[str, bytes]]:
    for name, signed in _parts(proof):
        yield f"{name}.json", signed.wire
        yield f"{name}.signed", signed.signed_bytes
        yield f"{name}.sig", signed.raw_signature
        if signed.key is not None:
            yield f"{name}.key.pem", signed.key.public_key_pem.encode()
            yield f"{name}.key.json", orjson.dumps(signed.key.to_wire(), option=orjson.OPT_INDENT_2)
    yield "README.md", _readme(proof).encode()


def _readme(proof: Proof) -> str:
    lines = [f"# Evidence for the event {proof.message_id}", "", _INTRODUCTION]
    receipts = {f"receipt-{n}": receipt for n, receipt in enumerate(proof.receipts, 1)}
    for name, signed in _parts(proof):
        lines += ["", f"## {_title(name, receipts.get(name))}", "", *_about(signed, receipts.get(name)), ""]
        lines += ["```sh", *_commands(name, signed), "```"]
    return "\n".join(lines) + "\n"


def _title(name: str, receipt: Receipt | None) -> str:
    if receipt is not None:
        return f"Receipt over connection {receipt.connection_id}"
    return "The event" if name == "event" else "The same event, as it was signed before that key was revoked"


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
    if receipt is not None:
        about.append(f"- says `{receipt.status}` of the content with the digest `{receipt.digest}`")
    return about


def _commands(name: str, signed: Signed) -> list[str]:
    """The signature, then the fingerprint and the digest, which are to be compared."""
    commands = [f"openssl dgst -sha256 -binary {name}.signed | openssl base64"]
    if signed.key is None:
        return commands
    files = f"{name}.key.pem", f"{name}.sig", f"{name}.signed"
    if signed.key.algorithm is Algorithm.ED25519:
        check = "openssl pkeyutl -verify -pubin -inkey {} -sigfile {} -rawin -in {}".format(*files)
    else:
        check = "openssl dgst -sha256 -verify {} -signature {} {}".format(*files)
    return [
        check,
        f"openssl pkey -pubin -in {name}.key.pem -outform DER | openssl dgst -sha256",
        *commands,
    ]
