"""Attacks by what we call: addresses inside our own network, named by somebody else."""

from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.database import db, transaction
from app.federation.asking import initiate, preview
from app.models import Connection
from app.protocol.errors import Problem
from app.transport.client import Client
from app.transport.errors import AddressRefused, RedirectRefused
from tests import engines
from tests.conformance.foreign_peer import ForeignPeer
from tests.security.conftest import Victim, start_victim
from tests.transport.hostile import HostileServer, always, answer, resolver

INSIDE = [
    "http://127.0.0.1:6379",
    "http://10.0.0.1",
    "http://192.168.1.1",
    "http://172.16.0.1",
    "http://169.254.169.254",
    "http://100.64.0.1",
    "http://0.0.0.0:5000",
    "http://[::1]:5000",
    "http://[::ffff:127.0.0.1]:5000",
    "http://[::127.0.0.1]:5000",
    "http://[64:ff9b::7f00:1]",
    "http://[64:ff9b:1::a00:1]",
    "http://[2002:7f00:1::]",
    "http://[fc00::1]",
    "http://[fe80::1]",
    "http://[fec0::1]",
    "http://[ff02::1]",
    "http://224.0.0.1",
    "http://2130706433",
    "http://0x7f.1",
    "http://0177.0.0.1",
    "http://localhost:5000",
    "https://127.0.0.1",
    "https://[::1]",
    "http://1.1.1.1",
]


@pytest.fixture(scope="module")
def shut_in(
    sqlite_template: Path, valkey: engines.Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    """An instance that may call no private network."""
    with start_victim(
        tmp_path_factory.mktemp("shut-in"),
        sqlite_template,
        valkey.fresh_url(),
        FEDERATION_ALLOWED_NETWORKS="",
    ) as started:
        yield started


@pytest.mark.parametrize("url", INSIDE)
@pytest.mark.parametrize("call", [preview, initiate])
def test_an_address_inside_is_not_called_for_our_own_people(
    shut_in: Victim, url: str, call: Callable[..., object]
) -> None:
    arguments = (url,) if call is preview else (shut_in.workspace_id(), url)

    with shut_in.unchanged(), pytest.raises(Problem) as refused:
        shut_in.do(call, *arguments)

    assert refused.value.code in ("invalid_request", "remote_unreachable")


def test_an_address_inside_is_not_called_for_a_stranger(shut_in: Victim, stranger: ForeignPeer) -> None:
    victim, target = shut_in, stranger

    with victim.unchanged():
        stranger.request_connection(victim.base_url)
        while victim.rows(Connection):
            victim.do(_make_due)
            victim.settle()

    assert [one for one in target.received if one.method == "GET"] == []


def _make_due() -> None:
    """Let every request that waits be checked now."""
    with transaction():
        db.session.execute(sa.update(Connection).values(retry_at=0))


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_to_an_address_inside_is_not_followed(
    serve: Callable[..., HostileServer], make_client: Callable[..., Client], status: str
) -> None:
    inside = serve(always(answer(b"{}")))
    location = f"Location: http://127.0.0.1:{inside.port}/"
    outside = serve(always(answer(b"", status=status, headers=(location,))))
    client = make_client()

    for call in (client.get, lambda url: client.post(url, b"{}", {})):
        with pytest.raises(RedirectRefused):
            call(f"http://127.0.0.1:{outside.port}/")

    assert inside.requests == []


def test_a_name_that_comes_to_mean_an_address_inside_is_not_called_there(
    serve: Callable[..., HostileServer], make_client: Callable[..., Client]
) -> None:
    inside = serve(always(answer(b"{}")))
    client = make_client(
        allowed_networks=[ip_network("127.0.0.1/32")], resolve=resolver("127.0.0.1", "127.0.0.2"), max_age_s=0
    )
    first = client.get(f"http://rebound.example:{inside.port}/")

    with pytest.raises(AddressRefused):
        client.get(f"http://rebound.example:{inside.port}/")

    assert first.status == 200
    assert len(inside.requests) == 1


def test_the_address_that_was_looked_at_is_the_one_that_is_called(
    serve: Callable[..., HostileServer], make_client: Callable[..., Client]
) -> None:
    # Whoever asked the resolver a second time, to connect, would be sent elsewhere.
    server = serve(always(answer(b"{}")))
    asked: list[str] = []
    once = resolver("127.0.0.1", "127.0.0.2")

    def resolve(host: str, port: int, **named: object) -> object:
        asked.append(host)
        return once(host, port, **named)

    answered = make_client(resolve=resolve).get(f"http://rebound.example:{server.port}/")

    assert answered.status == 200
    assert asked == ["rebound.example"]


@pytest.mark.parametrize("mix", [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"]])
def test_a_name_with_one_address_inside_is_not_called_at_all(
    serve: Callable[..., HostileServer], make_client: Callable[..., Client], mix: list[str]
) -> None:
    server = serve(always(answer(b"{}")))
    client = make_client(resolve=resolver(mix))

    with pytest.raises(AddressRefused):
        client.get(f"http://mixed.example:{server.port}/")

    assert server.requests == []
