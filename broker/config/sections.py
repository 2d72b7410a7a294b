"""Reads all tables but providers, callers and plugin: the keys that need more than their declarations in `settings`."""

import base64
import binascii
import ipaddress
import re
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from broker.config.secrets import SecretMissing, text_of
from broker.config.settings import (
    COMMAND,
    LISTEN,
    MASTER,
    NETWORKS,
    PROXY,
    TLS,
    AlertSettings,
    AuditSettings,
    CommandKey,
    FileKey,
    LoginSettings,
    MasterKey,
    NetworkSettings,
    RefreshSettings,
    SandboxSettings,
    ServerSettings,
    StoreSettings,
    WebhookSettings,
)
from broker.config.table import Table, quoted
from broker.config.values import (
    HOST_AND_PORT,
    PEM,
    Listen,
    TcpListen,
    Tls,
    UnixListen,
    algorithm_of,
    internal_origin_problem,
    is_loopback,
    matching,
    page_problem,
    shown,
)
from broker.files import read_regular
from broker.model import Secret

MOST_TIMEOUT = 600.0
POSTGRES = re.compile(r"postgres(ql)?://.+", re.DOTALL)
WEBHOOK_SECRET = "whsec_"  # noqa: S105 - the prefix of one
VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
OTHER_PROXIES = frozenset({"https", "socks", "socks4", "socks4a", "socks5", "socks5h"})
PROXY_URL = re.compile(
    r"http://([!-~]*@)?([A-Za-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?/?", re.ASCII | re.IGNORECASE
)
NO_PROXY = re.compile(r"[A-Za-z0-9.*:/\[\]_-]+", re.ASCII)
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_server(table: Table) -> ServerSettings:
    """Return the settings of `[server]`."""
    internal = _listens(table, "internal", "127.0.0.1:8080")
    public = _listens(table, "public", "127.0.0.1:8081")
    plaintext, tls = table.flag("internal_plaintext", False), _tls(table, "internal_tls")
    open_listens = [one for one in internal if isinstance(one, TcpListen) and not is_loopback(one.host)]
    if open_listens and not (plaintext or tls):
        table.wrong(
            "internal",
            quoted(str(open_listens[0])),
            "loopback, or server.internal_tls, or server.internal_plaintext = true if something else encrypts it",
        )
    first = next((one for one in internal if isinstance(one, TcpListen)), TcpListen("127.0.0.1", 8080))
    proxies = _networks(table, "trusted_proxies")
    if any(network.prefixlen == 0 for network in proxies):
        # Then every client could choose the address that limits, log and audit see.
        table.wrong("trusted_proxies", "a network of all addresses", "the addresses of your own proxies")
    return table.section(
        ServerSettings,
        internal=internal,
        public=public,
        internal_url=table.url(
            "internal_url", f"{'https' if tls else 'http'}://{first}", internal_origin_problem
        ),
        internal_plaintext=plaintext,
        internal_tls=tls,
        public_tls=_tls(table, "public_tls"),
        metrics_from=_networks(table, "metrics_from"),
        trusted_proxies=proxies,
    )


def _listens(table: Table, key: str, usual: str) -> tuple[Listen, ...]:
    value = table.raw(key, usual)
    found = [_listen(one, table.folder) for one in (value if isinstance(value, list) else [value])]
    if not found or None in found:
        table.wrong(key, quoted(value) if isinstance(value, str) else "something else", LISTEN)
    return tuple(one for one in found if one is not None)


def _listen(value: object, folder: Path) -> Listen | None:
    match value:
        case str() if (form := HOST_AND_PORT.fullmatch(value)) and int(form[2]) <= 65535:
            host = form[1].strip("[]")
            with suppress(ValueError):
                if host != "localhost":
                    ipaddress.ip_address(host)
                return TcpListen(host, int(form[2]))
        case {"path": str(path), **rest} if path and set(rest) <= {"mode", "group"}:
            mode, group = rest.get("mode", "0660"), rest.get("group")
            if isinstance(mode, str) and re.fullmatch(r"0?[0-7]{3}", mode) and isinstance(group, str | None):
                return UnixListen(folder / path, int(mode, 8), group)
    return None


def _tls(table: Table, key: str) -> Tls | None:
    match table.raw(key):
        case None:
            return None
        case {"cert": str(cert), "key": str(private), **rest} if not rest:
            return Tls(table.folder / cert, table.folder / private)
        case _:
            table.wrong(key, "something else", TLS)
            return None


def _networks(table: Table, key: str) -> tuple[IPNetwork, ...]:
    networks = []
    for text in table.texts(key):
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:
            table.wrong(key, quoted(text), NETWORKS)
    return tuple(networks)


def read_store(table: Table, server: ServerSettings) -> StoreSettings:
    """Return the settings of `[store]`."""
    value = table.raw("url", "sqlite:var/broker.db")
    secret = table.resolve("url", value) if isinstance(value, dict) else None
    url = secret.reveal() if secret else value if isinstance(value, str) else ""
    kind, _, rest = url.partition(":")
    postgres = Secret(url) if POSTGRES.fullmatch(url) else None
    if not isinstance(value, str | dict) or (
        url and postgres is None and (kind != "sqlite" or not Path(rest).name or rest.startswith("//"))
    ):
        rest = ""
        found = quoted(shown(url)) if isinstance(value, str) else "something else"
        table.wrong("url", found, '"sqlite:PATH" or "postgresql://user@host/database"')
    if postgres is None and not rest.isprintable():
        table.wrong("url", "a path with odd characters", "printable ones")
        rest = ""
    # The machine and the port, which two brokers on it cannot share.
    first = server.internal[0] if server.internal else None
    usual = f"{socket.gethostname()}:{first.port if isinstance(first, TcpListen) else first}"
    replica = table.text(
        "replica",
        usual,
        lambda name: None if 0 < len(name) <= 200 and name.isprintable() else "a name of 1 to 200 characters",
        shown,
    )
    own = Path("var", f"postgres-{re.sub(r'[^A-Za-z0-9.-]', '_', replica)}")
    logs = table.environ.get("LOGS_DIRECTORY", "").partition(":")[0]
    return table.section(
        StoreSettings,
        path=table.folder / (own if postgres else rest or "var/broker.db"),
        postgres=postgres,
        replica=replica,
        outside=Path(logs) if logs else None,
    )


def read_masters(table: Table) -> tuple[MasterKey, MasterKey | None]:
    """Return the master key of `[keys]`, and the former one that it replaces."""
    usual = "var/master.key"
    master, previous = _master(table, "master", {"file": usual}), _master(table, "previous", None)
    table.done()
    if previous is not None and previous == master:
        table.wrong("previous", "the same as keys.master", "the one that keys.master replaces")
    return master or FileKey(table.folder / usual), previous


def _master(table: Table, key: str, usual: object) -> MasterKey | None:
    match table.raw(key, usual):
        case None:
            return None
        case {"file": str(path), **rest} if path and not rest:
            return FileKey(table.folder / path)
        case {"credential": str(name), **rest} if not rest:
            try:
                return FileKey(table.sources.credential(name), created=False)
            except SecretMissing as exc:
                table.wrong(key, str(exc).split(";", 1)[0], "to run under systemd with LoadCredential=")
        case {"command": [*words], **rest} if (
            words and not rest and all(isinstance(word, str) for word in words)
        ):
            return CommandKey(tuple(str(word) for word in words))
        case _:
            table.wrong(key, "something else", MASTER)
    return None


def read_refresh(table: Table) -> RefreshSettings:
    """Return the settings of `[refresh]`."""
    settings = table.section(RefreshSettings)
    if settings.timeout > MOST_TIMEOUT:
        table.wrong("timeout", f"{settings.timeout:g} s", "at most 10m: nobody else can renew meanwhile")
    return settings


def read_login(table: Table) -> LoginSettings | None:
    """Return the settings of `[login]`, or None if its key cannot be read."""
    url = table.text("url", check=page_problem, shown=shown)
    key = table.raw("key")
    if key is None:
        table.wrong("key", "nothing", '{ file = "login.pem" }, the public key of your app')
    pem = None if key is None else table.resolve("key", key, private=False)
    table.done()
    if pem is not None and algorithm_of(pem.reveal()) is None:
        table.wrong("key", "no public key", PEM)
    return None if pem is None else LoginSettings(url, pem.reveal())


def read_audit(table: Table, store: Path) -> AuditSettings:
    """Return the settings of `[audit]`; a file is next to the store by default."""
    under_systemd = "JOURNAL_STREAM" in table.environ or "INVOCATION_ID" in table.environ
    path: Path | None = None
    match table.raw("to", "journald" if under_systemd else {"path": str(store.with_name("audit.jsonl"))}):
        case "journald":
            pass
        case {"path": str(given), **rest} if given and not rest:
            path = table.folder / given
        case _:
            table.wrong("to", "something else", '"journald" or { path = "var/audit.jsonl" }')
    return table.section(AuditSettings, path=path)


def read_sandbox(table: Table) -> SandboxSettings:
    """Return the settings of `[sandbox]`."""
    listens = _listens(table, "listen", "127.0.0.1:8089")
    listen = listens[0] if listens and isinstance(listens[0], TcpListen) else None
    if listen is None or len(listens) != 1:
        table.wrong("listen", "something else", '"host:port"')
    return table.section(SandboxSettings, listen=listen or TcpListen("127.0.0.1", 8089))


def read_alerts(table: Table) -> AlertSettings:
    """Return the settings of `[alerts]`."""
    url = table.text("webhook_url", None, page_problem, shown)
    given = table.secrets("webhook_secret", ascii_only=False)
    command: tuple[str, ...] = ()
    if table.has("command"):
        command = table.texts("command")
        if not command or not command[0] or any("\0" in word for word in command):
            table.wrong("command", "an empty program, or a NUL", COMMAND)
        elif "/" in command[0]:
            # Relative to the file, like every path in it; a bare name is looked up in $PATH.
            command = (str(table.folder / command[0]), *command[1:])
    if table.has("webhook_url") and not table.has("webhook_secret"):
        table.wrong("webhook_secret", "nothing", "the secret that signs what webhook_url is sent")
    if table.has("webhook_secret") and not table.has("webhook_url"):
        table.wrong("webhook_url", "nothing", "the address that webhook_secret is for")
    keys = tuple(key for secret in given if (key := _webhook_key(table, secret.reveal())) is not None)
    table.knows("command")
    table.done()
    return AlertSettings(WebhookSettings(Secret(url), keys) if url and keys else None, command)


def _webhook_key(table: Table, text: str) -> bytes | None:
    """Return the bytes to sign with: base64 after `whsec_` (Standard Webhooks), else the text itself."""
    if not text.startswith(WEBHOOK_SECRET):
        return text.encode()
    key = b""
    with suppress(binascii.Error):
        key = base64.b64decode(text.removeprefix(WEBHOOK_SECRET), validate=True)
    if not key:
        table.wrong("webhook_secret", "whsec_ and no valid base64 after it", "whsec_<base64>, or plain text")
    return key or None


def read_network(table: Table, usual: NetworkSettings | None = None) -> NetworkSettings:
    """Return the settings of `[network]`, or of the same keys of a provider; `usual` has their defaults."""
    usual = usual or NetworkSettings()
    proxy, no_proxy, ca = usual.proxy, usual.no_proxy, usual.ca
    if table.has("proxy"):
        proxy, no_proxy = _proxy(table)
    if table.has("no_proxy"):
        expected = 'names, addresses and networks, as in ".example.com"'
        no_proxy = table.texts("no_proxy", (), matching(NO_PROXY, expected))
    if table.has("ca_file"):
        ca = _authorities(table)
    table.knows("proxy", "no_proxy", "ca_file")
    return NetworkSettings(proxy, no_proxy, ca)


def _proxy(table: Table) -> tuple[Secret | None, tuple[str, ...]]:
    value, environ = table.raw("proxy"), table.environ
    if value == "none":
        return None, ()
    name = None
    if value == "environment":
        given = {one: environ.get(one, "").strip() for one in VARIABLES}
        name = next((one for one in VARIABLES if given[one]), None)
        exempt = environ.get("no_proxy", "").strip(", \t") or environ.get("NO_PROXY", "")
        no_proxy = tuple(one for one in re.split(r"[,\s]+", exempt) if one)
        if name is None:
            return None, no_proxy
        url = given[name] if "://" in given[name] else f"http://{given[name]}"
    else:
        secret, no_proxy = table.resolve("proxy", value), ()
        if secret is None:
            return None, no_proxy
        url = secret.reveal()
    if wrong := _proxy_problem(url):
        table.wrong("proxy", f"${name}, {wrong}" if name else wrong, PROXY)
        return None, no_proxy
    return Secret(f"http://{url[len('http://') :].removesuffix('/')}"), no_proxy


def _proxy_problem(url: str) -> str | None:
    """Return what is wrong with a proxy's address, without showing it, because it may have a password."""
    scheme = url.partition("://")[0].lower()
    if scheme in OTHER_PROXIES:
        return f"{'an' if scheme == 'https' else 'a'} {scheme} proxy"
    form = PROXY_URL.fullmatch(url)
    try:
        netloc = urlsplit(url).netloc
    except ValueError:
        netloc = ""
    # A `/`, `?` or `#` in the password would end the address before the host.
    if form is None or netloc != url[len("http://") :].removesuffix("/"):
        return "something else"
    if form["port"] is None:
        return "a proxy without a port"
    return None if 0 < int(form["port"]) < 65536 else "something else"


def _authorities(table: Table) -> str | None:
    path = table.folder / table.text("ca_file", "")
    why = "which holds no certificate (PEM)"
    try:
        text = text_of(read_regular(path))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        return text
    except (ssl.SSLError, ValueError):
        pass
    except OSError as exc:
        why = f"which cannot be read ({exc.strerror})"
    table.wrong("ca_file", f"{path}, {why}", "a file of certificates (PEM)")
    return None
