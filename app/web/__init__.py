"""HTTP in: each module reads a request, makes one call in one transaction, and answers."""

from flask import Flask

from app.web import home, json, security

#: Blueprints of the app, in the order in which they are registered.
BLUEPRINTS = (home.bp,)


def register(app: Flask) -> None:
    """Give the app its JSON, its headers and its pages."""
    app.json = json.OrjsonProvider(app)
    security.register(app)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
