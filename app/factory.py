"""The whole app: the core, its migrations, and what answers HTTP."""

from flask import Flask

from app import web
from app.cli import migrations
from app.config import Config
from app.core import create_core


def create_app(config: Config) -> Flask:
    """A Flask app with these settings. Opens no connection and starts nothing."""
    app = create_core(config)
    migrations.attach(app)
    web.register(app)
    return app
