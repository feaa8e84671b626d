"""Outside: the one client of this process, with this instance's settings."""

from app.config import settings
from app.transport.client import Client, shared_client


def client() -> Client:
    """What every call to a peer goes through.

    Shared by everybody in the process, so that connections are too.
    """
    return shared_client(settings().federation_allowed_networks)
