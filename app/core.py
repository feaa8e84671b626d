"""The core of the app: settings, database, queue and commands, without what answers HTTP.

Most commands need no more than this, and are done before the rest would have been loaded.
"""

from flask import Flask

from app import cli, clock, models, queue
from app.config import ROOT, Config
from app.database import db, engine_options
from app.jobs.consequences import plug_in

__all__ = ["create_core", "models"]


def create_core(config: Config) -> Flask:
    """An app for commands with these settings. Opens no connection and starts nothing."""
    app = Flask(
        "app",
        template_folder=str(ROOT / "templates"),
        static_folder=str(ROOT / "static"),
        instance_path=str(config.data_dir),
    )
    app.extensions["tidings"] = config
    app.config.update(
        SECRET_KEY=config.secret_key,
        SQLALCHEMY_DATABASE_URI=config.database_url,
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(config.database_url, config.sqlite_synchronous),
        SESSION_COOKIE_SECURE=config.base_url.startswith("https://"),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
    )
    db.init_app(app)
    clock.set_offset_ms(config.clock_offset_ms)
    queue.init_app(app, config)
    plug_in()
    cli.register(app)
    return app
