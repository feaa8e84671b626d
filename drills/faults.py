"""Faults: what networks and peers do to requests on their way, and full disks."""

import json
from collections.abc import Callable

from drills.drill import Skipped, Tally, drill
from drills.wire import Exchange, Fault
from drills.world import Pair, Station, World
from tests.engines import until

#: Longer than a sender waits for a whole answer (15 s).
_TOO_SLOW_S = 17.0


def lose_answer(exchange: Exchange) -> None:
    """The receiver commits, and its ack never arrives."""
    exchange.forward()
    exchange.cut()


def close_mid_body(exchange: Exchange) -> None:
    """The answer breaks off in the middle."""
    exchange.answer_part(exchange.forward())


def answer_garbage(exchange: Exchange) -> None:
    """Something answers 200 that is no peer: noise, a foreign document, or a page."""
    noise = exchange.rng.choice(
        [
            exchange.rng.randbytes(200),
            b'{"acks": [], "contiguous": 1000000}',
            b"<html><h1>Welcome</h1></html>",
            b"",
        ]
    )
    exchange.answer(200, [("Content-Type", "application/json")], noise)


def answer_429(exchange: Exchange) -> None:
    """Too many requests, come back in a second."""
    document = {"type": "urn:tidings:error:rate_limited", "title": "Too many requests", "status": 429}
    body = json.dumps(document | {"code": "rate_limited", "detail": "not now"}).encode()
    exchange.answer(429, [("Content-Type", "application/problem+json"), ("Retry-After", "1")], body)


def answer_slowly(exchange: Exchange) -> None:
    """The answer comes, a byte now and then, for longer than anybody waits."""
    exchange.drip(exchange.forward(), _TOO_SLOW_S)


def refuse(exchange: Exchange) -> None:
    """The connection is reset before anything was read."""
    exchange.cut()


@drill(
    "partition",
    "partition after the receiver's commit and before the ack, {times} times",
    times=5,
    times_short=2,
)
def cut_after_commit(world: World) -> Tally:
    """What was stored is sent again, and must be known again."""
    return _suffer(world, "partition", lose_answer)


@drill("mid-body", "receiver closes in the middle of its answer, {times} times", times=5, times_short=2)
def break_off(world: World) -> Tally:
    """Half an ack is no ack."""
    return _suffer(world, "mid-body", close_mid_body)


@drill("garbage", "receiver answers garbage {times} times", times=8, times_short=2)
def confuse(world: World) -> Tally:
    """Nothing but a verified ack counts."""
    return _suffer(world, "garbage", answer_garbage)


@drill("429", "receiver answers 429 with Retry-After {times} times", times=10, times_short=2)
def throttle(world: World) -> Tally:
    """No failure, and no attempt is burnt."""
    return _suffer(world, "429", answer_429)


@drill("slow", "receiver stores and answers too slowly {times} times", times=2, in_short=False)
def stall(world: World) -> Tally:
    """The sender gives up after 15 s and sends again."""
    return _suffer(world, "slow", answer_slowly)


def _suffer(world: World, name: str, fault: Fault) -> Tally:
    """Put the fault on beta's wire until it met so many requests, and prove that all arrived in the end."""
    pair = world.pair()
    wire = pair.beta.wire
    with world.load(pair, name) as load:
        load.wait_for(world.breath)
        met_before, wire.fault = wire.faulty, fault
        try:
            while wire.faulty < met_before + world.times:
                load.wait_for(1)
                _press_retry(world, pair)
        finally:
            wire.fault = None
        load.wait_for(world.breath)
    return world.prove(pair, load)


def _press_retry(world: World, pair: Pair) -> None:
    """The short form has no time for a schedule that waits longer each time."""
    if world.short:
        pair.alpha.post(f"/connections/{pair.at_alpha}/retry-now")


@drill("full-at-sender", "disk full at the sender under load")
def fill_sender(world: World) -> Tally:
    """What cannot be stored is not accepted."""
    return _fill(world, "full-at-sender", lambda pair: pair.alpha)


@drill("full-at-receiver", "disk full at the receiver under load")
def fill_receiver(world: World) -> Tally:
    """What cannot be stored is not acknowledged."""
    return _fill(world, "full-at-receiver", lambda pair: pair.beta)


def _fill(world: World, name: str, choose: Callable[[Pair], Station]) -> Tally:
    pair = world.pair()
    station = choose(pair)
    if station.disk is None:
        raise Skipped("no file system of its own can be mounted here (needs root)")
    with world.load(pair, name) as load:
        load.wait_for(world.breath)
        station.disk.fill()
        try:
            if station is pair.alpha:
                load.wait_for_refusals(5)
            else:
                failed = pair.alpha.book.failed_attempts()
                until(lambda: pair.alpha.book.failed_attempts() > failed, "a refusal by the full side")
                load.wait_for(world.breath)
        finally:
            station.disk.free()
        load.wait_for(world.breath)
    return world.prove(pair, load)
