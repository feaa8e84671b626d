"""`flask key`: what this instance signs with."""

import click

from app.cli.output import Group, one_page, output_option, print_list
from app.federation import identity
from app.models import SigningKey
from app.reports.times import rfc3339


@click.group(cls=Group)
def key() -> None:
    """Show this instance's keys."""


@key.command("list")
@output_option
def list_(output: str) -> None:
    """List all keys, the newest first; old ones are kept for what they signed."""
    rows = [_details(row) for row in identity.list_keys()]
    print_list(
        one_page(rows), ("keyId", "algorithm", "status", "notBefore", "notAfter", "fingerprint"), output
    )


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
