"""The settings that a valid configuration gives: frozen values, with secrets read, paths absolute, times in seconds.

A field that is a key of the file declares it: with `key` how it is read (default, limits and what an error says), with
`form` only its form and default, because its reading needs more than one key and is done in `sections` or
`named_tables`. The text below a field is its meaning in docs/configuration.md, which is generated from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal, get_args

from broker.config.secrets import FORMS
from broker.config.table import TWO_SECRETS, Table, form, key
from broker.config.values import (
    MOST_LIFE,
    Listen,
    OwnAlgorithm,
    TcpListen,
    Tls,
    claim_problem,
    endpoint_problem,
    origin_problem,
    plugin_scope_problem,
    pointer_problem,
    shown,
)
from broker.model import Permission, Secret

LISTEN = '"host:port", { path = "…", mode = "0660", group = "…" }, or a list of them'
TLS = '{ cert = "PATH", key = "PATH" }'
NETWORKS = 'addresses or networks, as in "10.0.0.0/8"'
MASTER = '{ file = "PATH" }, { credential = "NAME" } or { command = ["…"] }'
COMMAND = 'a list as in ["/usr/local/bin/page"]: a program and its arguments, no shell'
PROXY = '"http://host:port" (http://user:password@… as a secret), "environment" or "none"'
DEAD_ERROR = 'words, or tables { error = "…", description = "…" }'


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The table `[server]`: listeners and addresses."""

    internal: tuple[Listen, ...] = field(metadata=form(LISTEN, '"127.0.0.1:8080"'))
    """The addresses for services. One beyond loopback needs `internal_tls` or `internal_plaintext`."""
    public: tuple[Listen, ...] = field(metadata=form(LISTEN, '"127.0.0.1:8081"'))
    """The addresses for browsers, usually behind a reverse proxy."""
    public_url: str = field(metadata=key(Table.url, "http://127.0.0.1:8081", origin_problem))
    """The address by which browsers reach `public`: scheme and host only, https unless loopback. Redirect URIs
    and links begin with it; several brokers on one database have the same."""
    internal_url: str = field(metadata=form("an address", "that of `internal`"))
    """The address by which operators reach the dashboard, in the same form."""
    admin_socket: Path = field(metadata=key(Table.path, "var/admin.sock"))
    """The socket of the command line; its users are operators. `BROKER_ADMIN_SOCKET` names another for a command."""
    admin_group: str | None = field(metadata=key(Table.text, None))
    """The group whose members are operators; the socket then has mode 0660."""
    internal_plaintext: bool = field(metadata=form("true or false", "false"))
    """Set it where something else encrypts an internal listener beyond loopback."""
    internal_tls: Tls | None = field(metadata=form(TLS))
    """PEM files for TLS on `internal`: the certificate with its chain, and a key (0600, 0640) without a passphrase."""
    public_tls: Tls | None = field(metadata=form(TLS))
    """The same for `public`."""
    metrics_from: tuple[IPv4Network | IPv6Network, ...] = field(metadata=form(NETWORKS, "[]"))
    """The addresses that may read `/metrics` without a key."""
    audience: str = field(metadata=key(Table.text, "token-broker", claim_problem))
    """The `aud` that callers' JWTs must hold, unless the caller has an `audience` of its own."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = field(metadata=form(NETWORKS, "[]"))
    """The reverse proxies whose `X-Forwarded-For` gives the client's address: the rightmost one that is not itself a
    trusted proxy, for the log, the audit and `metrics_from`. Scheme and host come from `public_url` alone."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The table `[store]`: the database."""

    path: Path = field(
        metadata=form('"sqlite:PATH" or "postgresql://…"', '"sqlite:var/broker.db"', name="url")
    )
    """The store: an SQLite file, or a PostgreSQL database for several brokers side by side, as in
    `"postgresql://user@host/database"` with libpq's parameters; with a password as a secret."""
    # With PostgreSQL nothing is stored at `path`, but the broker's own files are stored next to it.
    memory: int = field(metadata=key(Table.integer, 20_000, least=1))
    """The largest number of accounts whose answers are cached."""
    postgres: Secret | None = field(metadata={"name": "url"})  # None: the store is SQLite
    replica: str = field(metadata=form("a name of 1 to 200 characters", 'host and port, as in `"db1:8080"`'))
    """This broker's name among several on one database; a second broker of one name does not start."""
    outside: Path | None  # systemd's folder for logs, for a second witness of the store's incarnation


@dataclass(frozen=True, slots=True)
class FileKey:
    """A master key in a file; a missing one is created 0600, for an empty store only."""

    path: Path
    created: bool = True
    """False for a credential of systemd, which the broker never creates."""


@dataclass(frozen=True, slots=True)
class CommandKey:
    """A master key that a command prints."""

    argv: tuple[str, ...]


MasterKey = FileKey | CommandKey


@dataclass(frozen=True, slots=True)
class RefreshSettings:
    """The table `[refresh]`: when and how tokens are renewed."""

    ahead: float = field(metadata=key(Table.duration, "15m"))
    """The window before a token's expiry in which it is renewed; at most a third of its lifetime."""
    timeout: float = field(metadata=key(Table.duration, "75s", least=1))
    """The limit for one whole token request, at most 10m. On PostgreSQL a renewal's lease is this and 45 seconds."""
    patience: float = field(metadata=key(Table.duration, "10s"))
    """The time that a caller waits for a renewal when no valid token is left."""
    background: bool = field(metadata=key(Table.flag, True))
    """Renew tokens that are in use before anybody has to wait."""
    idle_renewal: float = field(metadata=key(Table.duration, "5d"))
    """Renew unused grants at least this often, because some providers end a grant that is not used; `"0s"`: never."""


class Rotation(StrEnum):
    """What a provider does with a used refresh token."""

    NONE = "none"
    ON_USE = "on-use"
    """It is valid until the new access token is first used (Doorkeeper's default)."""
    GRACE = "grace"
    STRICT = "strict"
    FAMILY = "family"
    """Its reuse revokes the whole grant."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """The way to the outside: to providers, issuers of callers' JWTs and the webhook."""

    proxy: Secret | None = field(default=None, metadata=form(PROXY, '"none"'))
    """An http proxy that is asked for a tunnel (`CONNECT`); `user:password@` only as a secret. `"environment"` takes
    `HTTPS_PROXY`, else `ALL_PROXY`, and `NO_PROXY`. Addresses of this machine are reached directly."""
    no_proxy: tuple[str, ...] = field(
        default=(), metadata=form('a list of ".example.com", "10.0.0.0/8", "host:port" or "*"', "[]")
    )
    """The hosts that are reached without the proxy."""
    ca: str | None = field(default=None, metadata=form("a path", name="ca_file"))
    """A file of certificate authorities (PEM) that are trusted besides the system's."""

    @property
    def route(self) -> str:
        """The proxy's address without its password; empty if none is configured."""
        shown = "" if self.proxy is None else self.proxy.reveal().rpartition("@")[2].removeprefix("http://")
        return shown and f"http://{shown}"


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """One client registration at a provider."""

    client_id: str = field(metadata=form("a string", "required"))
    """The id of the app at the provider."""
    secrets: tuple[Secret, ...] = field(metadata=form(TWO_SECRETS, name="client_secret"))
    """The secret of the app; two while it is being replaced: the second is tried only after a definite refusal."""


@dataclass(frozen=True, slots=True)
class DeadError:
    """An error of a token endpoint that means that the grant is revoked or expired."""

    error: str
    description: str = ""
    """The description that must come with the error; empty if any may."""


Kind = Literal["kit", "kustomer", "oauth2"]
ClientAuth = Literal["post", "basic", "basic-raw", "none"]
ENDPOINT = key(Table.text, None, endpoint_problem, shown)
INLINE = {"inline": True}
"""The metadata of a field whose own fields are keys of the same table of the file."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider. An address that is given replaces that of `endpoints`; `{org}` in it becomes the organisation."""

    name: str
    type: Kind = field(metadata=form('"kit", "kustomer" or "oauth2"', "the table's name"))
    """What the provider is: `oauth2` is any RFC 6749 provider, by configuration alone."""
    client: OAuthClient = field(metadata=INLINE)
    previous_clients: tuple[OAuthClient, ...] = field(
        metadata=form('a list of { client_id = "…", client_secret = … }', "[]")
    )
    """Former apps at the provider. Each grant is renewed with the client that obtained it, until none of the old
    client's is left."""
    endpoints: Literal["app", "v4", "global", "org"] | None = field(
        metadata=form('"app" or "v4" (kit); "global" or "org" (kustomer)', "by type")
    )
    """The provider's addresses. Kit: app.kit.com, or api.kit.com/v4/oauth. Kustomer: api.apps.kustomerapp.com, or
    {org}.kustomerapp.com, for which each link names the organisation."""
    app_id: int | None = field(metadata=key(Table.integer, None, least=1))
    """Kit only: the app's number, for links to Kit's own page."""
    open_install: bool = field(metadata=key(Table.flag, False))
    """Kit only: accept installs that begin at Kit without `[login]`."""
    authorize_url: str | None = field(metadata=ENDPOINT)
    """The authorization endpoint; required for `oauth2`."""
    token_url: str | None = field(metadata=ENDPOINT)
    """The token endpoint; required for `oauth2`."""
    revoke_url: str | None = field(metadata=ENDPOINT)
    """The revocation endpoint (RFC 7009)."""
    api_url: str | None = field(metadata=ENDPOINT)
    """The address of the provider's API."""
    issuer: str | None = field(metadata=ENDPOINT)
    """The `iss` of the provider's authorization responses (RFC 9207). Without it any is accepted at the host of
    `authorize_url` or `token_url`, or above."""
    identity_url: str | None = field(metadata=ENDPOINT)
    """An address that answers whose token it is. `oauth2` needs it together with `identity_pointer`."""
    identity_pointer: str | None = field(metadata=key(Table.text, None, pointer_problem("/account/id")))
    """The JSON pointer (RFC 6901) to a stable id in that answer."""
    scopes: tuple[str, ...] = field(metadata=form("a list of strings", "by type"))
    """The scopes that are asked for."""
    authorize_params: Mapping[str, str] = field(metadata=form("a table of strings", "{}"))
    """Further parameters of the authorization request, as in `{ prompt = "consent" }`."""
    pkce: bool = field(metadata=key(Table.flag, True))
    """Use PKCE with S256 (RFC 7636)."""
    client_auth: ClientAuth = field(
        metadata=form('"post", "basic", "basic-raw" or "none"', '`"post"`; `"none"` without a secret')
    )
    """How the client authenticates at the token endpoint. `basic-raw` does not form-encode the credentials."""
    body: Literal["form", "json"] = field(metadata=key(Table.choice, ("form", "json"), "form"))
    """The encoding of token requests."""
    default_expires_in: float = field(metadata=form("a duration or a number of seconds", "by type"))
    """A token's lifetime where the provider does not state it. A configured one counts as stated."""
    default_is_stated: bool = field(compare=False)  # the file has `default_expires_in`
    token_pointer: str | None = field(metadata=key(Table.text, None, pointer_problem("/data")))
    """The JSON pointer to the object with the tokens, or to the access token; without it they are searched."""
    token_type: Literal["Bearer"] | None = field(metadata=key(Table.choice, ("Bearer",), None))
    """The type of the provider's tokens, whatever it says itself."""
    dead_errors: tuple[DeadError, ...] = field(metadata=form(DEAD_ERROR, "[]"))
    """The provider's own errors for a grant that is revoked or expired: see below."""
    rotation: Rotation = field(metadata=form('"none", "on-use", "grace", "strict" or "family"', "by type"))
    """What happens to a used refresh token: it stays valid (`none`), ends when the new access token is first used
    (`on-use`), ends after `grace`, ends at once (`strict`), or its reuse revokes the whole grant (`family`)."""
    grace: float | None = field(metadata=form("a duration of at least 1 s", '"10s"'))
    """How long a used refresh token stays valid; only with `rotation = "grace"`."""
    network: NetworkSettings = field(default=NetworkSettings(), metadata=INLINE)


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """The company's own app, which signs users in and sends them back."""

    url: str = field(metadata=form("an https address", "required"))
    """The page of your app that signs users in; it gets `login_challenge`."""
    key_pem: str = field(metadata=form(FORMS, "required", name="key"))
    """The public key that verifies your app's answers, PEM: Ed25519 or EC P-256."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public key of a caller, which alone determines the algorithm."""

    pem: str
    algorithm: OwnAlgorithm


@dataclass(frozen=True, slots=True)
class OwnJwt:
    """The caller signs its own JWTs, with its name as `iss` and `sub`."""

    keys: tuple[PublicKey, ...] = field(metadata=form(TWO_SECRETS, name="public_key"))
    """The public key of a caller that signs its own JWTs, PEM: Ed25519 or EC P-256; two while it is being replaced."""


@dataclass(frozen=True, slots=True)
class IssuedJwt:
    """The caller presents JWTs of an issuer: a cluster's service accounts, any OIDC issuer."""

    issuer: str = field(metadata=form("a string"))
    """The `iss` of the JWTs that an issuer makes for this caller; needs `jwks_url` and `subject`."""
    jwks_url: str = field(metadata=form("an https address"))
    """The only address from which the issuer's keys are fetched; callers of one issuer name the same."""
    subject: str = field(metadata=form("a string"))
    """The `sub` of the JWTs."""
    audience: str | None = field(metadata=form("a string", "that of `server.audience`"))
    """The `aud` of the JWTs."""


@dataclass(frozen=True, slots=True)
class PeerUid:
    """The caller is a user of this machine, on a Unix listener."""

    uid: int = field(metadata=form("a user id"))
    """The user of this machine who calls on a Unix listener in `server.internal`; no header is needed."""


Proof = OwnJwt | IssuedJwt | PeerUid


@dataclass(frozen=True, slots=True)
class CallerSettings:
    """A caller in the configuration; callers with keys are in the store."""

    name: str
    accounts: tuple[str, ...] = field(metadata=form("a list of globs", "[]"))
    """The account names that the caller may touch, as in `["kit-*", "acme"]`."""
    permissions: frozenset[Permission] = field(metadata=form(f"some of {', '.join(Permission)}", '["token"]'))
    """What the caller may do. No permission implies another."""
    proof: Proof = field(metadata=INLINE)


@dataclass(frozen=True, slots=True)
class PluginClient:
    """A client that signs in to the broker, as Kit does for its plugins."""

    name: str
    title: str = field(metadata=form("at most 80 characters", "the table's name", name="name"))
    """The client's name on the consent page."""
    client_id: str = field(metadata=form("visible ASCII characters, at most 255", "required"))
    """The id that you choose and enter at the client."""
    secrets: tuple[Secret, ...] = field(metadata=form(TWO_SECRETS, "required", name="client_secret"))
    """The secret that you choose and enter at the client; two while it is being replaced: either is accepted."""
    redirect_uris: tuple[str, ...] = field(metadata=form("a list of https addresses", "required"))
    """The addresses to which a browser may be sent back, compared character by character."""
    scopes: tuple[str, ...] = field(metadata=key(Table.texts, (), plugin_scope_problem))
    """The scopes that the client may ask for."""
    refresh_without_secret: bool = field(metadata=key(Table.flag, False))
    """Accept a renewal that names the client id alone; Kit sends no secret there."""


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """The OAuth server for plugins."""

    enabled: bool = field(metadata=key(Table.flag, True))
    """False: there is no OAuth server for plugins, as without the table."""
    access_ttl: float = field(metadata=key(Table.duration, "48h", least=60, most=MOST_LIFE))
    """The lifetime of an access token."""
    refresh_ttl: float = field(metadata=key(Table.duration, "365d", least=60, most=MOST_LIFE))
    """How long a grant may be unused; each renewal begins it anew. At least `access_ttl`."""
    clients: Mapping[str, PluginClient]


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """The table `[audit]`: the record of who got which token."""

    path: Path | None = field(
        metadata=form(
            '"journald" or { path = "PATH" }', '`audit.jsonl`, or `"journald"` under systemd', name="to"
        )
    )
    """Where the audit is written."""
    keep: float = field(metadata=key(Table.duration, "400d", least=86400))
    """How long ended audit files are kept; the journal has its own rules."""


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """The webhook in `[alerts]`."""

    # A secret, because some receivers authenticate their senders by the address alone.
    url: Secret = field(metadata=form("an https address", name="webhook_url"))
    """The address that gets a POST for each event but `renewed` (Standard Webhooks); http only on loopback."""
    keys: tuple[bytes, ...] = field(repr=False, metadata=form(TWO_SECRETS, name="webhook_secret"))
    """The secret that signs them: a text, or `whsec_<base64>`; with two there are two signatures."""


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """The table `[alerts]`: who is notified of events."""

    webhook: WebhookSettings | None = field(metadata=INLINE)
    command: tuple[str, ...] = field(metadata=form(COMMAND))
    """A program that is run for each event but `renewed`, with the event on standard input."""


Format = Literal["json", "console", "auto"]
Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The table `[log]`: form and level of the log."""

    format: Format = field(metadata=key(Table.choice, get_args(Format), "auto"))
    """The form of the log; `auto` is `console` on a terminal, else `json`."""
    level: Level = field(metadata=key(Table.choice, get_args(Level), "info"))
    """The least severe level that is logged."""


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """The table `[sandbox]`: the stand-in for providers."""

    enabled: bool = field(metadata=key(Table.flag, False))
    """Play Kit, Kustomer and your app, next to the broker."""
    listen: TcpListen = field(metadata=form('"host:port"', '"127.0.0.1:8089"'))
    """The address of the sandbox."""
    demo: bool = field(metadata=key(Table.flag, False))
    """Connect the accounts `demo-kit` and `demo-kustomer` at the start."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration."""

    path: Path
    server: ServerSettings
    store: StoreSettings
    master: MasterKey = field(metadata=form(MASTER, '{ file = "var/master.key" }', name="keys.master"))
    """The master key, which encrypts the data keys. A missing file is created, for an empty store only; a command
    prints the key within ten seconds. Make one with `openssl rand -base64 32`, and keep a copy apart from the store."""
    previous_master: MasterKey | None = field(metadata=form(MASTER, name="keys.previous"))
    """The former master key, while it is being replaced: the data keys are encrypted anew at the start."""
    refresh: RefreshSettings
    providers: Mapping[str, ProviderSettings]
    login: LoginSettings | None
    plugin: PluginSettings | None
    """None if there is no OAuth server for plugins."""
    callers: Mapping[str, CallerSettings]
    audit: AuditSettings
    alerts: AlertSettings
    log: LogSettings
    sandbox: SandboxSettings
    network: NetworkSettings = NetworkSettings()
    """For all outgoing requests, except those to a provider with keys of its own."""
    variables: frozenset[str] = frozenset()
    """The environment variables from which secrets were read."""
    warnings: tuple[str, ...] = ()
    """Sentences about values that are accepted but should be corrected."""
