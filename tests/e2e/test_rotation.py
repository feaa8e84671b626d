"""Keys change in the middle of a burst, on both sides: every event arrives once and in order."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.instance import Instance, connect, subscribe

pytestmark = pytest.mark.e2e


@contextmanager
def burst(publisher: Instance) -> Iterator[Callable[[], int]]:
    """Publish batch after batch until the block ends; gives how to ask for the number so far."""
    over, published = threading.Event(), [0]
    failed: list[BaseException] = []

    def go() -> None:
        try:
            while not over.is_set():
                first = published[0]
                events = [
                    {"eventType": "task.created", "payload": {"n": number}}
                    for number in range(first, first + 5)
                ]
                publisher.post("/events/publish/batch", {"events": events})
                published[0] += len(events)
                over.wait(0.2)
        except BaseException as error:  # told in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield lambda: published[0]
    finally:
        over.set()
        thread.join()
    assert failed == []


def numbers(receiver: Instance) -> list[int]:
    rows: list[int] = []
    page = receiver.get("/events/messages?direction=incoming&order=asc&limit=200")
    while page["data"]:
        rows += [row["payload"]["n"] for row in page["data"]]
        page = receiver.get(
            f"/events/messages?direction=incoming&order=asc&limit=200&cursor={page['nextCursor']}"
        )
    return rows


def statuses(instance: Instance) -> list[str]:
    return [row["status"] for row in instance.cli("key", "list", "-o", "json")["data"]]


def wait_for_all(alpha: Instance, beta: Instance, total: int) -> None:
    beta.wait_for(lambda one: len(numbers(one)) >= total, "all events", 60)
    alpha.wait_for(lambda one: not one.all("/deliveries?status=pending"), "all acknowledgments", 60)


def test_rotations_on_both_sides_in_a_burst_keep_every_event_and_their_order(
    pair: tuple[Instance, Instance],
) -> None:
    alpha, beta = pair
    at_alpha, at_beta = connect(alpha, beta)
    subscribe(beta, alpha, "task.*", at_beta)

    with burst(alpha) as published:
        alpha.wait_for(lambda _: published() >= 20, "the burst")
        alpha.cli("key", "rotate")
        beta.cli("key", "rotate")
        alpha.cli("key", "rotate", "--no-wait")
        seen = published()
        alpha.wait_for(lambda _: published() >= seen + 20, "more of the burst")
    wait_for_all(alpha, beta, published())

    assert numbers(beta) == list(range(published()))
    assert {row["status"] for row in alpha.all("/deliveries")} == {"delivered"}
    assert (statuses(alpha), statuses(beta)) == (["active", "retired", "retired"], ["active", "retired"])
    for one, connection_id in ((alpha, at_alpha), (beta, at_beta)):
        details = one.get(f"/connections/{connection_id}")
        assert (details["status"], details["keyReview"]) == ("active", False)


def test_a_revocation_in_a_burst_loses_and_doubles_nothing(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair
    _, at_beta = connect(alpha, beta)
    subscribe(beta, alpha, "task.*", at_beta)
    [first] = alpha.cli("key", "list", "-o", "json")["data"]

    with burst(alpha) as published:
        alpha.wait_for(lambda _: published() >= 20, "the burst")
        alpha.cli("key", "revoke", first["keyId"])
        seen = published()
        alpha.wait_for(lambda _: published() >= seen + 20, "more of the burst")
    wait_for_all(alpha, beta, published())

    # What was under way when the peer heard of it is refused and goes again, so the order may differ.
    assert sorted(numbers(beta)) == list(range(published()))
    assert {row["status"] for row in alpha.all("/deliveries")} == {"delivered"}
    assert statuses(alpha) == ["active", "revoked"]
    assert beta.get(f"/connections/{at_beta}")["keyReview"] is False


def test_an_event_for_a_peer_that_was_away_during_a_rotation_arrives(
    make_instance: Callable[..., Instance],
) -> None:
    alpha, beta = make_instance("alpha").start(), make_instance("beta").start()
    at_alpha, at_beta = connect(alpha, beta)
    subscribe(beta, alpha, "task.*", at_beta)
    beta.stop()
    alpha.post("/events/publish", {"eventType": "task.created", "payload": {"n": 0}})

    said = alpha.run("key", "rotate", "--wait", "1")
    alpha.post("/events/publish", {"eventType": "task.created", "payload": {"n": 1}})
    [new, old] = alpha.cli("key", "list", "-o", "json")["data"]
    beta.start()
    alpha.post(f"/connections/{at_alpha}/retry-now")

    assert said.returncode == 0
    assert f"{beta.base_url} does not know the key yet" in said.stderr
    assert (new["known"], new["connections"], old["known"]) == (0, 1, 1)
    beta.wait_for(lambda one: len(numbers(one)) == 2, "both events", 60)
    assert numbers(beta) == [0, 1]
    keys = [row["keyId"] for row in beta.get("/events/messages?direction=incoming&order=asc")["data"]]
    assert keys == [old["keyId"], new["keyId"]]
