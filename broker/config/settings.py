"""What a valid configuration is: frozen values, every secret resolved, every path absolute, times in seconds.

A field with a `key` declares its own reading: default, limits and what an error says. The others need more than one
key, or the kind of provider, and are read in `sections`, `callers` and `providers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal, get_args

from broker.config.table import Table, key
from broker.config.values import (
    MOST_LIFE,
    OwnAlgorithm,
    claim_problem,
    endpoint_problem,
    origin_problem,
    plugin_scope_problem,
    pointer_problem,
    shown,
)
from broker.model import Permission, Secret


@dataclass(frozen=True, slots=True)
class TcpListen:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixListen:
    path: Path
    mode: int
    group: str | None

    def __str__(self) -> str:
        return str(self.path)


Listen = TcpListen | UnixListen


@dataclass(frozen=True, slots=True)
class Tls:
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ServerSettings:
    internal: tuple[Listen, ...]
    public: tuple[Listen, ...]
    public_url: str = field(metadata=key(Table.url, "http://127.0.0.1:8081", origin_problem))
    """Scheme and host only, no trailing slash."""
    internal_url: str
    """How operators reach the dashboard, in the same form."""
    admin_socket: Path = field(metadata=key(Table.path, "var/admin.sock"))
    admin_group: str | None = field(metadata=key(Table.text, None))
    internal_plaintext: bool
    internal_tls: Tls | None
    public_tls: Tls | None
    metrics_from: tuple[IPv4Network | IPv6Network, ...]
    audience: str = field(metadata=key(Table.text, "token-broker", claim_problem))
    """The `aud` that callers' JWTs must hold."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    """Whose X-Forwarded-For is believed."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    path: Path
    """The SQLite file. With PostgreSQL nothing lies here, but what a broker keeps locally lies beside it."""
    memory: int = field(metadata=key(Table.integer, 20_000, least=1))
    postgres: Secret | None
    """The address of a PostgreSQL database, which may hold a password; None: SQLite."""
    replica: str
    """This broker's name among several on one database."""
    outside: Path | None
    """A lasting folder that systemd gives besides the store's, for a witness of the incarnation."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """The master key in a file; a missing one is created 0600, for an empty store only."""

    path: Path
    created: bool = True
    """False for systemd credentials, which are never created here."""


@dataclass(frozen=True, slots=True)
class CommandKey:
    """The master key on the standard output of a command."""

    argv: tuple[str, ...]


MasterKey = FileKey | CommandKey


@dataclass(frozen=True, slots=True)
class RefreshSettings:
    ahead: float = field(metadata=key(Table.duration, "15m"))
    timeout: float = field(metadata=key(Table.duration, "75s", least=1))
    patience: float = field(metadata=key(Table.duration, "10s"))
    background: bool = field(metadata=key(Table.flag, True))
    idle_renewal: float = field(metadata=key(Table.duration, "5d"))
    """0: never."""


class Rotation(StrEnum):
    """How a provider treats a refresh token once it has been used."""

    NONE = "none"
    ON_USE = "on-use"
    """The old one lives until the new access token is first used (Doorkeeper's default)."""
    GRACE = "grace"
    STRICT = "strict"
    FAMILY = "family"
    """A replay revokes the whole grant."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How to reach the outside."""

    proxy: Secret | None = None
    """Its http address, which may hold a password; None: directly."""
    no_proxy: tuple[str, ...] = ()
    ca: str | None = None
    """Authorities to trust besides the system's, PEM."""

    @property
    def route(self) -> str:
        """The proxy's address as it may be shown; empty: none is configured."""
        shown = "" if self.proxy is None else self.proxy.reveal().rpartition("@")[2].removeprefix("http://")
        return shown and f"http://{shown}"


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """One client registration at a provider."""

    client_id: str
    secrets: tuple[Secret, ...]
    """None, one, or two while it is being replaced; the second is tried only after a definite refusal."""


@dataclass(frozen=True, slots=True)
class DeadError:
    """An error of a token endpoint that says that the grant is dead, exactly."""

    error: str
    description: str = ""
    """The description that has to stand beside the error; empty: any."""


Kind = Literal["kit", "kustomer", "oauth2"]
ClientAuth = Literal["post", "basic", "basic-raw", "none"]
ENDPOINT = key(Table.text, None, endpoint_problem, shown)


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    name: str
    type: Kind
    client: OAuthClient
    previous_clients: tuple[OAuthClient, ...]
    endpoints: Literal["app", "v4", "global", "org"] | None
    """None for oauth2."""
    app_id: int | None = field(metadata=key(Table.integer, None, least=1))
    open_install: bool = field(metadata=key(Table.flag, False))
    """These two of Kit alone, which has a page of its own and begins installs."""
    authorize_url: str | None = field(metadata=ENDPOINT)
    """Given: replaces the endpoint set. May hold `{org}`, as all URLs."""
    token_url: str | None = field(metadata=ENDPOINT)
    revoke_url: str | None = field(metadata=ENDPOINT)
    api_url: str | None = field(metadata=ENDPOINT)
    issuer: str | None = field(metadata=ENDPOINT)
    """The provider's `iss` (RFC 9207), where it is not at the origin of its addresses."""
    identity_url: str | None = field(metadata=ENDPOINT)
    identity_pointer: str | None = field(metadata=key(Table.text, None, pointer_problem("/account/id")))
    """JSON pointer (RFC 6901) to a stable id in the identity answer."""
    scopes: tuple[str, ...]
    authorize_params: Mapping[str, str]
    pkce: bool = field(metadata=key(Table.flag, True))
    client_auth: ClientAuth
    body: Literal["form", "json"] = field(metadata=key(Table.choice, ("form", "json"), "form"))
    default_expires_in: float
    default_is_stated: bool = field(compare=False)
    """`default_expires_in` stands in the configuration, and is not just the kind's usual one."""
    token_pointer: str | None = field(metadata=key(Table.text, None, pointer_problem("/data")))
    """JSON pointer to the object that holds the tokens."""
    token_type: Literal["Bearer"] | None = field(metadata=key(Table.choice, ("Bearer",), None))
    """What the provider's tokens are, whatever it says."""
    dead_errors: tuple[DeadError, ...]
    """Its own words for a dead grant."""
    rotation: Rotation
    grace: float | None
    """Seconds the old refresh token lives on, where rotation is `grace`."""
    network: NetworkSettings = NetworkSettings()


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """The company's own app, which signs people in and sends them back."""

    url: str
    key_pem: str
    """Its public key, PEM: Ed25519 or EC P-256."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A caller's own key; it alone fixes the algorithm."""

    pem: str
    algorithm: OwnAlgorithm


@dataclass(frozen=True, slots=True)
class OwnJwt:
    """Signs its own JWTs, with `iss` and `sub` its name."""

    keys: tuple[PublicKey, ...]
    """One, or two while one is being replaced."""


@dataclass(frozen=True, slots=True)
class IssuedJwt:
    """Has the JWTs of an issuer: a cluster's service accounts, any OIDC issuer."""

    issuer: str
    jwks_url: str
    subject: str
    audience: str | None
    """None: the server's."""


@dataclass(frozen=True, slots=True)
class PeerUid:
    """A user of this machine, on a Unix listener."""

    uid: int


Proof = OwnJwt | IssuedJwt | PeerUid


@dataclass(frozen=True, slots=True)
class CallerSettings:
    """A caller that the file names; those with keys are in the store."""

    name: str
    accounts: tuple[str, ...]
    """Globs over account names."""
    permissions: frozenset[Permission]
    proof: Proof


@dataclass(frozen=True, slots=True)
class PluginClient:
    """One client that signs in to us, as Kit does for its plugins."""

    name: str
    """Its table's."""
    title: str
    """What people call it."""
    client_id: str
    secrets: tuple[Secret, ...]
    """One, or two while it is being replaced; either is right."""
    redirect_uris: tuple[str, ...]
    scopes: tuple[str, ...] = field(metadata=key(Table.texts, (), plugin_scope_problem))
    """What it may ask for."""
    refresh_without_secret: bool = field(metadata=key(Table.flag, False))


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """The OAuth server for plugins."""

    access_ttl: float = field(metadata=key(Table.duration, "48h", least=60, most=MOST_LIFE))
    refresh_ttl: float = field(metadata=key(Table.duration, "365d", least=60, most=MOST_LIFE))
    clients: Mapping[str, PluginClient]


@dataclass(frozen=True, slots=True)
class AuditSettings:
    path: Path | None
    """None: to journald."""
    keep: float = field(metadata=key(Table.duration, "400d", least=86400))
    """Seconds that ended files are kept; the journal has its own rules."""


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    url: Secret
    """Some receivers know their senders by the address alone."""
    keys: tuple[bytes, ...] = field(repr=False)
    """What signs: one, or two while it is being replaced."""


@dataclass(frozen=True, slots=True)
class AlertSettings:
    webhook: WebhookSettings | None
    command: tuple[str, ...]
    """Empty: none."""


Format = Literal["json", "console", "auto"]
Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LogSettings:
    format: Format = field(metadata=key(Table.choice, get_args(Format), "auto"))
    level: Level = field(metadata=key(Table.choice, get_args(Level), "info"))


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    enabled: bool = field(metadata=key(Table.flag, False))
    listen: TcpListen
    demo: bool = field(metadata=key(Table.flag, False))


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration."""

    path: Path
    server: ServerSettings
    store: StoreSettings
    master: MasterKey
    previous_master: MasterKey | None
    """While the master is being replaced: what it wrapped is wrapped anew at start."""
    refresh: RefreshSettings
    providers: Mapping[str, ProviderSettings]
    login: LoginSettings | None
    plugin: PluginSettings | None
    """None: there is no OAuth server for plugins."""
    callers: Mapping[str, CallerSettings]
    audit: AuditSettings
    alerts: AlertSettings
    log: LogSettings
    sandbox: SandboxSettings
    network: NetworkSettings = NetworkSettings()
    """For everything that goes out but to a provider, which may have its own."""
    variables: frozenset[str] = frozenset()
    """The environment variables that secrets were read from."""
    warnings: tuple[str, ...] = ()
    """What is taken, and should be mended."""
