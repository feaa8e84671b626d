"""Jobs: queues, workers, and what they do."""

from flask import Blueprint

bp = Blueprint("jobs", __name__)
