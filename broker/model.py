"""The vocabulary: frozen values that every room shares and that import nothing of ours."""

import hmac
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Never, Self

ACCOUNT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)


class Secret:
    """A string that does not print, pickle or compare in variable time; `reveal()` is the only way out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself. Call it only where the bytes leave for where they belong."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Never:
        raise TypeError("a Secret cannot be pickled")


def is_account_name(text: str) -> bool:
    """Whether `text` may name an account: lower-case ASCII, digits, `. _ -`, at most 128."""
    return ACCOUNT_NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class TokenSet:
    """What a provider's token endpoint gave, parsed. Times are epoch seconds by our own clock."""

    access_token: Secret | None
    refresh_token: Secret | None
    """None: the provider sent none, so the one we hold goes on."""
    token_type: str
    scope: str | None
    """None: the provider did not say, so what was asked for holds."""
    issued_at: float
    expires_at: float
    flags: tuple[str, ...] = ()
    """What was odd about the answer, for log and audit: `expires_in_missing`, `token_unusable`, …"""


class Reason(StrEnum):
    """Why an account is not simply active. The words are part of the API; `wire` puts them plainly."""

    REVOKED_OR_EXPIRED = "revoked_or_expired"
    LOST_ROTATION = "lost_rotation"
    NO_REFRESH_TOKEN = "no_refresh_token"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_DECLINED = "provider_declined"
    PROVIDER_PAUSED = "provider_paused"
    CLIENT_REFUSED = "provider_rejected_client"
    APP_NOT_INSTALLED = "app_not_installed?"
    CLIENT_NOT_CONFIGURED = "client_not_configured"
    REFUSED_ONCE = "refused_once"
    UNCERTAIN = "answer_unknown"
    REJECTED = "rejected_by_provider"
    STORAGE = "storage_unavailable"
    TOKEN_UNUSABLE = "token_unusable"
    DUPLICATE_IDENTITY = "duplicate_identity"
    OPERATOR = "operator"
    MASS_REFUSAL = "mass_refusal"
    COPIED_STORE = "copied_store"


DEAD_REASONS = frozenset({Reason.REVOKED_OR_EXPIRED, Reason.LOST_ROTATION, Reason.NO_REFRESH_TOKEN})


class Status(StrEnum):
    """What an account is, first that applies from the top."""

    NEEDS_REAUTHORIZATION = "needs_reauthorization"
    FROZEN = "frozen"
    UNCERTAIN = "uncertain"
    REFRESH_FAILING = "refresh_failing"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class Intent:
    """The durable note “about to send this generation's refresh token”; it is the lease as well (R3)."""

    id: str
    generation: int
    at: float
    owner: str
    """Boot id of the process that wrote it."""
    until: float
    """When the lease runs out, epoch seconds."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is known about failed renewals of the current generation."""

    reason: Reason | None = None
    since: float | None = None
    attempts: int = 0
    """Failures in a row, for the backoff."""
    not_before: float | None = None
    """No attempt before this moment, epoch seconds."""
    ambiguous: int = 0
    """Attempts on this generation whose outcome is unknown."""
    refusals: int = 0
    """`invalid_grant` answers on this generation."""
    first_refused_at: float | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """One connection to a provider, as stored. Tokens are sealed; `tokens` opens them."""

    name: str
    provider: str
    epoch: int
    """Rises with each new grant from a person; a late answer of an older epoch is dropped."""
    generation: int
    """Rises by one with each stored token set and never goes back for a name."""
    client_id: str
    """The OAuth client that minted the grant; it is renewed with that client only."""
    sealed_access: str | None
    sealed_refresh: str | None
    token_type: str
    scope: str
    issued_at: float
    expires_at: float
    """The provider's expiry by our clock."""
    refreshed_at: float
    created_at: float
    external_id: str | None = None
    """Who this is at the provider: Kit's account id, Kustomer's org id."""
    label: str | None = None
    subject: str | None = None
    """Who this is at the company."""
    org: str | None = None
    last_used_at: float | None = None
    frozen: Reason | None = None
    frozen_since: float | None = None
    dead: Reason | None = None
    dead_since: float | None = None
    removed_at: float | None = None
    intent: Intent | None = None
    trouble: Trouble = field(default_factory=Trouble)
    unusable: bool = False
    """The access token holds characters that no header can carry: stored, never served."""

    @property
    def life(self) -> float:
        """The access token's issued life in seconds, at least one."""
        return max(1.0, self.expires_at - self.issued_at)

    @property
    def status(self) -> Status:
        if self.dead:
            return Status.NEEDS_REAUTHORIZATION
        if self.frozen:
            return Status.FROZEN
        if self.trouble.ambiguous:
            return Status.UNCERTAIN
        # A provider that rejects fresh tokens (a lapsed plan) is a reason to show, not a failed renewal.
        if self.trouble.reason in (None, Reason.REJECTED):
            return Status.ACTIVE
        return Status.REFRESH_FAILING

    @property
    def ref(self) -> "Ref":
        return Ref(self.name, self.epoch, self.generation)

    @property
    def reason(self) -> Reason | None:
        without = Reason.NO_REFRESH_TOKEN if self.sealed_refresh is None else None
        return self.dead or self.frozen or self.trouble.reason or without

    @property
    def since(self) -> float | None:
        if self.dead:
            return self.dead_since
        return self.frozen_since if self.frozen else self.trouble.since

    def with_trouble(self, trouble: Trouble) -> Self:
        return replace(self, trouble=trouble)


class Permission(StrEnum):
    """What a caller may do; deny by default."""

    TOKEN = "token"
    REFRESH = "refresh"
    INSTALL = "install"
    ACCOUNTS = "accounts"
    MANAGE = "manage"
    PLUGIN = "plugin"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, and what they may touch."""

    name: str
    accounts: tuple[str, ...]
    """Globs over account names (fnmatchcase)."""
    permissions: frozenset[Permission]
    credential: str
    """Which key, JWT or uid, for the audit: never the secret itself."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a grant belongs to at the provider."""

    external_id: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """One generation of one grant of one account: what every change of a token is conditioned on."""

    name: str
    epoch: int
    generation: int


@dataclass(frozen=True, slots=True)
class Successor:
    """The token set that follows `parent`, sealed for generation `parent.generation + 1`."""

    parent: Ref
    sealed_access: str | None
    sealed_refresh: str | None
    token_type: str
    scope: str
    issued_at: float
    expires_at: float
    refreshed_at: float
    next_at: float | None
    """When the background should look at the account again."""
    unusable: bool


@dataclass(frozen=True, slots=True)
class Spare:
    """A refresh token that was received but is not the current one."""

    id: str
    account: str
    epoch: int
    generation: int
    """Of the token that was sent when this one came back."""
    sealed: str
    received_at: float


class EventKind(StrEnum):
    """Transitions that people and programs hear of."""

    CONNECTED = "connected"
    RENEWED = "renewed"
    REFRESH_FAILING = "refresh_failing"
    RECOVERED = "recovered"
    NEEDS_REAUTHORIZATION = "needs_reauthorization"
    DISCONNECTED = "disconnected"
    PROVIDER_REJECTED_CLIENT = "provider_rejected_client"
    BROKER_DEGRADED = "broker_degraded"
    BROKER_RECOVERED = "broker_recovered"


@dataclass(frozen=True, slots=True)
class Event:
    """Something changed, once."""

    at: float
    kind: EventKind
    account: str | None = None
    provider: str | None = None
    reason: str | None = None
    generation: int | None = None
    id: int = 0
    """Given by the store."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission to connect one account, spent by a successful callback; the link holds its secret."""

    hash: str
    provider: str
    account: str | None
    """None: the account is named after the provider's id."""
    org: str | None
    return_to: str | None
    replace: bool
    """Whether another identity may take the place of the one stored."""
    subject: str | None
    created_by: str
    expires_at: float
    spent_at: float | None = None


class InstallOutcome(StrEnum):
    """How an attempt to connect ended; a second visit shows it again."""

    CONNECTED = "connected"
    REFUSED = "refused"
    FAILED = "failed"
    CONFLICT = "conflict"
    IDENTITY_PENDING = "identity_pending"


@dataclass(frozen=True, slots=True)
class PendingInstall:
    """One trip to a provider and back: good once, for ten minutes, for one browser."""

    state_hash: str
    provider: str
    client_id: str
    browser_hash: str
    ticket_hash: str | None
    account: str | None
    org: str | None
    return_to: str | None
    kit_return_url: str | None
    replace: bool
    subject: str | None
    created_by: str
    sealed_verifier: str | None
    redirect_uri: str
    created_at: float
    expires_at: float
    taken_at: float | None = None
    outcome: InstallOutcome | None = None
    outcome_account: str | None = None


@dataclass(frozen=True, slots=True)
class PendingGrant:
    """A grant that lies sealed with its install until it is known whose it is."""

    install: PendingInstall
    sealed_access: str | None
    sealed_refresh: str | None
    token_type: str
    scope: str
    issued_at: float
    expires_at: float
    next_at: float | None
    """When the identity is asked for again; None: it never is."""


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """Somebody was sent to the company's app to sign in; good once, for ten minutes, for one browser."""

    challenge_hash: str
    browser_hash: str
    purpose: str
    payload: str
    """JSON for whoever asked for the sign-in."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class CallerKey:
    """One API key of a caller; only its hash is stored."""

    id: str
    caller: str
    hash: str
    created_at: float
    expires_at: float | None
    last_used_at: float | None = None


@dataclass(frozen=True, slots=True)
class CallerRecord:
    """A caller with keys, as stored."""

    name: str
    accounts: tuple[str, ...]
    permissions: frozenset[Permission]
    created_at: float
    keys: tuple[CallerKey, ...] = ()
