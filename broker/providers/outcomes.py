"""The requests to a provider, and their possible outcomes (R5 of the renewal protocol)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from broker.model import Identity, Reason, Secret, TokenSet

BeforeSend = Callable[[], Awaitable[None]]
"""Awaited once there is a connection, before the first byte is sent. If it raises, nothing is sent."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The answer was a 2xx with a usable access or refresh token."""

    tokens: TokenSet


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing of the request was sent: name resolution, the connection or TLS failed."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider says that the grant is revoked or expired. This is checked a second time (R8)."""

    description: str
    why: str = field(default="", compare=False)
    usual: bool = True
    """True if it was a 4xx with JSON `{"error": "invalid_grant"}`; other forms need more confirmation."""


@dataclass(frozen=True, slots=True)
class ClientRefused:
    """The client id or secret was refused, or (at Kustomer) the org has not installed the app."""

    not_installed: bool
    why: str = field(default="client refused", compare=False)
    description: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Declined:
    """The request was answered but not processed: other OAuth errors, 401 and 403 without one, redirects."""

    why: str
    description: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Paused:
    """The answer was 429, or 503 with Retry-After: no account may use the provider for some seconds."""

    seconds: float
    why: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The request was sent, and it is unknown whether it was processed."""

    why: str
    timed_out: bool
    """True if our own timeout ended it; then the provider may still be processing it."""
    salvage: Secret | None = None
    """A complete refresh token found in a malformed answer."""
    reason: Reason = Reason.UNCERTAIN
    """The reason that the account shows meanwhile."""
    description: str = field(default="", compare=False)


TokenOutcome = Granted | NotSent | Refused | ClientRefused | Declined | Paused | Ambiguous
"""`why` is our text with the status and the error; `description` is the provider's, cleaned and shortened."""


def cause_of(outcome: NotSent | Refused | ClientRefused | Declined | Paused | Ambiguous) -> str:
    """Return why there is no token, for the log, events and operators."""
    description = "" if isinstance(outcome, NotSent | Paused) else outcome.description
    return f"{outcome.why}: {description}" if description else outcome.why


@dataclass(frozen=True, slots=True)
class Identified:
    """The provider named the account."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class IdentityUnknown:
    """The provider answered without an id, or has no identity endpoint."""

    why: str
    status: int | None = None
    """The status of the answer, if there was one."""


@dataclass(frozen=True, slots=True)
class IdentityLater:
    """The account may be known later: a timeout, 429 or 5xx."""

    why: str


NO_ENDPOINT = "there is no identity endpoint"
IdentityOutcome = Identified | IdentityUnknown | IdentityLater


@dataclass(frozen=True, slots=True)
class Reached:
    """The provider answered."""

    clock_skew: float | None
    """Seconds by which its `Date` is ahead of our clock; only used for a warning (R12)."""
    differences: tuple[str, ...] | None = None
    """The differences between its metadata (RFC 8414) and our settings, in words; None if it publishes none."""


class Grant(StrEnum):
    """The two grant types of RFC 6749 that the broker uses."""

    CODE = "authorization_code"
    REFRESH = "refresh_token"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One POST to a token endpoint."""

    grant: Grant
    token: Secret
    """The code, or the refresh token."""
    client_id: str
    """The client that began the install or received the grant."""
    org: str | None = None
    scope: str = ""
    """The scope that was requested or granted so far, to notice a change."""
    redirect_uri: str | None = None
    verifier: Secret | None = None
    secret_index: int = 0
    """The index of the client's secret to send; the next is used only after a definite refusal of this one."""
