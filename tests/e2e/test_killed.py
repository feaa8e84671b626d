"""kill -9 of any process during a burst: nothing that was accepted is lost, nothing is stored twice."""

import contextlib
import threading
import uuid

import pytest
import requests

from tests.e2e.instance import Answer, Instance, connect, subscribe

BATCHES, SIZE = 12, 25

#: (who, which of its processes)
VICTIMS = [
    ("alpha", "worker 1"),
    ("alpha", "web"),
    ("alpha", "valkey"),
    ("alpha", "scheduler"),
    ("beta", "web"),
    ("beta", "valkey"),
    ("beta", "worker 1"),
]


class Publisher(threading.Thread):
    """Publishes numbered batches in order; repeats each under its key until it is accepted."""

    def __init__(self, instance: Instance) -> None:
        super().__init__()
        self.instance = instance
        self.accepted: list[str] = []
        self.half_way = threading.Event()

    def run(self) -> None:
        for batch in range(BATCHES):
            events = [{"eventType": "burst.n", "payload": {"n": batch * SIZE + n}} for n in range(SIZE)]
            answer = self._publish({"events": events}, str(uuid.uuid4()))
            self.accepted += [event["messageId"] for event in answer.body["data"]]
            if batch >= BATCHES // 3:
                self.half_way.set()

    def _publish(self, body: object, key: str) -> Answer:
        answers: list[Answer] = []

        def accepted(instance: Instance) -> bool:
            with contextlib.suppress(requests.RequestException):
                answers.append(instance.api("POST", "/events/publish/batch", body, Idempotency_Key=key))
            return bool(answers) and answers[-1].status == 202

        self.instance.wait_for(accepted, "an accepted batch", within_s=60)
        return answers[-1]


@pytest.mark.timeout(300)
def test_a_burst_survives_the_death_of_every_process(pair):
    alpha, beta = pair
    here, _ = connect(beta, alpha)
    subscribe(beta, alpha, "burst.**", here)
    named = {"alpha": alpha, "beta": beta}

    for who, part in VICTIMS:
        before = len(_incoming(beta))
        publisher = Publisher(alpha)
        publisher.start()
        assert publisher.half_way.wait(90), f"no progress before the death of {who}'s {part}"
        named[who].kill9(part)
        publisher.join(120)

        arrived = beta.wait_for(
            lambda one, before=before: (
                (found := _incoming(one)) and len(found) >= before + BATCHES * SIZE and found
            ),
            f"all events after the death of {who}'s {part}",
            within_s=120,
        )

        mine = [event["messageId"] for event in arrived[before:]]
        assert mine == publisher.accepted, f"after the death of {who}'s {part}"
        assert len({event["messageId"] for event in arrived}) == len(arrived)

    alpha.wait_for(
        lambda one: not one.all("/events/messages?direction=outgoing&status=pending"), "all acknowledgments"
    )
    assert {row["status"] for row in alpha.all("/deliveries")} == {"delivered"}


def _incoming(instance: Instance) -> list[dict[str, object]]:
    """What arrived, in the order of arrival."""
    with contextlib.suppress(requests.RequestException, AssertionError):
        return instance.all("/events/messages?direction=incoming")[::-1]
    return []
