"""Dead letters: what was given up, why, and send again or discard."""

from flask import Blueprint

bp = Blueprint("dead_letters", __name__)
