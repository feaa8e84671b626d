"""Overview: what needs attention first, then how the workspace does."""

from flask import Blueprint

bp = Blueprint("overview", __name__)
