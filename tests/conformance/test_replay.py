"""§6: a subscriber asks for events again, and is served beside the live stream."""

from tests.conformance.foreign_peer import EVENTS, SUBSCRIPTION, problem
from tests.conformance.subject import Bond
from tests.conformance.wire import Message, new_id


def ask(bond: Bond, **asked: object) -> tuple[str, Message, int]:
    """Ask for a replay: its id, what was answered, and the status."""
    replay_id = new_id()
    answer = bond.peer.control(bond.link, "replay.request", {"replayId": replay_id, **asked})
    return replay_id, answer.value, answer.status


def test_a_range_is_sent_again_with_its_numbers_and_then_complete(bond: Bond) -> None:
    bond.listen()
    published = bond.subject.publish_many(f"{bond.topic}.created", 5)
    bond.wait_for_delivery(published[-1], "delivered")
    before = len(bond.peer.seen(EVENTS))

    replay_id, answer, status = ask(bond, fromSequence=2, toSequence=4)

    assert (status, answer["status"]) == (202, "accepted")
    complete = bond.peer.take("replay.complete").payload
    assert complete["replayId"] == replay_id
    assert (complete["count"], complete["moreAvailable"]) == (3, False)
    again = [entry for one in bond.peer.seen(EVENTS)[before:] for entry in one.value["events"]]
    assert [(entry["sequence"], entry["replayId"]) for entry in again] == [(n, replay_id) for n in (2, 3, 4)]
    assert [entry["event"]["messageId"] for entry in again] == [one["messageId"] for one in published[1:4]]
    assert len(bond.link.events) == 5


def test_types_are_chosen_by_patterns_and_live_events_go_on(bond: Bond) -> None:
    bond.listen()
    bond.wait_for_delivery(bond.publish("created"), "delivered")
    bond.wait_for_delivery(bond.publish("changed"), "delivered")
    before = len(bond.peer.seen(EVENTS))

    ask(bond, eventTypes=[f"{bond.topic}.changed"])
    live = bond.publish("created")

    assert bond.peer.take("replay.complete").payload["count"] == 1
    bond.wait_for_delivery(live, "delivered")
    sent = [entry for one in bond.peer.seen(EVENTS)[before:] for entry in one.value["events"]]
    assert sorted((entry["sequence"], "replayId" in entry) for entry in sent) == [(2, True), (3, False)]


def test_what_is_not_granted_any_more_is_told_by_a_gap_before_the_end(bond: Bond) -> None:
    subscription = bond.listen()
    bond.wait_for_delivery(bond.publish(), "delivered")
    subscription_id = subscription.subscription_id
    bond.peer.control(bond.link, "subscription.cancel", {"subscriptionId": subscription_id})

    ask(bond)

    gap = bond.peer.take("gap").payload
    assert (gap["fromSequence"], gap["toSequence"], gap["reason"]) == (1, 1, "withdrawn")
    assert bond.peer.take("replay.complete").payload["count"] == 0
    kinds = [one.value["type"] for one in bond.peer.seen(SUBSCRIPTION)]
    assert kinds.index("gap") < kinds.index("replay.complete")


def test_an_unknown_epoch_is_gone_with_what_there_is(bond: Bond) -> None:
    bond.listen()
    bond.wait_for_delivery(bond.publish(), "delivered")

    _, answer, status = ask(bond, streamEpoch=new_id())

    assert (status, answer["code"]) == (410, "replay_gone")
    assert answer["oldestSequence"] == 1
    assert answer["streamEpoch"] in bond.link.streams


def test_a_second_replay_waits_for_the_end_of_the_first(bond: Bond) -> None:
    bond.listen()
    bond.wait_for_delivery(bond.publish(), "delivered")
    bond.peer.always_answer(EVENTS, problem("overloaded", retry_after="1"))
    first, _, _ = ask(bond)

    _, answer, status = ask(bond)
    repeated = bond.peer.control(bond.link, "replay.request", {"replayId": first})
    bond.peer.answer_as_usual()

    assert (status, answer["code"]) == (429, "rate_limited")
    assert repeated.status == 202
    assert bond.peer.take("replay.complete").payload["replayId"] == first
