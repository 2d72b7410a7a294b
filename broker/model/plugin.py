"""Clients that sign in to us, and what we gave them: of every secret only a hash."""

from dataclasses import dataclass

FORGIVEN_FOR = 60.0
"""Seconds for which a replaced refresh token gives its successor again, unless that was used."""


@dataclass(frozen=True, slots=True)
class PluginConsent:
    """A person is being asked whether a client may act for them; good once, for ten minutes, in one browser."""

    hash: str
    browser_hash: str
    client: str
    """The name of its table in the configuration."""
    redirect_uri: str
    redirect_uri_given: bool
    """Whether the client named it, and so has to name it again with the code (RFC 6749 4.1.3)."""
    state: str | None
    scope: str
    challenge: str | None
    """S256 code challenge (RFC 7636)."""
    subject: str | None
    """None: whoever types a connect code is the one it was made for."""
    expires_at: float
    tries: int = 0
    """Wrong connect codes typed here."""


@dataclass(frozen=True, slots=True)
class ConnectCode:
    """Says who a person is, where no app of the company can; good once."""

    handle: str
    """Its first characters, by which it is found; wrong tries are counted against it."""
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
    """What it was redeemed for."""


@dataclass(frozen=True, slots=True)
class RememberedPerson:
    """Who has just said yes in this browser, for the install that follows within minutes."""

    hash: str
    browser_hash: str
    subject: str
    code_hash: str
    """The plugin half of the same install."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class PluginGrant:
    """What a person allowed a client, over all its renewals."""

    id: str
    client: str
    subject: str
    scope: str
    created_at: float
    last_used_at: float
    expires_at: float
    """When its refresh token dies of idleness."""
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
    """The access token's; the refresh token keeps the grant's (RFC 6749 6)."""
    created_at: float
    access_expires_at: float
    refresh_expires_at: float
    used_at: float | None = None
    """When either of them was first presented."""
    replaced_at: float | None = None
    replaced_by: str | None = None
    """The refresh hash of its successor."""
    sealed_next: str | None = None
    """The successor in full, under a key that only this pair's refresh token gives."""


@dataclass(frozen=True, slots=True)
class FoundPair:
    """A pair with its grant, and when its successor was first presented."""

    pair: PluginPair
    grant: PluginGrant
    next_used_at: float | None = None
