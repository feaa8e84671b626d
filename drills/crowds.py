"""Crowds: several connections at once, many of them sick, and a subscriber who leaves in the middle."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

from app.access import tokens, workspaces
from drills.drill import Tally, drill
from drills.faults import answer_garbage, close_mid_body
from drills.load import Load
from drills.proof import Subscriber, compare, wait_until_final
from drills.world import Station, World, connect, subscribe


class Member(NamedTuple):
    """A workspace of a subscriber: its token, and its connection to the publisher (public id)."""

    station: Station
    token: str
    connection_id: str

    @property
    def subscriber(self) -> Subscriber:
        """As who has to get the events."""
        return Subscriber(self.station.book, self.connection_id)


@drill("two-workspaces", "two workspaces of the receiver connected to the same instance")
def two_workspaces(world: World) -> Tally:
    """Two connections between the same two instances: each gets everything, once."""
    pair = world.pair()
    [second] = make_workspaces(pair.beta, f"second-{world.seed}", 1)
    with as_workspace(pair.beta, second):
        other = connect(pair.beta, pair.alpha)
        load = world.load(pair._replace(at_beta=other), "two-workspaces")
    subscribe(pair.beta, load.event_type, pair.at_beta)
    with load:
        load.wait_for(world.breath)
    return world.prove(pair, load, [pair.subscriber, Subscriber(pair.beta.book, other)])


@drill("unsubscribe", "unsubscribing and subscribing again in the middle of a burst, {times} times", times=5)
def unsubscribe_in_a_burst(world: World) -> Tally:
    """What alpha says was delivered is what beta has; what was not is withdrawn, and nothing is dead."""
    pair = world.pair()
    with world.load(pair, "unsubscribe") as load:
        wanted = {"connectionId": pair.at_beta, "eventType": load.event_type}
        for _ in range(world.times):
            load.wait_for(world.breath)
            pair.beta.post("/events/unsubscribe", wanted)
            load.wait_for(world.breath)
            subscribe(pair.beta, load.event_type, pair.at_beta)
        load.wait_for(world.breath)
    still_open = wait_until_final(pair.books, 60)
    states = pair.alpha.book.deliveries(load.event_type, pair.at_alpha)
    delivered = [message_id for message_id in load.accepted if states.get(message_id) == "delivered"]
    tally = compare(load.event_type, delivered, pair.alpha.book.outgoing(load.event_type), [pair.subscriber])
    dead = sum(state not in ("delivered", "withdrawn") for state in states.values())
    return tally._replace(lost=tally.lost + dead, not_final=still_open)


@drill(
    "sick-crowd",
    "{times} connections, a quarter of them to a peer that is sick, then healed",
    times=200,
    times_short=8,
)
def sick_crowd(world: World) -> Tally:
    """Whoever is well gets everything while the others are sick; those get it when they are well again."""
    with contextlib.ExitStack() as exits:
        well, sick = world.station("well", exits), world.station("sick", exits)
        alpha = world.station(
            "publisher",
            exits,
            FEDERATION_AUTO_ACCEPT=f"{well.base_url},{sick.base_url}",
            FEDERATION_AUTO_GRANT="drill.**",
        )
        for station in (alpha, well, sick):
            station.start()
        load = Load(alpha.own_url, alpha.token, "drill.sick-crowd", size=5, pause_s=0.2)
        members = [
            *join(well, alpha, load.event_type, world.times - world.times // 4),
            *join(sick, alpha, load.event_type, world.times // 4),
        ]
        healthy = [member for member in members if member.station is well]
        sick.wire.fault = lambda exchange: exchange.rng.choice((answer_garbage, close_mid_body))(exchange)
        with load:
            load.wait_for(world.breath)
        alpha.wait_for(
            lambda _: well.book.count(load.event_type) >= len(load.accepted) * len(healthy),
            "all events at those who are well",
            within_s=120,
        )
        sick.wire.fault = None
        still_open = wait_until_final(
            (alpha.book, well.book, sick.book), 300, lambda: _press(alpha) if world.short else None
        )
        tally = compare(
            load.event_type,
            load.accepted,
            alpha.book.outgoing(load.event_type),
            [member.subscriber for member in members],
        )
        return tally._replace(not_final=still_open)


def _press(publisher: Station) -> None:
    for connection in publisher.all("/connections?status=active"):
        publisher.post(f"/connections/{connection['id']}/retry-now")
    time.sleep(1)


def make_workspaces(station: Station, prefix: str, number: int) -> list[str]:
    """Make workspaces by the services that the commands call; a token of each."""
    made = []
    with station.inside():
        for which in range(number):
            workspace = workspaces.create(f"{prefix}-{which}")
            made.append(tokens.create(workspace.id)[1])
    return made


@contextlib.contextmanager
def as_workspace(station: Station, token: str) -> Iterator[None]:
    """Calls to the instance are those of another workspace while the block runs."""
    before, station.token = station.token, token
    try:
        yield
    finally:
        station.token = before


def join(station: Station, publisher: Station, event_type: str, number: int) -> list[Member]:
    """So many workspaces of an instance, each connected and subscribed to the publisher."""
    members = []
    for token in make_workspaces(station, "w", number):
        with as_workspace(station, token):
            connection_id = connect(station, publisher)
            subscribe(station, event_type, connection_id)
        members.append(Member(station, token, connection_id))
    return members
