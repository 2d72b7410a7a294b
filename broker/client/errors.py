"""What may go wrong for a caller: a class for each code of the broker, and two for what happens on the way to it."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar


class BrokerError(Exception):
    """No token; the message says why and holds no secret."""

    code: ClassVar[str] = "unknown"

    def __init_subclass__(cls) -> None:
        """Each class of ours is named as its code is written."""
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
        """The answer's HTTP status; 0: there was none."""
        self.retry_after = retry_after
        """Seconds until asking again makes sense."""
        self.members: Mapping[str, Any] = members or {}
        """The whole problem document (RFC 9457), `reason` and `reconnect_url` among it."""
        self.reason = _text(self.members.get("reason"))
        """The broker's closer reason, such as `revoked_or_expired`."""
        self.request_id = _text(self.members.get("request_id"))
        """What to quote to whoever runs the broker."""

    def __str__(self) -> str:
        quoted = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code}: {self.detail}{quoted}"


class BrokerAway(BrokerError):
    """The broker cannot be reached, or something that is no broker answers."""


class KeyUnreadable(BrokerError):
    """The key cannot be had from where it should be; nothing was sent."""


class Internal(BrokerError):
    """An error of the broker's own; quote the `request_id`."""


class InvalidRequest(BrokerError):
    """The request is malformed."""


class Unauthenticated(BrokerError):
    """The broker does not know the key, or it has expired."""


class Forbidden(BrokerError):
    """Outside the key's accounts or permissions, whether or not the account exists."""


class NotFound(BrokerError):
    """There is no such route."""


class UnknownAccount(BrokerError):
    """There is no such account."""


class MethodNotAllowed(BrokerError):
    """The route does not know the method."""


class Conflict(BrokerError):
    """Conflicts with what is there."""


class NeedsReauthorization(BrokerError):
    """The grant is dead: a person has to connect the account again."""

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


class TooLarge(BrokerError):
    """The request is too large."""


class RateLimited(BrokerError):
    """Another renewal would change nothing just now."""


class ProviderRejectedClient(BrokerError):
    """The provider refuses the broker's own client id or secret: a matter for whoever runs it."""


class TokenUnusable(BrokerError):
    """The provider sent a token that no header can carry."""


class ProviderUnavailable(BrokerError):
    """The provider cannot be reached just now."""


class RefreshUncertain(BrokerError):
    """A renewal's outcome is unknown and is being settled."""


class StorageUnavailable(BrokerError):
    """The broker's store cannot be written just now."""


class AuditUnavailable(BrokerError):
    """The broker's audit cannot be written just now."""


class Overloaded(BrokerError):
    """Too busy, or restarting."""


OWN = (BrokerAway, KeyUnreadable)
"""Those that never come from the broker."""
BY_CODE: Mapping[str, type[BrokerError]] = {
    kind.code: kind for kind in BrokerError.__subclasses__() if kind not in OWN
}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
