"""Token buckets on a real Valkey."""

from pathlib import Path

import pytest
from flask import Flask

from app import create_app, limits
from app.config import Config
from app.limits import LimitExceeded
from app.protocol.errors import RateLimited
from tests.conftest import MakeApp


@pytest.fixture
def engine() -> str:
    """Limits are the same whatever the database is."""
    return "sqlite"


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app; its database is not looked at."""
    return make_app(DATABASE_URL="sqlite:////nowhere/at/all.db")


def test_a_bucket_gives_what_it_holds_and_no_more(app: Flask) -> None:
    with app.app_context():
        left = [limits.check("address", "a", 4, per_minute=10).remaining for _ in range(2)]

        with pytest.raises(RateLimited) as caught:
            limits.check("address", "a", 4, per_minute=10)

    assert left == [6, 2]
    # Two tokens are missing, and one comes each six seconds.
    assert caught.value.retry_after_s == 12


def test_a_refusal_takes_nothing(app: Flask) -> None:
    with app.app_context():
        limits.check("address", "a", 9, per_minute=10)
        for _ in range(3):
            with pytest.raises(LimitExceeded):
                limits.check("address", "a", 5, per_minute=10)

        assert limits.check("address", "a", 1, per_minute=10).remaining == 0


def test_keys_and_buckets_do_not_share(app: Flask) -> None:
    with app.app_context():
        limits.check("address", "a", 10, per_minute=10)

        assert limits.check("address", "b", 10, per_minute=10).remaining == 0
        assert limits.check("publish", "a", 10, per_minute=10).remaining == 0


def test_more_than_a_bucket_holds_passes_when_it_is_full_and_is_paid_back(app: Flask) -> None:
    with app.app_context():
        limits.check("publish", "t", 30, per_minute=10)

        with pytest.raises(LimitExceeded) as caught:
            limits.check("publish", "t", 1, per_minute=10)

    # 20 tokens of debt and the one that is asked for, six seconds each.
    assert caught.value.retry_after_s == 126


def test_tokens_come_back_with_time(app: Flask) -> None:
    with app.app_context():
        limits.check("publish", "t", 1000, per_second=1000)
        # As if the second had begun earlier.
        limits.redis_client().hincrby("tidings:limit:publish:t", "at", -500)

        assert 450 <= limits.check("publish", "t", 0, per_second=1000).remaining <= 1000


def test_of_a_large_bucket_some_is_taken_ahead_and_what_is_left_is_told_to_the_token(app: Flask) -> None:
    with app.app_context():
        left = [limits.check("publish", "t", 1, per_minute=60_000).remaining for _ in range(3)]
        there = limits.redis_client().hget("tidings:limit:publish:t", "tokens")

    assert left == [59_999, 59_998, 59_997]
    assert float(there) == 60_000 - 1 - 600


def test_what_was_taken_ahead_is_not_spent_later(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.app_context():
        limits.check("publish", "t", 1, per_minute=60_000)
        later = limits.time.monotonic() + 1
        monkeypatch.setattr(limits.time, "monotonic", lambda: later)

        limits.check("publish", "t", 1, per_minute=60_000)
        there = limits.redis_client().hget("tidings:limit:publish:t", "tokens")

    assert float(there) < 60_000 - 2 * 601 + 100


def test_below_half_nothing_is_taken_ahead(app: Flask) -> None:
    with app.app_context():
        limits.check("publish", "t", 30_001, per_minute=60_000)
        limits.check("publish", "t", 1, per_minute=60_000)
        there = limits.redis_client().hget("tidings:limit:publish:t", "tokens")

    assert 29_998 <= float(there) < 30_100


def test_a_bucket_whose_limit_was_changed_is_asked_for_anew(app: Flask) -> None:
    with app.app_context():
        limits.check("publish", "t", 1, per_minute=60_000)

        allowance = limits.check("publish", "t", 2, per_minute=2)

    assert (allowance.limit, allowance.remaining) == (2, 0)


def test_headers_tell_policy_and_rest(app: Flask) -> None:
    with app.app_context():
        allowance = limits.check("publish", "t", 15, per_minute=60)
        with pytest.raises(LimitExceeded) as caught:
            limits.check("publish", "t", 50, per_minute=60)

    assert allowance.headers() == {
        "RateLimit": '"publish";r=45;t=15',
        "RateLimit-Policy": '"publish";q=60;w=60',
    }
    assert caught.value.allowance.headers()["RateLimit"] == '"publish";r=45;t=5'


@pytest.fixture
def without_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """An app whose Redis is away, in a process that has counted nothing yet."""
    monkeypatch.setattr(limits, "_OWN", limits._OwnBuckets())
    environ = {"DATA_DIR": str(tmp_path), "REDIS_URL": f"unix://{tmp_path}/none.sock"}
    return create_app(Config.from_env(environ))


def test_without_redis_a_process_counts_for_itself_and_it_is_logged_once(
    without_redis: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    with without_redis.app_context():
        left = [limits.check("sign-in", "a", per_minute=3).remaining for _ in range(3)]
        with pytest.raises(LimitExceeded) as caught:
            limits.check("sign-in", "a", per_minute=3)
        other = limits.check("sign-in", "b", per_minute=3)

    assert (left, other.remaining) == ([2, 1, 0], 2)
    assert 1 <= caught.value.retry_after_s <= 20
    assert [record.message for record in caplog.records] == ["limits.unavailable"]


def test_without_redis_tokens_come_back_with_time_too(
    without_redis: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(limits.clock, "monotonic", lambda: now_s)
    with without_redis.app_context():
        limits.check("sign-in", "a", 6, per_minute=6)
        now_s += 20

        assert limits.check("sign-in", "a", 0, per_minute=6).remaining == 2


def test_without_redis_a_flood_of_callers_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_OWN_BUCKETS", 10)
    own = limits._OwnBuckets()

    for number in range(100):
        own.take(str(number), 5, 60, 1)

    assert len(own._kept) == 10
