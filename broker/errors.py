"""Every expected failure, said once: `code`, `status` and the public sentence; `web` turns them into answers."""

from collections.abc import Iterable
from typing import ClassVar

from broker.model import is_account_name


class BrokerError(Exception):
    """Something went wrong in a way the caller can act on; the message is public and holds no secret."""

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
    code, status, title = "invalid_request", 400, "The request is malformed"


class Unauthenticated(BrokerError):
    code, status, title = "unauthenticated", 401, "No valid credential"


class Forbidden(BrokerError):
    code, status, title = "forbidden", 403, "Outside the caller's accounts or permissions"


class NotFound(BrokerError):
    code, status, title = "not_found", 404, "No such route"


class UnknownAccount(BrokerError):
    code, status, title = "unknown_account", 404, "There is no such account"


def require_account_name(name: str | None) -> str:
    """Return `name` if an account may have it; raises InvalidRequest."""
    if name is None or not is_account_name(name):
        raise InvalidRequest("an account's name is lower-case letters, digits and . _ -, at most 128")
    return name


def no_account(name: str, *, removed: bool) -> UnknownAccount:
    """Why an account cannot be used under its name."""
    if removed:
        return UnknownAccount(
            f"Account {name!r} was removed. For 30 days this restores it: broker accounts restore {name}"
        )
    return UnknownAccount(f"There is no account {name!r}.")


def no_provider(name: str | None, known: Iterable[str]) -> str:
    """The sentence about a provider that the configuration does not have; None: its name is not to be shown."""
    named = "such provider" if name is None else f"provider {name[:32]!r}"
    return f"There is no {named}; there are: {', '.join(sorted(known)) or 'none'}."


class MethodNotAllowed(BrokerError):
    code, status, title = "method_not_allowed", 405, "Method not allowed"


class Conflict(BrokerError):
    code, status, title = "conflict", 409, "Conflicts with what is there"


class NeedsReauthorization(BrokerError):
    code, status, title = "needs_reauthorization", 409, "The grant is dead; a person has to connect it again"


class Frozen(BrokerError):
    code, status, title = "frozen", 409, "The account is frozen, so it is not renewed"


class TooLarge(BrokerError):
    code, status, title = "too_large", 413, "The request is too large"


class RateLimited(BrokerError):
    code, status, title = "rate_limited", 429, "Too many requests"


class ProviderRejectedClient(BrokerError):
    code, status = "provider_rejected_client", 502
    title = "The provider refuses our client id or secret; an operator has to mend it, no account is harmed"


class TokenUnusable(BrokerError):
    code, status, title = "token_unusable", 502, "The provider sent a token that no header can carry"


class ProviderUnavailable(BrokerError):
    code, status, title = "provider_unavailable", 503, "The provider cannot be reached just now"


class RefreshUncertain(BrokerError):
    code, status = "refresh_uncertain", 503
    title = "A renewal's outcome is unknown and is being settled"


class StorageUnavailable(BrokerError):
    code, status, title = "storage_unavailable", 503, "The store cannot be written just now"


class AuditUnavailable(BrokerError):
    code, status, title = "audit_unavailable", 503, "The audit cannot be written just now"


class Overloaded(BrokerError):
    code, status, title = "overloaded", 503, "Too busy or stopping"


class StartRefused(Exception):
    """The broker will not start like this; the message says what to do. Never answered over HTTP."""
