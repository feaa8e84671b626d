"""Rate limits: token buckets in Redis, one script call each.

A bucket holds as many tokens as its window allows (a second's or a minute's worth) and fills evenly. Whoever
takes more than is there is told to the second when there will be enough. While Redis is away each process
counts for itself: refusing all would turn a hiccup of the cache into an outage, and letting all pass would
let whoever guesses passwords guess without end.

Of a large bucket that is more than half full a process takes a hundredth ahead, and spends that within a
quarter of a second without asking: a question costs as much as a tenth of a call. What it does not spend is
gone. Below half every call asks, so that the limit is kept to the token.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from typing import NamedTuple, cast

import redis
from flask import current_app

from app import clock
from app.protocol.errors import RateLimited
from app.queue import redis_client

log = logging.getLogger(__name__)

#: How often a failure of Redis is logged, in seconds.
_LOG_EVERY_S = 60.0
#: Buckets that a process keeps while Redis is away.
_OWN_BUCKETS = 10_000

#: Part of a bucket that is taken ahead, and how long that may be spent, in seconds.
_AHEAD_PART = 100
_AHEAD_S = 0.25
#: Buckets of which something was taken ahead; beyond it all are forgotten.
_MOST_AHEAD = 10_000

# KEYS[1] bucket; ARGV: tokens it holds, tokens a millisecond, tokens wanted, tokens to take ahead. Time is
# the server's, so that all web processes agree. Answers {1 taken | 0 refused, tokens left, milliseconds until
# there are enough, tokens taken ahead}.
# A cost above the bucket's size is taken from a full one, which then is in debt: else it could never pass.
_SCRIPT = """
local size, rate, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local passed = math.max(0, now - (tonumber(kept[2]) or now))
local tokens = math.min(size, (tonumber(kept[1]) or size) + passed * rate)
local wanted = math.min(cost, size)
if tokens < wanted then
  return {0, math.floor(math.max(0, tokens)), math.ceil((wanted - tokens) / rate), 0}
end
local ahead = tonumber(ARGV[4])
if tokens - cost - ahead < size / 2 then
  ahead = 0
end
tokens = tokens - cost - ahead
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil((size - tokens) / rate) + 1000)
return {1, math.floor(math.max(0, tokens)), 0, ahead}
"""


class Allowance(NamedTuple):
    """What is left of a bucket after a check."""

    bucket: str
    #: Tokens a window, and the window in seconds.
    limit: int
    window_s: int
    remaining: int
    #: Seconds until the refused cost would pass; 0 if it passed.
    retry_after_s: int

    def headers(self) -> dict[str, str]:
        """RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers)."""
        reset_s = self.retry_after_s or math.ceil((self.limit - self.remaining) * self.window_s / self.limit)
        return {
            "RateLimit": f'"{self.bucket}";r={self.remaining};t={reset_s}',
            "RateLimit-Policy": f'"{self.bucket}";q={self.limit};w={self.window_s}',
        }


class LimitExceeded(RateLimited):
    """Too much for one bucket; carries what the headers say."""

    def __init__(self, allowance: Allowance) -> None:
        super().__init__(
            f"More than {allowance.limit} in {allowance.window_s} s ({allowance.bucket}).",
            retry_after_s=allowance.retry_after_s,
        )
        self.allowance = allowance


def check(
    bucket: str, key: str, cost: int = 1, *, per_second: int | None = None, per_minute: int | None = None
) -> Allowance:
    """Take `cost` tokens from the bucket of `key` (a token, an instance, an address).

    bucket: its name, shown to whoever is limited. Give one of per_second and per_minute.
    Raises LimitExceeded, a RateLimited.
    """
    limit, window_s = (per_second, 1) if per_second is not None else (cast(int, per_minute), 60)
    name, kept = f"tidings:limit:{bucket}:{key}", _kept()
    remaining = kept.spend(name, limit, cost)
    if remaining is not None:
        return Allowance(bucket, limit, window_s, remaining, 0)
    ahead = limit // _AHEAD_PART
    try:
        taken, remaining, wait_ms, got_ahead = _run(name, limit, window_s, cost, ahead if cost < ahead else 0)
    except redis.RedisError as error:
        _log_once(error)
        taken, remaining, wait_ms = _OWN.take(name, limit, window_s, cost)
        got_ahead = 0
    if got_ahead:
        kept.put(name, limit, got_ahead, remaining)
        remaining += got_ahead
    allowance = Allowance(bucket, limit, window_s, remaining, math.ceil(wait_ms / 1000))
    if not taken:
        raise LimitExceeded(allowance)
    return allowance


class _Kept:
    """What this process took ahead. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By bucket: its limit, tokens left here, tokens left there, and until when they may be spent.
        self._buckets: dict[str, tuple[int, int, int, float]] = {}

    def spend(self, name: str, limit: int, cost: int) -> int | None:
        """Take `cost` of what is kept; how much is left here and there. None if it is not enough."""
        with self._lock:
            _, here, there, until = found = self._buckets.get(name, _NOTHING)
            if found[0] != limit or here < cost or time.monotonic() > until:
                return None
            self._buckets[name] = (limit, here - cost, there, until)
            return here - cost + there

    def put(self, name: str, limit: int, here: int, there: int) -> None:
        """Keep what was taken ahead."""
        with self._lock:
            if len(self._buckets) >= _MOST_AHEAD:
                self._buckets.clear()
            self._buckets[name] = (limit, here, there, time.monotonic() + _AHEAD_S)


_NOTHING = (0, 0, 0, 0.0)


def _kept() -> _Kept:
    return cast(_Kept, current_app.extensions.setdefault("tidings-limits-kept", _Kept()))


def _run(key: str, limit: int, window_s: int, cost: int, ahead: int) -> tuple[int, int, int, int]:
    """Run the script; its text is sent only when the server does not know it yet."""
    script = current_app.extensions.get("tidings-limits")
    if script is None:
        script = current_app.extensions["tidings-limits"] = redis_client().register_script(_SCRIPT)
    args: list[int | str] = [limit, repr(limit / window_s / 1000), cost, ahead]
    return cast(tuple[int, int, int, int], script(keys=[key], args=args))


class _OwnBuckets:
    """The buckets of this process, for while Redis is away. As many as are in use; the idlest go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str, limit: int, window_s: int, cost: int) -> tuple[int, int, int]:
        """As the script: 1 if taken, tokens left, milliseconds until there are enough."""
        rate = limit / window_s / 1000
        now_ms = clock.monotonic() * 1000
        with self._lock:
            tokens, at_ms = self._kept.pop(key, (float(limit), now_ms))
            tokens = min(limit, tokens + (now_ms - at_ms) * rate)
            wanted = min(cost, limit)
            taken = tokens >= wanted
            if taken:
                tokens -= cost
            self._kept[key] = (tokens, now_ms)
            if len(self._kept) > _OWN_BUCKETS:
                self._kept.popitem(last=False)
        wait_ms = 0 if taken else math.ceil((wanted - tokens) / rate)
        return int(taken), max(0, math.floor(tokens)), wait_ms


_OWN = _OwnBuckets()


def _log_once(error: redis.RedisError) -> None:
    last = current_app.extensions.get("tidings-limits-logged", -_LOG_EVERY_S)
    if time.monotonic() - last >= _LOG_EVERY_S:
        current_app.extensions["tidings-limits-logged"] = time.monotonic()
        log.warning("limits.unavailable", extra={"error": str(error)})
