"""Migrations: Flask-Migrate and Alembic, loaded for those commands alone that may change tables."""

from flask import Flask, current_app
from flask_migrate import Migrate, cli, upgrade

from app.config import ROOT
from app.database import db as database

#: `flask db`, which is Flask-Migrate's.
db = cli.db


def attach(app: Flask) -> None:
    """Join the app to our migrations. Safe to repeat."""
    Migrate(app, database, directory=str(ROOT / "migrations"), render_as_batch=True, compare_type=True)


def to_the_newest() -> None:
    """Bring the tables to the newest revision. Once there, it changes nothing."""
    attach(current_app._get_current_object())  # type: ignore[attr-defined]
    upgrade()
