"""kill -9 of the publisher in the middle of a replay: it goes on where it was, and nothing is doubled."""

import pytest

from tests.e2e.instance import Instance, connect, subscribe
from tests.engines import until

SIZE, BATCHES = 1_000, 4


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.timeout(240)
def test_a_replay_survives_the_death_of_the_whole_publisher(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair
    here, _ = connect(beta, alpha)
    subscribe(beta, alpha, "burst.**", here)
    published = []
    for batch in range(BATCHES):
        events = [{"eventType": "burst.n", "payload": {"n": batch * SIZE + n}} for n in range(SIZE)]
        published += alpha.post("/events/publish/batch", {"events": events})["data"]
    beta.wait_for(
        lambda one: one.get(f"/connections/{here}/stream")["incoming"]["contiguous"] == SIZE * BATCHES,
        "all events",
        within_s=60,
    )
    before = len(beta.log_lines("events.received"))

    asked = beta.post(f"/connections/{here}/replay", {})
    until(lambda: len(beta.log_lines("events.received")) > before + 3, "the first batches of the replay")
    alpha.kill9("up")
    cut_off = len(beta.log_lines("events.received"))
    alpha.start()
    until(lambda: beta.log_lines("replay.ended"), "the end of the replay", within_s=60)

    [ended] = beta.log_lines("replay.ended")
    assert (ended["replay_id"], ended["state"], ended["stored"]) == (asked["replayId"], "complete", 0)
    assert ended["count"] >= SIZE * BATCHES
    assert cut_off < before + SIZE * BATCHES // 100, "it was over before the kill"
    status = beta.cli("stream", "status", here, "-o", "json")["incoming"]
    assert (status["contiguous"], status["missing"]) == (SIZE * BATCHES, [])
    stored = [row["messageId"] for row in beta.all("/events/messages?direction=incoming")]
    assert sorted(stored) == sorted(event["messageId"] for event in published)
