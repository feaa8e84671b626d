"""`flask event verify` and `flask event export`: evidence, and checking it without this software."""

from pathlib import Path

import click
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
from app.reports.proof import Result, findings, own_receipt, read_proof
from app.reports.proof_files import proof_files


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
    files = dict(proof_files(proof))
    try:
        _write(folder, files)
    except OSError as error:
        raise Failure(f"{folder} cannot be written: {error.strerror}. Choose another --to.") from error
    print_one({"messageId": found, "folder": str(folder), "files": sorted(files)}, output)
    note(f"{folder / 'README.md'} has the lines that check it.")


def _write(folder: Path, files: dict[str, bytes]) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise Failure(f"{folder} is not empty. Give an empty or a new folder with --to.", Exit.USAGE)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
