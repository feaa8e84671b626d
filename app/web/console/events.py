"""Events: search them, publish one, and see what became of each."""

from flask import Blueprint

bp = Blueprint("events", __name__)
