"""Commands of two real instances: what one side does, the other sees, and the exit codes tell."""

from collections.abc import Callable

import pytest

from tests.e2e.conftest import MakeInstance
from tests.e2e.instance import CommandFailed, Instance

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def connection_of(instance: Instance, other: Instance, status: str) -> Callable[[Instance], bool]:
    return lambda _: any(
        row["remoteUrl"] == other.base_url for row in instance.all(f"/connections?status={status}")
    )


def test_two_instances_by_commands_alone(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair

    seen = alpha.cli("connection", "preview", beta.base_url, "-o", "json")
    told = alpha.post("/connections/preview", {"remoteUrl": beta.base_url})
    asked = alpha.cli("connection", "request", beta.base_url, "--note", "hello", "-o", "json")
    beta.wait_for(connection_of(beta, alpha, "pending"), "the request")
    accepted = beta.cli("connection", "accept", alpha.base_url, "-o", "json")
    tested = beta.cli("connection", "verify", alpha.base_url, "-o", "json")
    wish = beta.cli("subscription", "create", alpha.base_url, "task.*", "-o", "json")
    granted = alpha.cli("subscription", "approve", "task.*", "-o", "json")
    published = alpha.cli("event", "publish", "task.created", "--payload", '{"id": 7}', "-o", "json")
    alpha.wait_for(
        lambda one: one.get(f"/events/messages/{published['messageId']}")["status"] == "delivered", "the ack"
    )
    sent = alpha.cli("event", "show", published["messageId"], "--why", "-o", "json")
    got = beta.cli("event", "show", "last", "-o", "json")

    assert seen.keys() == told.keys()
    assert seen["pairingCode"] == asked["pairingCode"]
    assert seen["fingerprint"] == beta.cli("key", "list", "-o", "json")["data"][0]["fingerprint"]
    assert asked["pairingCode"] == accepted["pairingCode"]
    assert (accepted["status"], accepted["note"]) == ("active", "hello")
    assert tested.keys() == {"connectionId", "ok", "status", "roundTripMs", "clockSkewMs"}
    assert tested["ok"] is True
    assert tested["roundTripMs"] >= 0
    assert (wish["status"], granted["status"]) == ("pending", "active")
    assert [row["reason"] for row in sent["why"]] == ["delivered"]
    assert (got["messageId"], got["payload"]) == (published["messageId"], {"id": 7})
    assert (got["signature"], got["digest"]) == (sent["signature"], sent["receipts"][0]["digest"])


def test_stopping_and_going_on_is_seen_by_both(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair
    alpha.cli("connection", "request", beta.base_url)
    beta.wait_for(connection_of(beta, alpha, "pending"), "the request")
    beta.cli("connection", "accept", alpha.base_url)

    seen = []
    for args in (["suspend", "--reason", "noon"], ["resume"], ["disconnect"]):
        here = alpha.cli("connection", args[0], beta.base_url, *args[1:], "-o", "json")
        there = beta.cli("connection", "show", alpha.base_url, "-o", "json")
        seen.append((here["status"], here["suspendedBy"], there["status"], there["suspendedBy"]))

    assert seen == [
        ("suspended", "me", "suspended", "peer"),
        ("active", None, "active", None),
        ("disconnected", None, "disconnected", None),
    ]


def test_a_refusal_of_the_other_side_ends_with_4(make_instance: MakeInstance) -> None:
    alpha = make_instance("alpha").start()
    beta = make_instance("beta", FEDERATION_BLOCKED=alpha.base_url).start()

    with pytest.raises(CommandFailed) as caught:
        alpha.cli("connection", "request", beta.base_url)

    assert caught.value.code == 4
    assert "blocked" in caught.value.stderr


def test_a_rejected_request_is_shown_with_its_reason(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair
    alpha.cli("connection", "request", beta.base_url)
    beta.wait_for(connection_of(beta, alpha, "pending"), "the request")

    beta.cli("connection", "reject", alpha.base_url, "--reason", "not now")

    alpha.wait_for(connection_of(alpha, beta, "rejected"), "the rejection")
    shown = alpha.cli("connection", "show", beta.base_url, "-o", "json")
    assert (shown["status"], shown["reason"]) == ("rejected", "not now")


def test_an_instance_that_is_well_has_nothing_for_the_doctor(instance: Instance) -> None:
    found = instance.cli("doctor", "-o", "json")

    assert found["ok"] is True
    assert {check["name"] for check in found["checks"]} >= {"database", "redis", "migrations", "worker"}


def test_nobody_there_is_said_in_one_line(instance: Instance) -> None:
    done = instance.run("connection", "preview", "http://127.0.0.1:9")

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
