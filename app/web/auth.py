"""Who calls: the bearer token of a request, its workspace, and what it may do."""

from app.access import tokens
from app.access.tokens import Bearer, Scope
from app.errors import MissingScope, Unauthenticated

__all__ = ["Bearer", "Scope", "authenticate", "require"]


def authenticate(authorization: str | None) -> Bearer:
    """The bearer named by an Authorization header. Raises Unauthenticated.

    What exactly was wrong with a token is not told: whoever guesses learns nothing.
    """
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("Send the header Authorization: Bearer tdg_… with a token of this instance.")
    bearer = tokens.find(secret.strip())
    if bearer is None:
        raise Unauthenticated("The bearer token is unknown or was revoked.")
    return bearer


def require(bearer: Bearer, any_of: tuple[Scope, ...]) -> None:
    """Pass if the token has one of the scopes. Raises MissingScope, which names the first."""
    if not any(bearer.may(scope) for scope in any_of):
        raise MissingScope(any_of[0])
