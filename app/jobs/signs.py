"""Signs: what workers tell of themselves beside their heartbeat: version, queues, and what they got done.

Counted in the process and told with each heartbeat, so that a job costs no command more. Kept in Redis for
about an hour, for people to look at; nothing is decided by it.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import orjson
import redis

from app.config import VERSION

#: How long a worker that fell silent is still described, in seconds.
ABOUT_TTL_S = 300
#: Minutes of the past whose pace is kept.
PACE_MINUTES = 60


class About(NamedTuple):
    """What a worker says of itself."""

    version: str
    queues: tuple[str, ...]
    #: Jobs that it did to their end, and those that failed, since it was started.
    done: int
    failed: int


class Tally:
    """What this process got done. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._untold: Counter[str] = Counter()
        self._done = self._failed = 0

    def note(self, queue_name: str, *, is_done: bool) -> None:
        """A job of that queue ended."""
        with self._lock:
            self._untold[queue_name] += 1
            if is_done:
                self._done += 1
            else:
                self._failed += 1

    def tell(self, client: redis.Redis, worker: str, queues: Sequence[str]) -> None:
        """Write down what happened since it was last told. Raises redis.RedisError; then it is told later."""
        with self._lock:
            news, self._untold = self._untold, Counter()
            about = orjson.dumps([VERSION, queues, self._done, self._failed])
        try:
            _write(client, worker, about, news)
        except redis.RedisError:
            with self._lock:
                self._untold.update(news)
            raise


def _write(client: redis.Redis, worker: str, about: bytes, news: Counter[str]) -> None:
    pipeline = client.pipeline(transaction=False)
    pipeline.set(f"tidings:worker:{worker}", about, ex=ABOUT_TTL_S)
    key = _minute_key(int(time.time() // 60))
    for queue_name, number in news.items():
        pipeline.hincrby(key, queue_name, number)
    if news:
        pipeline.expire(key, (PACE_MINUTES + 2) * 60)
    pipeline.execute()


def read_about(client: redis.Redis, workers: Sequence[str]) -> dict[str, About]:
    """What the workers said of themselves; those that said nothing are left out. Raises redis.RedisError."""
    if not workers:
        return {}
    said = cast(list[bytes | None], client.mget([f"tidings:worker:{name}" for name in workers]))
    return {name: _about(text) for name, text in zip(workers, said, strict=True) if text is not None}


def _about(text: bytes) -> About:
    version, queues, done, failed = orjson.loads(text)
    return About(version, tuple(queues), done, failed)


def read_pace(client: redis.Redis, queues: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Jobs ended in each of the last PACE_MINUTES whole minutes, the oldest first.

    Raises redis.RedisError.
    """
    current = int(time.time() // 60)
    pipeline = client.pipeline(transaction=False)
    for minute in range(current - PACE_MINUTES, current):
        pipeline.hmget(_minute_key(minute), list(queues))
    rows = cast(list[list[Any]], pipeline.execute())
    return {name: tuple(int(row[number] or 0) for row in rows) for number, name in enumerate(queues)}


def _minute_key(minute: int) -> str:
    return f"tidings:done:{minute}"
