"""`flask key`: what this instance signs with, and changing it."""

import click

from app.cli.output import Group, note, one_page, output_option, print_list, print_one
from app.federation import identity, rotation, told
from app.models import SigningKey
from app.protocol.keys import Algorithm, KeyStatus
from app.reports.times import rfc3339

_ALGORITHMS = {"rsa": Algorithm.RSA, "ed25519": Algorithm.ED25519}
#: How long a rotation, and a revocation of the key in use, wait for the peers, in seconds.
ROTATE_WAIT_S = 30.0
REVOKE_WAIT_S = 10.0


@click.group(cls=Group)
def key() -> None:
    """Show this instance's keys, replace the one in use, and take back trust."""


@key.command("list")
@output_option
def list_(output: str) -> None:
    """List all keys, the newest first; old ones are kept for what they signed.

    `known` of `connections`: how many of the connections that live know the key.
    """
    adoption = told.adoption()
    rows = [_details(row) | adoption[row.key_id]._asdict() for row in identity.list_keys()]
    for row in rows:
        row["connections"] = row.pop("of")
    print_list(
        one_page(rows),
        ("keyId", "algorithm", "status", "known", "connections", "notBefore", "notAfter", "fingerprint"),
        output,
    )


@key.command()
@click.option("--announce", is_flag=True, help="Make and announce the next key, and go no further.")
@click.option("--activate", is_flag=True, help="Activate the key that is announced, without waiting.")
@click.option(
    "--algorithm",
    type=click.Choice(list(_ALGORITHMS)),
    help="Of the new key; as the one in use if not given.",
)
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0, 3600), default=ROTATE_WAIT_S, show_default=True,
    metavar="SECONDS", help="How long to wait until all open peers know the new key.",
)  # fmt: skip
@click.option("--no-wait", is_flag=True, help="The same as --wait 0.")
@output_option
def rotate(
    announce: bool, activate: bool, algorithm: str | None, wait_s: float, no_wait: bool, output: str
) -> None:
    """Replace the key in use: announce a new one, wait for the peers, and activate it.

    Nothing is lost, whatever is sent meanwhile and whichever peers are away: what is for them waits until
    they know the key. If the command is interrupted, give it again.
    """
    if announce and activate:
        raise click.UsageError("Give either --announce or --activate; without them both are done.")
    chosen = _ALGORITHMS[algorithm] if algorithm else None
    if announce:
        made = rotation.announce(chosen)
        print_one(_details(made), output)
        note("`flask key list` shows how many peers know it; `flask key rotate --activate` begins to use it.")
        return
    if activate:
        if chosen:
            raise click.UsageError("--algorithm is that of a new key; --activate makes none.")
        made = rotation.activate()
    else:
        made = rotation.rotate(chosen, 0.0 if no_wait else wait_s).key
    print_one(_details(made), output)
    _tell_waiting(made)


@key.command()
@click.argument("key_id", metavar="KEY_ID")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0, 3600), default=REVOKE_WAIT_S, show_default=True,
    metavar="SECONDS", help="For the key in use: how long to wait until all open peers know the next one.",
)  # fmt: skip
@output_option
def revoke(key_id: str, wait_s: float, output: str) -> None:
    """Let nobody trust the key KEY_ID any more, for ever. For a key that may have been stolen.

    What it signed and is not delivered is signed again. The key in use is followed by the announced one, or
    by a new one that is announced first. A peer that learns of the revocation before it learned of the new
    key asks its people whether they trust it.
    """
    status = next((row.status for row in identity.list_keys() if row.key_id == key_id), None)
    if status is KeyStatus.ACTIVE:
        rotation.wait_for_peers(rotation.announce(), wait_s)
    print_one(_details(rotation.revoke(key_id)), output)
    if status is KeyStatus.ACTIVE:
        active = next(row for row in identity.list_keys() if row.status is KeyStatus.ACTIVE)
        note(f"The key in use is now {active.key_id}.")
        _tell_waiting(active)


@key.command()
@output_option
def reencrypt(output: str) -> None:
    """Encrypt all private keys with SECRET_KEY that are encrypted with SECRET_KEY_PREVIOUS.

    Restart the instance with both set first, and once more without SECRET_KEY_PREVIOUS after this.
    """
    done = rotation.reencrypt()
    print_one({"reencrypted": done.changed, "unchanged": done.unchanged}, output)


def _tell_waiting(active: SigningKey) -> None:
    for peer in told.unaware(active):
        note(f"{peer.base_url} does not know the key yet; what is for it waits until it does.")


def _details(row: SigningKey) -> dict[str, object]:
    return {
        "keyId": row.key_id,
        "algorithm": row.algorithm.value,
        "status": row.status.value,
        "fingerprint": row.fingerprint,
        "publicKeyPem": row.public_key_pem,
        "notBefore": rfc3339(row.not_before),
        "notAfter": rfc3339(row.not_after),
        "revokedAt": rfc3339(row.revoked_at),
    }
