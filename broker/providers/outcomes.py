"""What a provider can be asked, and every way its answer can end (R5 of the renewal protocol)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from broker.model import Identity, Reason, Secret, TokenSet

BeforeSend = Callable[[], Awaitable[None]]
"""Awaited when the connection stands and before the first byte leaves; raising sends nothing."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A 2xx with a usable access or refresh token."""

    tokens: TokenSet


@dataclass(frozen=True, slots=True)
class NotSent:
    """Certain: nothing of the request left. DNS, connect, TLS."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider says that the grant is dead; believed only when it says so again (R8)."""

    description: str
    why: str = field(default="", compare=False)
    usual: bool = True
    """4xx with JSON `{"error": "invalid_grant"}`. In other words or places it is believed less quickly."""


@dataclass(frozen=True, slots=True)
class ClientRefused:
    """Our client id or secret is refused, or (Kustomer) the org has not installed the app."""

    not_installed: bool
    why: str = field(default="client refused", compare=False)
    description: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Declined:
    """Answered and not processed: other OAuth errors, bare 401 and 403, redirects."""

    why: str
    description: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Paused:
    """429, or 503 with Retry-After: the provider wants to be left alone, all of it."""

    seconds: float
    why: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The request left and nobody knows whether it was processed."""

    why: str
    timed_out: bool
    """Our own time-out: the provider may still be working on it."""
    salvage: Secret | None = None
    """A whole refresh token found in a broken answer."""
    reason: Reason = Reason.UNCERTAIN
    """What an account shows meanwhile."""
    description: str = field(default="", compare=False)


TokenOutcome = Granted | NotSent | Refused | ClientRefused | Declined | Paused | Ambiguous
"""`why` is in our words, with the status and the error; `description` is the provider's text, cleaned and cut."""


def cause_of(outcome: NotSent | Refused | ClientRefused | Declined | Paused | Ambiguous) -> str:
    """Why there is no token, for the log, events and operators."""
    description = "" if isinstance(outcome, NotSent | Paused) else outcome.description
    return f"{outcome.why}: {description}" if description else outcome.why


@dataclass(frozen=True, slots=True)
class Identified:
    identity: Identity


@dataclass(frozen=True, slots=True)
class IdentityUnknown:
    """The provider answered and there is no id to be had: as without an identity endpoint."""

    why: str
    status: int | None = None
    """What it answered, where it was an answer."""


@dataclass(frozen=True, slots=True)
class IdentityLater:
    """Time-out, 429, 5xx: ask again."""

    why: str


NO_ENDPOINT = "there is no identity endpoint"
IdentityOutcome = Identified | IdentityUnknown | IdentityLater


@dataclass(frozen=True, slots=True)
class Reached:
    """The provider answered."""

    clock_skew: float | None
    """Its `Date` less our clock, seconds; only ever a warning (R12)."""
    differences: tuple[str, ...] | None = None
    """Where its metadata (RFC 8414) and our settings differ, in words; None: it publishes none."""


class Grant(StrEnum):
    """The two grants of RFC 6749 that we use."""

    CODE = "authorization_code"
    REFRESH = "refresh_token"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One POST to a token endpoint."""

    grant: Grant
    token: Secret
    """The code, or the refresh token."""
    client_id: str
    """The client that began the install, or minted the grant."""
    org: str | None = None
    scope: str = ""
    """What was granted so far or asked for, to notice a change."""
    redirect_uri: str | None = None
    verifier: Secret | None = None
    secret_index: int = 0
    """Which of the client's secrets to send; another one only after a definite refusal of this one."""
