"""Cast: who takes part in the made-up history, and what they tell each other."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any


class Health(StrEnum):
    """How a peer does."""

    HEALTHY = "healthy"  #: answers everything at once
    FLAKY = "flaky"  #: answers late at times, and refuses a few
    DOWN = "down"  #: has not answered for a day and a quarter


@dataclass(frozen=True, slots=True)
class Part:
    """A peer of the history."""

    name: str
    host: str
    health: Health
    #: Its workspace as it calls it.
    workspace: str
    #: Patterns that it gets of ours.
    gets: tuple[str, ...]
    #: Types that it sends to us.
    sends: tuple[str, ...]
    note: str


PARTS = (
    Part(
        "Harbour Logistics",
        "harbour.example",
        Health.HEALTHY,
        "Dispatch",
        ("order.*", "task.*"),
        ("shipment.departed", "shipment.arrived"),
        "As agreed with Jonas on Monday: orders to you, shipments to us.",
    ),
    Part(
        "Meadow Retail",
        "meadow.example",
        Health.FLAKY,
        "Shops",
        ("order.*", "invoice.issued"),
        ("stock.low", "price.changed"),
        "Stock levels of our 14 shops.",
    ),
    Part(
        "Summit Works",
        "summit.example",
        Health.DOWN,
        "Plant 2",
        ("task.*",),
        ("machine.stopped", "machine.repaired"),
        "Maintenance of the presses.",
    ),
)

#: Wants to connect, and waits for somebody here to decide.
STRANGER = Part(
    "Riverside Clinic", "riverside.example", Health.HEALTHY, "Purchasing", (), (), "We order at your shop."
)

_FIRST = ("Ana", "Björn", "Chidi", "Devi", "Elif", "Farid", "Grace", "Hana")
_PLACES = ("Elm Street", "North Quay", "Old Mill", "Station Road", "Market Square")
_GOODS = ("bearing 6204", "hydraulic hose", "pallet, oak", "valve DN25", "safety gloves")


def _order(rng: Random, number: int) -> dict[str, Any]:
    return {
        "orderId": 40_000 + number,
        "items": [{"article": rng.choice(_GOODS), "quantity": rng.randint(1, 40)}],
        "total": f"{rng.randint(20, 4000)}.{rng.randint(0, 99):02d}",
        "currency": "EUR",
    }


def _task(rng: Random, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "title": f"Check the pump at {rng.choice(_PLACES)}",
        "assignee": rng.choice(_FIRST),
        "priority": rng.choice(("low", "normal", "high")),
    }


def _invoice(rng: Random, number: int) -> dict[str, Any]:
    return {"invoice": f"2026-{number:06d}", "amount": f"{rng.randint(20, 4000)}.00", "dueInDays": 30}


def _customer(rng: Random, number: int) -> dict[str, Any]:
    return {"customerId": 900 + number % 400, "name": rng.choice(_FIRST), "changed": ["address"]}


def _shipment(rng: Random, number: int) -> dict[str, Any]:
    return {"shipment": f"HL-{number:07d}", "dock": rng.randint(1, 9), "to": rng.choice(_PLACES)}


def _stock(rng: Random, number: int) -> dict[str, Any]:
    return {"article": rng.choice(_GOODS), "left": rng.randint(0, 12), "shop": 1 + number % 14}


def _price(rng: Random, number: int) -> dict[str, Any]:
    return {"article": rng.choice(_GOODS), "price": f"{rng.randint(3, 90)}.95", "shop": 1 + number % 14}


def _machine(rng: Random, number: int) -> dict[str, Any]:
    return {"machine": f"press {1 + number % 6}", "minutes": rng.randint(2, 240), "cause": "oil pressure"}


#: The types that we publish, and what makes a payload of each. Nobody gets `customer.*` yet.
OURS: dict[str, Callable[[Random, int], dict[str, Any]]] = {
    "order.placed": _order,
    "order.shipped": _order,
    "order.cancelled": _order,
    "task.created": _task,
    "task.assigned": _task,
    "task.completed": _task,
    "invoice.issued": _invoice,
    "customer.updated": _customer,
}

#: Those that the peers send.
THEIRS: dict[str, Callable[[Random, int], dict[str, Any]]] = {
    "shipment.departed": _shipment,
    "shipment.arrived": _shipment,
    "stock.low": _stock,
    "price.changed": _price,
    "machine.stopped": _machine,
    "machine.repaired": _machine,
}
