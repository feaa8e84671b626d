"""Fixtures of the conformance suite: one instance under test, a fresh foreign peer for every test.

`TIDINGS_URL` and `TIDINGS_TOKEN` name a running instance instead of one that is started here; it
must be allowed to call 127.0.0.0/8 (FEDERATION_ALLOWED_NETWORKS).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from tests.conformance import launch
from tests.conformance.foreign_peer import ForeignPeer
from tests.conformance.links import ENDED
from tests.conformance.subject import Bond, Subject
from tests.conformance.wire import Key, new_id

MakePeer = Callable[..., ForeignPeer]
MakeBond = Callable[..., Bond]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for the instance under test starts processes."""
    for item in items:
        if "conformance" in item.path.parts and "subject" in getattr(item, "fixturenames", ()):
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """The instance under test, on SQLite unless a running one is named."""
    if "TIDINGS_URL" in os.environ:
        yield Subject(os.environ["TIDINGS_URL"], os.environ["TIDINGS_TOKEN"])
        return
    with launch.instance(tmp_path_factory.mktemp("instance")) as started:
        yield started


@pytest.fixture
def make_peer() -> Iterator[MakePeer]:
    """Start foreign peers; at the end none of them may have seen a violation of the protocol."""
    with ExitStack() as stack:
        peers: list[ForeignPeer] = []

        def make(**members: object) -> ForeignPeer:
            peer = ForeignPeer(**members)  # type: ignore[arg-type]
            peers.append(stack.enter_context(peer))
            return peer

        yield make
        for peer in peers:
            say_goodbye(peer)
        assert [violation for peer in peers for violation in peer.violations] == []


def say_goodbye(peer: ForeignPeer) -> None:
    """Disconnect what is open, so that no test finds the deliveries of another."""
    peer.answer_as_usual()
    peer.release()
    for link in peer.links.values():
        if link.status not in ENDED | {"unknown"}:
            with suppress(OSError, AssertionError):
                peer.disconnect(link)


@pytest.fixture
def peer(make_peer: MakePeer) -> ForeignPeer:
    """One foreign peer with an RSA key."""
    return make_peer()


@pytest.fixture
def make_bond(subject: Subject, make_peer: MakePeer) -> MakeBond:
    """Connect the subject, which asks, with a foreign peer, which accepts."""

    def make(peer: ForeignPeer | None = None, **members: object) -> Bond:
        return connect(subject, peer or make_peer(**members))

    return make


def connect(subject: Subject, peer: ForeignPeer) -> Bond:
    """An active connection that the subject asked for and the peer accepted."""
    details = subject.initiate(peer)
    request = peer.take("connection.request")
    link = peer.links[request.value["connectionId"]]
    peer.wait_until(lambda: link.status == "pending", "the request is pending")
    answer = peer.accept(link)
    assert answer.status == 200, answer
    peer.take("verification")
    bond = Bond(subject, peer, link, details["id"])
    bond.wait_until(status="active")
    return bond


@pytest.fixture
def bond(make_bond: MakeBond) -> Bond:
    """An active connection that the subject asked for."""
    return make_bond()


@pytest.fixture(scope="module")
def standing_bond(subject: Subject) -> Iterator[Bond]:
    """One connection for all tests of a module that leave no trace on it."""
    with ForeignPeer() as peer:
        yield connect(subject, peer)
        say_goodbye(peer)
        assert peer.violations == []


@pytest.fixture
def standing(standing_bond: Bond) -> Bond:
    """An active connection for a test that is refused, or stores events of its own topic at most."""
    return replace(standing_bond, topic=f"auto.t{new_id()[:8]}")


@pytest.fixture
def ed25519_key(subject: Subject, peer: ForeignPeer) -> Key:
    """A new Ed25519 key, where the subject verifies such."""
    if "ed25519" not in peer.pin(subject.base_url).document["features"]:
        pytest.skip("the instance does not list ed25519")
    return Key.ed25519()
