"""What may go wrong for a caller: a class for each code of the broker, and two for what happens on the way to it."""

from collections.abc import Mapping
from typing import Any, ClassVar


class BrokerError(Exception):
    """No token; the message says why and holds no secret."""

    code: ClassVar[str] = "unknown"

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
        """The answer's HTTP status; 0: there was none."""
        self.retry_after = retry_after
        """Seconds until asking again makes sense."""
        self.members: Mapping[str, Any] = members or {}
        """The whole problem document (RFC 9457), `reason` and `reconnect_url` among it."""

    @property
    def reason(self) -> str | None:
        """The broker's closer reason, such as `revoked_or_expired`."""
        return _text(self.members.get("reason"))

    @property
    def request_id(self) -> str | None:
        """What to quote to whoever runs the broker."""
        return _text(self.members.get("request_id"))

    def __str__(self) -> str:
        quoted = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code}: {self.detail}{quoted}"


class BrokerAway(BrokerError):
    """The broker cannot be reached, or something that is no broker answers."""

    code = "broker_away"


class KeyUnreadable(BrokerError):
    """The key cannot be had from where it should be; nothing was sent."""

    code = "key_unreadable"


class Internal(BrokerError):
    """An error of the broker's own; quote the `request_id`."""

    code = "internal"


class InvalidRequest(BrokerError):
    code = "invalid_request"


class Unauthenticated(BrokerError):
    """The broker does not know the key, or it has expired."""

    code = "unauthenticated"


class Forbidden(BrokerError):
    """Outside the key's accounts or permissions, whether or not the account exists."""

    code = "forbidden"


class NotFound(BrokerError):
    code = "not_found"


class UnknownAccount(BrokerError):
    code = "unknown_account"


class MethodNotAllowed(BrokerError):
    code = "method_not_allowed"


class Conflict(BrokerError):
    code = "conflict"


class NeedsReauthorization(BrokerError):
    """The grant is dead: a person has to connect the account again."""

    code = "needs_reauthorization"

    @property
    def reconnect_url(self) -> str | None:
        """Where an operator makes the link for that."""
        return _text(self.members.get("reconnect_url"))

    @property
    def since(self) -> str | None:
        """RFC 3339."""
        return _text(self.members.get("since"))


class Frozen(BrokerError):
    """An operator froze the account, and no living token is left."""

    code = "frozen"


class TooLarge(BrokerError):
    code = "too_large"


class RateLimited(BrokerError):
    """Another renewal would change nothing just now."""

    code = "rate_limited"


class ProviderRejectedClient(BrokerError):
    """The provider refuses the broker's own client id or secret: a matter for whoever runs it."""

    code = "provider_rejected_client"


class TokenUnusable(BrokerError):
    """The provider sent a token that no header can carry."""

    code = "token_unusable"


class ProviderUnavailable(BrokerError):
    code = "provider_unavailable"


class RefreshUncertain(BrokerError):
    """A renewal's outcome is unknown and is being settled."""

    code = "refresh_uncertain"


class StorageUnavailable(BrokerError):
    code = "storage_unavailable"


class AuditUnavailable(BrokerError):
    code = "audit_unavailable"


class Overloaded(BrokerError):
    """Too busy, or restarting."""

    code = "overloaded"


OWN = (BrokerAway, KeyUnreadable)
"""Those that never come from the broker."""
BY_CODE: Mapping[str, type[BrokerError]] = {
    kind.code: kind for kind in BrokerError.__subclasses__() if kind not in OWN
}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
