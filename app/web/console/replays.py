"""Replay, and how the streams stand."""

from flask import Blueprint

bp = Blueprint("replays", __name__)
