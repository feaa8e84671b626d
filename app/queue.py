"""The queue: wake-ups by id, and what else lives in Redis. Nothing here matters more than a moment.

Every due row is in the database. A job says "look at connection 7 now"; if Redis loses it, the sweep finds
the row two seconds later. So the functions that wake somebody log a failure of Redis and go on, and only
`first_use_of_nonce`, where going on would open a door, refuses.

    deliveries          drains of connections whose last request went well
    deliveries-failing  drains of the others: a peer that hangs must delay nobody else
    controls            control messages
    strangers           checks of requests that anybody can make: they may hang at whomever he names
    maintenance         the rest

Keys: `tidings:wake:{kind}:{id}` flags, `tidings:signal:{name}` lists, `tidings:nonce:{instance}:{nonce}`,
`tidings:workers` heartbeats, `tidings:worker:{name}` and `tidings:done:{minute}` of `jobs.signs`,
`tidings:paused` queues, `tidings:limit:{bucket}` buckets, and RQ's own `rq:*`.
"""

import logging
import os
import socket
import time
from typing import Any, NamedTuple, cast
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from flask import Flask, current_app
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel
from rq import Queue
from rq.serializers import JSONSerializer

from app import embedded, processes
from app.config import Config, read_sentinel
from app.protocol.errors import Overloaded
from app.protocol.http_signature import NONCE_TTL_S

log = logging.getLogger(__name__)

DELIVERIES = "deliveries"
DELIVERIES_FAILING = "deliveries-failing"
CONTROLS = "controls"
MAINTENANCE = "maintenance"
STRANGERS = "strangers"
QUEUES = (DELIVERIES, DELIVERIES_FAILING, CONTROLS, MAINTENANCE, STRANGERS)

DRAIN = "app.jobs.delivery.drain"
SEND_CONTROLS = "app.jobs.controls.send"
CHECK_REQUEST = "app.jobs.maintenance.check_request"
WORK_OPERATION = "app.jobs.operations.work"
PURGE = "app.jobs.retention.purge"
RECONCILE = "app.jobs.reconciliation.begin"

#: Jobs that do not go to the queue "maintenance".
_QUEUE_OF = {DRAIN: DELIVERIES, SEND_CONTROLS: CONTROLS, CHECK_REQUEST: STRANGERS}

#: A job is ended after this time; drains yield after about a second of work.
JOB_TIMEOUT_S = 60
#: How long a failed job can be looked at.
FAILURE_TTL_S = 6 * 3600
#: How long a wake-up that nobody took stands for the next ones. Short, because the job it stood for may have
#: died with its worker; a second job for one connection does no harm.
WAKE_FLAG_S = 5
SIGNAL_TTL_S = 10
#: A worker that was silent for so long is gone.
WORKER_TTL_S = 30

#: Longest wait for Redis to take a connection or to answer, in seconds.
_CONNECT_TIMEOUT_S = 1.0
_ANSWER_TIMEOUT_S = 5.0
#: After a failure, wake-ups are not even tried for this long: callers should not wait for each one.
_PAUSE_S = 1.0
#: How often a Redis that stays away is spoken of, in seconds.
_SAY_AGAIN_S = 60.0

_WORKERS = "tidings:workers"
_PAUSED = "tidings:paused"

#: What those functions here raise that do not go on without Redis.
Unavailable = redis.RedisError


def redis_url(config: Config) -> str:
    """REDIS_URL, or that of the embedded server."""
    return config.redis_url or f"unix://{embedded.socket_path(config.data_dir)}"


def connect(config: Config) -> redis.Redis:
    """A new client. Connects when it is first used; thread-safe, and safe to use after a fork."""
    options: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": _ANSWER_TIMEOUT_S,
        "health_check_interval": 30,
        # One more try at once, for a connection that the server closed; the default would wait for seconds.
        "retry": Retry(NoBackoff(), 1),
    }
    url = redis_url(config)
    parts = urlsplit(url)
    if parts.scheme == "sentinel":
        return _connect_by_sentinel(parts, options)
    if parts.scheme == "unix":
        del options["socket_connect_timeout"]
    return redis.Redis.from_url(url, **options)


def _connect_by_sentinel(parts: SplitResult, options: dict[str, Any]) -> redis.Redis:
    hosts, master, database = read_sentinel(parts)
    username, _, password = parts.netloc.rpartition("@")[0].partition(":")
    login = {"username": unquote(username) or None, "password": unquote(password) or None}
    sentinel = Sentinel(hosts, sentinel_kwargs={"socket_timeout": _CONNECT_TIMEOUT_S})  # type: ignore[no-untyped-call]
    master_client = sentinel.master_for(master, db=database, **login, **options)  # type: ignore[no-untyped-call]
    return cast(redis.Redis, master_client)


class _Link:
    """An app's client, its queues, and since when Redis is away."""

    def __init__(self, config: Config) -> None:
        self.client = connect(config)
        self.queues = {
            name: Queue(name, connection=self.client, serializer=JSONSerializer) for name in QUEUES
        }
        self.paused_until = 0.0
        #: When it was last said that Redis is away, on the monotonic clock; None while it answers.
        self.said_away_at: float | None = None


def init_app(app: Flask, config: Config) -> None:
    """Give the app its link to Redis. Connects to nothing."""
    app.extensions["tidings-redis"] = _Link(config)


def _link() -> _Link:
    return cast(_Link, current_app.extensions["tidings-redis"])


def redis_client() -> redis.Redis:
    """The current app's client."""
    return _link().client


def queue(name: str) -> Queue:
    """One of QUEUES of the current app."""
    return _link().queues[name]


def enqueue(job_name: str, *ids: int) -> bool:
    """Have a worker call `job_name` (a dotted name) with these ids. False, and logged, if Redis is away."""
    return _enqueue(_QUEUE_OF.get(job_name, MAINTENANCE), job_name, *ids)


def length(name: str) -> int:
    """How many jobs wait in one of QUEUES; 0 if Redis is away."""
    waiting = 0

    def count() -> bool:
        nonlocal waiting
        waiting = _link().queues[name].count
        return True

    _best_effort("queue.length_failed", count, queue=name)
    return waiting


def _enqueue(queue_name: str, job_name: str, *ids: int) -> bool:
    def add() -> bool:
        _link().queues[queue_name].enqueue_call(
            job_name, args=ids, timeout=JOB_TIMEOUT_S, result_ttl=0, failure_ttl=FAILURE_TTL_S
        )
        return True

    return _best_effort("queue.enqueue_failed", add, job=job_name)


def wake_drain(connection_id: int, failing: bool = False, *, again: bool = False) -> None:
    """Have the connection's due deliveries sent. Repeats are one job until the job starts.

    again: by a sweep, that finds them due and nobody at work: a job that was made for them before and is not
    in the queue any more went down with its worker.
    """
    _wake("drain", DELIVERIES_FAILING if failing else DELIVERIES, DRAIN, connection_id, again=again)


def wake_controls(connection_id: int, *, again: bool = False) -> None:
    """Have the connection's waiting control messages sent. Repeats are one job until the job starts.

    again: as for `wake_drain`.
    """
    _wake("controls", CONTROLS, SEND_CONTROLS, connection_id, again=again)


def wake_operation(operation_id: int) -> None:
    """Have the operation worked off. Repeats are one job until the job starts."""
    _wake("operation", MAINTENANCE, WORK_OPERATION, operation_id)


def operation_started(operation_id: int) -> None:
    """First thing in a job of an operation: from now on a wake-up means that it is to go on."""
    _clear("operation", operation_id)


def wake_retention() -> None:
    """Have what is old deleted. Repeats are one job until the job starts."""
    _wake("retention", MAINTENANCE, PURGE)


def retention_started() -> None:
    """First thing in a job of the retention: from now on a wake-up means that it is to go on."""
    _clear("retention")


def drain_started(connection_id: int) -> None:
    """First thing in a drain job: from now on a wake-up means new work."""
    _clear("drain", connection_id)


def controls_started(connection_id: int) -> None:
    """First thing in a control job: from now on a wake-up means new work."""
    _clear("controls", connection_id)


def _wake(kind: str, queue_name: str, job_name: str, *ids: int, again: bool = False) -> None:
    flag = _flag(kind, ids)

    def raise_flag() -> bool:
        pipeline = redis_client().pipeline(transaction=False)
        pipeline.set(flag, 1, nx=True, ex=WAKE_FLAG_S)
        pipeline.hexists(_PAUSED, queue_name)
        pipeline.llen(_link().queues[queue_name].key)
        is_first, is_paused, length = pipeline.execute()
        # A paused queue would fill up with a job for every sweep; the sweep after the pause finds the rows.
        return bool(is_first or (again and not length)) and not is_paused

    if _best_effort("queue.wake_failed", raise_flag, job=job_name) and not _enqueue(
        queue_name, job_name, *ids
    ):
        _clear(kind, *ids)


def _flag(kind: str, ids: tuple[int, ...]) -> str:
    return ":".join(["tidings:wake", kind, *map(str, ids)])


def _clear(kind: str, *ids: int) -> None:
    def lower_flag() -> bool:
        return bool(redis_client().delete(_flag(kind, ids)))

    _best_effort("queue.clear_failed", lower_flag, job=kind)


def _best_effort(event: str, act: Any, **fields: Any) -> bool:
    """What `act` answers, or False if Redis is away or was a moment ago."""
    link = _link()
    if time.monotonic() < link.paused_until:
        return False
    try:
        done = bool(act())
    except redis.RedisError as error:
        link.paused_until = time.monotonic() + _PAUSE_S
        _say_away(event, error, **fields)
        return False
    if link.said_away_at is not None:
        link.said_away_at = None
        log.warning("queue.redis_back")
    return done


def _say_away(event: str, error: redis.RedisError, **fields: Any) -> None:
    """One line when Redis goes away, then at most one a minute, whatever was wanted of it."""
    link, now = _link(), time.monotonic()
    if link.said_away_at is None or now - link.said_away_at >= _SAY_AGAIN_S:
        link.said_away_at = now
        log.warning(event, extra={**fields, "error": str(error)})


def signal(name: str) -> None:
    """Let one `wait_for(name)`, now or within seconds, return."""

    def push() -> bool:
        key = f"tidings:signal:{name}"
        pipeline = redis_client().pipeline(transaction=False)
        pipeline.lpush(key, 1)
        pipeline.expire(key, SIGNAL_TTL_S)
        pipeline.execute()
        return True

    _best_effort("queue.signal_failed", push, signal=name)


def wait_for(name: str, timeout_s: float) -> bool:
    """Wait for `signal(name)`. False after timeout_s, at once if Redis is away: the database knows."""

    def pop() -> bool:
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            # Shorter than the client's own patience with the socket.
            if redis_client().blpop([f"tidings:signal:{name}"], timeout=min(left, _ANSWER_TIMEOUT_S / 2)):
                return True
        return False

    return _best_effort("queue.wait_failed", pop, signal=name)


def first_use_of_nonce(instance_id: str, nonce: str) -> bool:
    """Whether this instance used the nonce for the first time. Raises Overloaded if nobody can tell now."""
    try:
        return bool(redis_client().set(f"tidings:nonce:{instance_id}:{nonce}", 1, nx=True, ex=NONCE_TTL_S))
    except redis.RedisError as error:
        _say_away("queue.nonce_failed", error)
        raise Overloaded("Nonces cannot be checked now.") from None


def is_reachable() -> bool:
    """Whether Redis answers."""
    try:
        return bool(redis_client().ping())
    except redis.RedisError:
        return False


class Pause(NamedTuple):
    """Since when workers take no job from a queue (Unix ms), and who wanted that."""

    since: int
    by: str


def pause(name: str, by: str) -> bool:
    """Let workers take no more jobs from one of QUEUES. False if that is so already. Raises Unavailable.

    Redis alone knows of it: if it is wiped, the queue goes on, which is the safe side for a queue of ids.
    """
    return bool(redis_client().hsetnx(_PAUSED, name, f"{int(time.time() * 1000)} {by}"))


def resume(name: str) -> bool:
    """Let workers go on with one of QUEUES. False if it was not paused. Raises Unavailable."""
    return bool(redis_client().hdel(_PAUSED, name))


def paused(client: redis.Redis) -> dict[str, Pause]:
    """The paused queues by name. Raises Unavailable."""
    found = cast(dict[bytes, bytes], client.hgetall(_PAUSED))
    said = {name.decode(): value.decode().partition(" ") for name, value in found.items()}
    return {name: Pause(int(since), by) for name, (since, _, by) in said.items()}


def heartbeats() -> dict[str, float]:
    """When each worker (host:pid) last gave a sign of life, Unix seconds; the silent for 5 minutes too.

    Raises Unavailable.
    """
    found = cast(list[tuple[bytes, float]], redis_client().zrange(_WORKERS, 0, -1, withscores=True))
    return {name.decode(): at for name, at in found}


def is_live(name: str, beat_at: float) -> bool:
    """Whether the worker of that name, whose last sign came at `beat_at` (Unix seconds), can be at work."""
    return time.time() - beat_at < WORKER_TTL_S and not _is_dead_here(name)


def worker_name() -> str:
    """This process's name among the workers: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


def beat() -> None:
    """Say that this worker lives. Our own sign, because RQ's does not come back after a FLUSHALL."""
    client = redis_client()
    now_s = time.time()
    client.zadd(_WORKERS, {worker_name(): now_s})
    client.zremrangebyscore(_WORKERS, "-inf", now_s - 10 * WORKER_TTL_S)


def farewell() -> None:
    """Say that this worker ends."""
    redis_client().zrem(_WORKERS, worker_name())


def live_workers() -> list[str]:
    """Names (host:pid) of the workers that live. Raises redis.RedisError.

    One on this host is known by its process; one elsewhere is believed for WORKER_TTL_S.
    """
    names = cast(list[bytes], redis_client().zrangebyscore(_WORKERS, time.time() - WORKER_TTL_S, "+inf"))
    return [name for name in map(bytes.decode, names) if not _is_dead_here(name)]


def _is_dead_here(name: str) -> bool:
    host, _, pid = name.rpartition(":")
    return host == socket.gethostname() and not processes.is_alive(int(pid))
