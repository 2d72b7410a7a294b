"""The expected failures, each with its code, HTTP status and public sentence. `http/edge.py` makes answers of them.

docs/api.md quotes the docstrings, which say what has happened and what a caller does.
"""

from collections.abc import Iterable
from typing import ClassVar

from broker.model import is_account_name


class BrokerError(Exception):
    """A fault of the broker, as itself. Report it with the `request_id`; the log has the rest.

    Its subclasses are the failures that a caller can act on. Their messages are public and hold no secret.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str = "", *, retry_after: float | None = None, **members: object) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after = retry_after
        """Seconds, for the Retry-After header."""
        self.members = members
        """Further members of the problem document."""


class InvalidRequest(BrokerError):
    """A parameter, header or body member is missing or wrong. Correct the request; `detail` names what is wrong."""

    code, status, title = "invalid_request", 400, "The request is malformed"


class Unauthenticated(BrokerError):
    """The request has no valid key or JWT. Send `Authorization: Bearer KEY`; `detail` says what was sent instead."""

    code, status, title = "unauthenticated", 401, "No valid credential"


class Forbidden(BrokerError):
    """The caller lacks the permission or the account. Check the account's name, or ask an operator for the right."""

    code, status, title = "forbidden", 403, "Outside the caller's accounts or permissions"


class NotFound(BrokerError):
    """The path, or the thing that it names, does not exist. Correct the path."""

    code, status, title = "not_found", 404, "No such route"


class UnknownAccount(BrokerError):
    """No account has that name. Check it; a removed account can be restored by an operator for 30 days."""

    code, status, title = "unknown_account", 404, "There is no such account"


def require_account_name(name: str | None) -> str:
    """Return `name` if an account may have it; raises InvalidRequest."""
    if name is None or not is_account_name(name):
        raise InvalidRequest("an account's name is lower-case letters, digits and . _ -, at most 128")
    return name


def no_account(name: str, *, removed: bool) -> UnknownAccount:
    """Return the error for an account that does not exist, or was removed."""
    if removed:
        return UnknownAccount(
            f"Account {name!r} was removed. For 30 days this restores it: broker accounts restore {name}"
        )
    return UnknownAccount(f"There is no account {name!r}.")


def no_provider(name: str | None, known: Iterable[str]) -> str:
    """Return the message about a provider that is not configured; `name` is None if it must not be shown."""
    named = "such provider" if name is None else f"provider {name[:32]!r}"
    return f"There is no {named}; there are: {', '.join(sorted(known)) or 'none'}."


class MethodNotAllowed(BrokerError):
    """The path exists, but not with this method. Use one that the header `Allow` names."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class Conflict(BrokerError):
    """The state of the account, caller or key does not permit it. `detail` says what is in the way."""

    code, status, title = "conflict", 409, "The request conflicts with what is stored"


class NeedsReauthorization(BrokerError):
    """The customer has to connect the account again; asking again does not help. `reason` and `since` say what
    happened, `reconnect_url` is where an operator makes the link.
    """

    code, status, title = (
        "needs_reauthorization",
        409,
        "The grant was revoked or has expired; the account needs re-authorization",
    )


class Frozen(BrokerError):
    """An operator froze the account and its last token has expired. Wait until it is unfrozen."""

    code, status, title = "frozen", 409, "The account is frozen, so it is not renewed"


class TooLarge(BrokerError):
    """The body, the request line or a header exceeds its limit. Send less."""

    code, status, title = "too_large", 413, "The request is too large"


class RateLimited(BrokerError):
    """The caller asks too often, or the provider would not answer better yet. Ask again after `Retry-After` seconds."""

    code, status, title = "rate_limited", 429, "Too many requests"


class ProviderRejectedClient(BrokerError):
    """No account is harmed. Tell an operator; the broker tries again by itself."""

    code, status = "provider_rejected_client", 502
    title = "The provider rejects the broker's client id or secret; an operator has to correct it"


class TokenUnusable(BrokerError):
    """The token has characters that no header may have, or is no Bearer token. Tell an operator."""

    code, status, title = "token_unusable", 502, "The provider sent a token that no header can carry"


class ProviderUnavailable(BrokerError):
    """No renewal is possible and no valid token is left. Ask again after `Retry-After` seconds; `reason` says why."""

    code, status, title = "provider_unavailable", 503, "The provider cannot be reached just now"


class RefreshUncertain(BrokerError):
    """A renewal was sent and its answer never came. Ask again after `Retry-After` seconds."""

    code, status = "refresh_uncertain", 503
    title = "The outcome of a renewal is unknown; the broker finds out"


class StorageUnavailable(BrokerError):
    """The disk is full, or the database is away. Ask again after `Retry-After` seconds, and tell an operator."""

    code, status, title = "storage_unavailable", 503, "The store cannot be written just now"


class AuditUnavailable(BrokerError):
    """Nothing may be done that cannot be audited. Ask again after `Retry-After` seconds, and tell an operator."""

    code, status, title = "audit_unavailable", 503, "The audit cannot be written just now"


class Overloaded(BrokerError):
    """The broker has too many requests, connections or streams, or it stops. Ask again after `Retry-After` seconds."""

    code, status, title = "overloaded", 503, "Too busy or stopping"


class StartRefused(Exception):
    """The reason why the broker does not start; the message says what to do. It is never answered over HTTP."""
