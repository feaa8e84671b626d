"""Rate limits of calls: what is left of a bucket stands in the headers of every answer that drew on one."""

from flask import Flask, Response, g

from app import limits
from app.limits import Allowance


def register(app: Flask) -> None:
    """Let the app's answers tell what is left."""
    app.after_request(_tell)


def draw(bucket: str, key: str, cost: int, per_second: int) -> None:
    """Take `cost` from the bucket of `key`. Raises RateLimited with the time to wait."""
    try:
        g.allowance = limits.check(bucket, key, cost, per_second=per_second)
    except limits.LimitExceeded as problem:
        g.allowance = problem.allowance
        raise


def _tell(response: Response) -> Response:
    allowance: Allowance | None = g.get("allowance")
    if allowance is not None:
        response.headers.update(allowance.headers())
    return response
