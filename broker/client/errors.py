"""The errors of the client: a class for each error code of the broker, and two for failures on the way to it."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar


class BrokerError(Exception):
    """There is no token. The message says why and holds no secret."""

    code: ClassVar[str] = "unknown"

    def __init_subclass__(cls) -> None:
        """Derive the code of a class from its name; a program may derive from these classes."""
        if BrokerError in cls.__bases__:
            cls.code = re.sub("(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(
        self,
        detail: str,
        *,
        status: int = 0,
        retry_after: float | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        """The HTTP status of the answer; 0 if there was none."""
        self.retry_after = retry_after
        """The seconds after which another attempt makes sense."""
        self.members: Mapping[str, Any] = members or {}
        """The whole problem document (RFC 9457), with `reason` and `reconnect_url`."""
        self.reason = _text(self.members.get("reason"))
        """A more specific reason, such as `revoked_or_expired`."""
        self.request_id = _text(self.members.get("request_id"))
        """The id of the request in the broker's log."""

    def __str__(self) -> str:
        quoted = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code}: {self.detail}{quoted}"


class BrokerAway(BrokerError):
    """The broker cannot be reached, or something else answers in its place."""


class KeyUnreadable(BrokerError):
    """The key cannot be read; nothing was sent."""


class Internal(BrokerError):
    """The broker has an internal error; its log names the `request_id`."""


class InvalidRequest(BrokerError):
    """The request is malformed."""


class Unauthenticated(BrokerError):
    """The broker does not know the key, or it has expired."""


class Forbidden(BrokerError):
    """The account or action is outside the key's permissions; the account may not exist."""


class NotFound(BrokerError):
    """There is no such route."""


class UnknownAccount(BrokerError):
    """There is no such account."""


class MethodNotAllowed(BrokerError):
    """The route does not support the method."""


class Conflict(BrokerError):
    """The request conflicts with the present state."""


class NeedsReauthorization(BrokerError):
    """The grant is revoked or expired: its user has to connect the account again."""

    @property
    def reconnect_url(self) -> str | None:
        """The dashboard page where an operator makes the link for that."""
        return _text(self.members.get("reconnect_url"))

    @property
    def since(self) -> str | None:
        """The time since when, RFC 3339."""
        return _text(self.members.get("since"))


class Frozen(BrokerError):
    """An operator froze the account, and no valid token is left."""


class TooLarge(BrokerError):
    """The request is too large."""


class RateLimited(BrokerError):
    """There were too many requests, or another renewal would not help now."""


class ProviderRejectedClient(BrokerError):
    """The provider refuses the broker's client id or secret; its operator has to correct them."""


class TokenUnusable(BrokerError):
    """The provider sent a token that does not fit into a header."""


class ProviderUnavailable(BrokerError):
    """The provider cannot be reached now."""


class RefreshUncertain(BrokerError):
    """The outcome of a renewal is unknown; the broker is finding out."""


class StorageUnavailable(BrokerError):
    """The broker's store cannot be written now."""


class AuditUnavailable(BrokerError):
    """The broker's audit cannot be written now."""


class Overloaded(BrokerError):
    """The broker is too busy, or restarting."""


BY_CODE: Mapping[str, type[BrokerError]] = {
    kind.code: kind for kind in BrokerError.__subclasses__() if kind not in (BrokerAway, KeyUnreadable)
}
"""The errors that the broker answers with, by code."""


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
