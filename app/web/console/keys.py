"""Keys of this instance, and the steps of changing them."""

from flask import Blueprint

bp = Blueprint("keys", __name__)
