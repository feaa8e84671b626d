"""The migrations and the models say the same, on both engines, and every step leads back."""

from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from flask_migrate import downgrade, upgrade

from app.database import Model, db


def _tables() -> set[str]:
    return set(sa.inspect(db.engine).get_table_names()) - {"alembic_version"}


def test_the_migrated_database_is_what_the_models_describe(app: Flask) -> None:
    with db.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Model.metadata)

    assert differences == []


def test_every_migration_can_be_undone_and_done_again(app: Flask) -> None:
    before = _tables()

    downgrade(revision="base")
    emptied = _tables()
    upgrade()

    assert (emptied, _tables()) == (set(), before)


def test_an_upgrade_of_an_upgraded_database_changes_nothing(app: Flask) -> None:
    before = _tables()

    upgrade()

    assert _tables() == before


def test_migrations_do_not_depend_on_the_code_of_today() -> None:
    versions = Path(__file__).parents[2] / "migrations" / "versions"

    importing = [file.name for file in versions.glob("*.py") if "app." in file.read_text()]

    assert importing == []
