"""Servers, clients and certificates that end with the test."""

import contextlib
import ssl
from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest

from app.transport.client import Client
from tests.transport.hostile import Authority, HostileServer, Visit

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@pytest.fixture
def serve() -> Iterator[Callable[..., HostileServer]]:
    """Start a server with a script; all of them are stopped after the test."""
    with contextlib.ExitStack() as stack:

        def start(
            script: Callable[[Visit], None], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
        ) -> HostileServer:
            server = HostileServer(script, tls, host)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def make_client() -> Iterator[Callable[..., Client]]:
    """A client that may call loopback; its connections are closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(**options: object) -> Client:
            client = Client(options.pop("allowed_networks", LOOPBACK), **options)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    return make_client()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))
