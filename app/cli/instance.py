"""`flask instance`: who this instance is."""

import click

from app.cli.output import Group, output_option, print_one
from app.federation import identity


@click.group(cls=Group)
def instance() -> None:
    """Show this instance as peers see it."""


@instance.command()
@output_option
def show(output: str) -> None:
    """Show id, address and key; with -o json, the signed instance document."""
    if output == "json":
        print_one(identity.instance_document(), output)
        return
    local = identity.local_instance()
    print_one(
        {
            "instanceId": local.instance_id,
            "name": local.name,
            "baseUrl": local.base_url,
            "keyId": local.key_id,
            "algorithm": local.algorithm.value,
            "fingerprint": local.fingerprint,
        },
        output,
    )
