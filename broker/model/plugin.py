"""The records of the OAuth server for plugins. Of every secret only a hash is stored."""

from dataclasses import dataclass

FORGIVEN_FOR = 60.0
"""Seconds for which a replaced refresh token still returns its successor, unless the successor was used."""


@dataclass(frozen=True, slots=True)
class PluginConsent:
    """A consent page that was shown to a user: valid once, for ten minutes, in one browser."""

    hash: str
    browser_hash: str
    client: str
    """The name of the client's table in the configuration."""
    redirect_uri: str
    redirect_uri_given: bool
    """True if the client sent it, and so has to send it again with the code (RFC 6749 4.1.3)."""
    state: str | None
    scope: str
    challenge: str | None
    """S256 code challenge (RFC 7636)."""
    subject: str | None
    """None: unknown until the user types a connect code."""
    expires_at: float
    tries: int = 0
    """The number of wrong connect codes typed on the page."""


@dataclass(frozen=True, slots=True)
class ConnectCode:
    """A code that identifies a user if the company has no app to sign in to. Valid once."""

    handle: str
    """The first characters, by which the code is found; wrong tries are counted for it."""
    digest: str
    subject: str
    created_by: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class PluginCode:
    """An authorization code (RFC 6749 4.1.2)."""

    hash: str
    client: str
    subject: str
    redirect_uri: str | None
    scope: str
    challenge: str | None
    expires_at: float
    grant_id: str | None = None
    """The grant for which the code was redeemed."""


@dataclass(frozen=True, slots=True)
class RememberedPerson:
    """A user who has just given consent in this browser, for the install that follows within minutes."""

    hash: str
    browser_hash: str
    subject: str
    code_hash: str
    """The authorization code of the plugin in the same install."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class PluginGrant:
    """The grant that a user gave to a client, with all its renewals."""

    id: str
    client: str
    subject: str
    scope: str
    created_at: float
    last_used_at: float
    expires_at: float
    """The time when its refresh token expires if it is not used."""
    code_hash: str
    account: str | None = None
    """The account that was connected in the same install."""
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class PluginPair:
    """An access token and the refresh token that came with it."""

    refresh_hash: str
    access_hash: str
    grant_id: str
    scope: str
    """The scope of the access token; the refresh token keeps the grant's (RFC 6749 6)."""
    created_at: float
    access_expires_at: float
    refresh_expires_at: float
    used_at: float | None = None
    """The time when either token was first presented."""
    replaced_at: float | None = None
    replaced_by: str | None = None
    """The refresh hash of the pair that replaced this one."""
    sealed_next: str | None = None
    """The successor's tokens, encrypted with a key that is derived from this pair's refresh token."""


@dataclass(frozen=True, slots=True)
class FoundPair:
    """A token pair with its grant, and when its successor was first presented."""

    pair: PluginPair
    grant: PluginGrant
    next_used_at: float | None = None
