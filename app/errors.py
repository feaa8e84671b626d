"""Refusals that only our own API and services make, beside those of the wire protocol.

The root and the codes that peers see too are in `app.protocol.errors`. A class carries the decision: its
code is part of the API, its status is what HTTP answers, `retryable` says if the same call may pass later.
"""

from app.protocol.errors import InvalidRequest, InvalidState, NotFound, Problem

__all__ = [
    "AppError",
    "ConnectionExists",
    "IdempotencyInProgress",
    "IdempotencyKeyReused",
    "InvalidCursor",
    "InvalidRequest",
    "InvalidState",
    "LinkSpent",
    "MissingScope",
    "NotFound",
    "Problem",
    "RemoteError",
    "RemoteInvalid",
    "RemoteUnreachable",
    "RoleNeeded",
    "SetupDone",
    "SubscriptionExists",
    "Unauthenticated",
]


class AppError(Problem):
    """Root of what only this instance's own people and scripts are told."""


class Unauthenticated(AppError):
    """The call carries no bearer token, or one that is unknown or revoked."""

    code = "authentication_failed"
    status = 401
    title = "A valid bearer token is needed"
    retryable = False


class MissingScope(AppError):
    """The token is good but may not do this; the detail names the scope that is missing."""

    code = "access_denied"
    status = 403
    title = "The token lacks a scope"
    retryable = False

    def __init__(self, scope: str) -> None:
        super().__init__(f"This call needs a token with the scope {scope}.", scope=scope)


class RoleNeeded(AppError):
    """Somebody is signed in, but with a role that may not do this; the detail names the one that may."""

    code = "access_denied"
    status = 403
    title = "Your role may not do this"
    retryable = False

    def __init__(self, role: str) -> None:
        article = "an" if role[0] in "aeiou" else "a"
        super().__init__(f"This needs {article} {role} of the workspace.", role=role)


class SignInFirst(AppError):
    """The invitation is for somebody who has an account: who is signed in with it accepts."""

    code = "access_denied"
    status = 403
    title = "Sign in first"
    retryable = False


class LinkSpent(AppError):
    """The one-time link was used, is too old, or was never made; which of these is not told."""

    code = "not_found"
    status = 404
    title = "This link cannot be used"
    retryable = False

    def __init__(self) -> None:
        super().__init__("This link was used already, or is too old. Ask for a new one.")


class SetupDone(AppError):
    """The instance has a user, so it is set up."""

    code = "not_found"
    status = 404
    title = "This instance is set up"
    retryable = False

    def __init__(self) -> None:
        super().__init__("This instance is set up already. Sign in instead.")


class ConnectionExists(AppError):
    """A request to this instance and workspace is waiting, or a connection with it is open."""

    code = "connection_exists"
    status = 409
    title = "There is such a connection already"
    retryable = False


class SubscriptionExists(AppError):
    """The pattern is subscribed to, or asked for, over this connection already."""

    code = "subscription_exists"
    status = 409
    title = "There is such a subscription already"
    retryable = False


class IdempotencyKeyReused(AppError):
    """The Idempotency-Key stands for another call of the last 24 hours."""

    code = "idempotency_key_reused"
    status = 422
    title = "The idempotency key was used for another call"
    retryable = False


class IdempotencyInProgress(AppError):
    """The first call with this Idempotency-Key has not ended yet."""

    code = "idempotency_in_progress"
    status = 409
    title = "The first call with this key is still at work"
    retryable = True


class InvalidCursor(AppError):
    """The cursor is none of ours, or belongs to another list or other filters."""

    code = "invalid_cursor"
    status = 400
    title = "The cursor does not belong here"
    retryable = False


class RemoteError(AppError):
    """The other instance is the cause: preview, initiate and verify say so with 502."""

    status = 502


class RemoteUnreachable(RemoteError):
    """No answer came: name, connection, certificate, time."""

    code = "remote_unreachable"
    title = "The remote instance cannot be reached"
    retryable = True


class RemoteInvalid(RemoteError):
    """An answer came, but not one that an instance of this protocol gives."""

    code = "remote_invalid"
    title = "The remote instance answers with something else"
    retryable = False
