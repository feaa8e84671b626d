"""Keys: replaced in the middle of a burst, taken back, and lost for good."""

import time

import sqlalchemy as sa

from app.database import db, transaction
from app.models import KeyTold, SigningKey
from drills.drill import Tally, drill
from drills.world import Pair, World
from tests.engines import until


@drill("rotation", "keys of both sides rotated under load {times} times", times=5)
def rotate_keys(world: World) -> Tally:
    """Announced, known, activated; what is signed by a key waits until the peer knows it."""
    pair = world.pair()
    with world.load(pair, "rotation") as load:
        for _ in range(world.times):
            for station in pair[:2]:
                load.wait_for(world.breath)
                station.cli("key", "rotate")
        load.wait_for(world.breath)
    return world.prove(pair, load)


@drill("revocation", "the sender's key revoked under load {times} times", times=3, in_short=False)
def revoke_key(world: World) -> Tally:
    """What it signed and is not delivered is signed again, so it may come after what was signed later."""
    pair = world.pair()
    with world.load(pair, "revocation") as load:
        for _ in range(world.times):
            load.wait_for(world.breath)
            [active] = [row for row in pair.alpha.cli("key", "list", "-o", "json")["data"] if _is_active(row)]
            pair.alpha.cli("key", "revoke", active["keyId"])
        load.wait_for(world.breath)
    return world.prove(pair, load, by_number=True)


@drill("key-loss", "the sender's private keys lost while events wait; trusted anew by people")
def lose_keys(world: World) -> Tally:
    """Nothing vouches for the new key: everything waits until an operator of the receiver has compared it."""
    pair = world.pair()
    with world.load(pair, "key-loss") as load:
        load.wait_for(world.breath)
        pair.beta.stop()
        load.wait_for(world.breath)
        pair.alpha.stop()
        with pair.alpha.inside(), transaction():
            db.session.execute(sa.delete(KeyTold))
            db.session.execute(sa.delete(SigningKey))
        pair.alpha.start(init=False)
        load.wait_for(world.breath)
        pair.beta.start(init=False)
        until(lambda: _is_asked(pair), "the question at beta")
        load.wait_for(world.breath)
        pair.beta.post(f"/connections/{pair.at_beta}/keys/accept")
        pair.alpha.post(f"/connections/{pair.at_alpha}/retry-now")
        load.wait_for(world.breath)
    return world.prove(pair, load)


def _is_active(row: dict[str, object]) -> bool:
    return row["status"] == "active"


def _is_asked(pair: Pair) -> bool:
    """Whether beta asks its people about the new key. Alpha is held at its first refusal, until a retry."""
    pair.alpha.post(f"/connections/{pair.at_alpha}/retry-now")
    time.sleep(1)
    return bool(pair.beta.get(f"/connections/{pair.at_beta}")["keyReview"])
