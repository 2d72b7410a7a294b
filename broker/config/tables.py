"""Reads `[server]`, `[store]`, `[keys]`, `[refresh]`, `[login]`, `[audit]`, `[log]` and `[sandbox]`."""

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from broker.config.callers import read_audience
from broker.config.pem import EXPECTED, algorithm_of
from broker.config.problems import quoted
from broker.config.read import Table, checked
from broker.config.secrets import SecretMissing, SecretReader
from broker.config.settings import (
    AuditSettings,
    CommandKey,
    FileKey,
    Listen,
    LoginSettings,
    LogSettings,
    MasterKey,
    RefreshSettings,
    SandboxSettings,
    ServerSettings,
    StoreSettings,
    TcpListen,
    Tls,
    UnixListen,
)
from broker.config.urls import (
    HOST_AND_PORT,
    internal_origin_problem,
    is_loopback,
    origin_problem,
    page_problem,
    shown,
)
from broker.model import Secret

LISTEN = '"host:port", { path = "…", mode = "0660", group = "…" }, or a list of them'
MOST_TIMEOUT = 600.0
MOST_REPLICA = 200
POSTGRES = re.compile(r"postgres(ql)?://.+", re.DOTALL)
FORMATS: Mapping[str, Literal["json", "console", "auto"]] = {
    "json": "json",
    "console": "console",
    "auto": "auto",
}
LEVELS: Mapping[str, Literal["debug", "info", "warning", "error"]] = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
}


def read_server(table: Table, folder: Path) -> ServerSettings:
    internal = _listens(table, "internal", "127.0.0.1:8080", folder)
    public = _listens(table, "public", "127.0.0.1:8081", folder)
    plaintext, tls = table.flag("internal_plaintext", False), _tls(table, "internal_tls", folder)
    open_listens = [one for one in internal if isinstance(one, TcpListen) and not is_loopback(one.host)]
    if open_listens and not (plaintext or tls):
        table.wrong(
            "internal",
            quoted(str(open_listens[0])),
            "loopback, or server.internal_tls, or server.internal_plaintext = true if something else encrypts it",
        )
    settings = ServerSettings(
        internal=internal,
        public=public,
        public_url=_url(table, "public_url", "http://127.0.0.1:8081", origin_problem),
        internal_url=_url(table, "internal_url", _reached_at(internal, tls), internal_origin_problem),
        admin_socket=folder / table.text("admin_socket", "var/admin.sock"),
        admin_group=table.text("admin_group", None),
        internal_plaintext=plaintext,
        internal_tls=tls,
        public_tls=_tls(table, "public_tls", folder),
        metrics_from=_networks(table, "metrics_from"),
        audience=read_audience(table),
        trusted_proxies=_proxies(table),
    )
    table.done()
    return settings


def read_store(
    table: Table, folder: Path, server: ServerSettings, environ: Mapping[str, str]
) -> StoreSettings:
    value = table.raw("url", "sqlite:var/broker.db")
    secret = table.resolve("url", value) if isinstance(value, dict) else None
    url = secret.reveal() if secret else value if isinstance(value, str) else ""
    kind, _, rest = url.partition(":")
    postgres = Secret(url) if POSTGRES.fullmatch(url) else None
    if not isinstance(value, str | dict) or (
        url and postgres is None and (kind != "sqlite" or not rest or rest.startswith("//"))
    ):
        found = quoted(shown(url)) if isinstance(value, str) else "something else"
        table.wrong("url", found, '"sqlite:PATH" or "postgresql://user@host/database"')
    if postgres is None and not rest.isprintable():
        table.wrong("url", "a path with odd characters", "printable ones")
        rest = ""
    replica = checked(table, "replica", table.text("replica", _usual_replica(server)), _replica_problem)
    own = Path("var", f"postgres-{re.sub(r'[^A-Za-z0-9.-]', '_', replica or '')}")
    logs = environ.get("LOGS_DIRECTORY", "").partition(":")[0]
    settings = StoreSettings(
        path=folder / (own if postgres else rest or "var/broker.db"),
        memory=table.integer("memory", 200_000, least=1),
        postgres=postgres,
        replica=replica or "",
        outside=Path(logs) if logs else None,
    )
    table.done()
    return settings


def _usual_replica(server: ServerSettings) -> str:
    """The machine, and what tells two brokers on it apart."""
    first = server.internal[0] if server.internal else None
    return f"{socket.gethostname()}:{first.port if isinstance(first, TcpListen) else first}"


def _replica_problem(name: str) -> str | None:
    return None if 0 < len(name) <= MOST_REPLICA and name.isprintable() else "a name of 1 to 200 characters"


def read_masters(table: Table, folder: Path, secrets: SecretReader) -> tuple[MasterKey, MasterKey | None]:
    """The master key, and the one that it takes the place of."""
    master = _master(table, "master", {"file": "var/master.key"}, folder, secrets)
    previous = _master(table, "previous", None, folder, secrets)
    table.done()
    if previous is not None and previous == master:
        table.wrong("previous", "the same as keys.master", "the one that keys.master takes the place of")
    return master or FileKey(folder / "var/master.key"), previous


def _master(table: Table, key: str, usual: object, folder: Path, secrets: SecretReader) -> MasterKey | None:
    match table.raw(key, usual):
        case None:
            return None
        case {"file": str(path), **rest} if path and not rest:
            return FileKey(folder / path)
        case {"credential": str(name), **rest} if not rest:
            try:
                return FileKey(secrets.credential(name), created=False)
            except SecretMissing as exc:
                table.wrong(key, str(exc).split(";", 1)[0], "to run under systemd with LoadCredential=")
        case {"command": [*words], **rest} if (
            words and not rest and all(isinstance(word, str) for word in words)
        ):
            return CommandKey(tuple(str(word) for word in words))
        case _:
            table.wrong(
                key,
                "something else",
                '{ file = "PATH" }, { credential = "NAME" } or { command = ["…"] }',
            )
    return None


def read_refresh(table: Table) -> RefreshSettings:
    settings = RefreshSettings(
        ahead=table.duration("ahead", "15m"),
        timeout=table.duration("timeout", "75s", least=1),
        patience=table.duration("patience", "10s"),
        background=table.flag("background", True),
        idle_renewal=table.duration("idle_renewal", "5d"),
    )
    if settings.timeout > MOST_TIMEOUT:
        table.wrong("timeout", f"{settings.timeout:g} s", "at most 10m: nobody else can renew meanwhile")
    table.done()
    return settings


def read_login(table: Table) -> LoginSettings | None:
    url = checked(table, "url", table.text("url"), page_problem)
    key = table.raw("key")
    if key is None:
        table.wrong("key", "nothing", '{ file = "login.pem" }, the public key of your app')
    pem = None if key is None else table.resolve("key", key, private=False)
    table.done()
    if pem is not None and algorithm_of(pem.reveal()) is None:
        table.wrong("key", "no public key", EXPECTED)
        return None
    return None if url is None or pem is None else LoginSettings(url, pem.reveal())


def read_audit(table: Table, folder: Path, store: Path, environ: Mapping[str, str]) -> AuditSettings:
    under_systemd = "JOURNAL_STREAM" in environ or "INVOCATION_ID" in environ
    usual: object = "journald" if under_systemd else {"path": str(store.with_name("audit.jsonl"))}
    path: Path | None = None
    match table.raw("to", usual):
        case "journald":
            pass
        case {"path": str(given), **rest} if given and not rest:
            path = folder / given
        case _:
            table.wrong("to", "something else", '"journald" or { path = "var/audit.jsonl" }')
    keep = table.duration("keep", "400d", least=86400)
    table.done()
    return AuditSettings(path, keep)


def read_log(table: Table) -> LogSettings:
    shape = table.choice("format", tuple(FORMATS), "auto")
    level = table.choice("level", tuple(LEVELS), "info")
    table.done()
    return LogSettings(format=FORMATS[shape], level=LEVELS[level])


def read_sandbox(table: Table) -> SandboxSettings:
    listens = _listens(table, "listen", "127.0.0.1:8089", Path())
    listen = listens[0] if listens and isinstance(listens[0], TcpListen) else None
    if listen is None or len(listens) != 1:
        table.wrong("listen", "something else", '"host:port"')
    settings = SandboxSettings(
        enabled=table.flag("enabled", False),
        listen=listen or TcpListen("127.0.0.1", 8089),
        demo=table.flag("demo", False),
    )
    table.done()
    return settings


def _listens(table: Table, key: str, usual: str, folder: Path) -> tuple[Listen, ...]:
    value = table.raw(key, usual)
    found = [_listen(one, folder) for one in (value if isinstance(value, list) else [value])]
    if not found or None in found:
        table.wrong(key, quoted(value) if isinstance(value, str) else "something else", LISTEN)
    return tuple(one for one in found if one is not None)


def _listen(value: object, folder: Path) -> Listen | None:
    match value:
        case str():
            return _tcp(value)
        case {"path": str(path), **rest} if path and set(rest) <= {"mode", "group"}:
            mode, group = rest.get("mode", "0660"), rest.get("group")
            if isinstance(mode, str) and re.fullmatch(r"0?[0-7]{3}", mode) and isinstance(group, str | None):
                return UnixListen(folder / path, int(mode, 8), group)
    return None


def _tcp(text: str) -> TcpListen | None:
    form = HOST_AND_PORT.fullmatch(text)
    if form is None or int(form[2]) > 65535:
        return None
    host = form[1].strip("[]")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return None
    return TcpListen(host, int(form[2]))


def _url(table: Table, key: str, usual: str, problem: Callable[[str], str | None]) -> str:
    return checked(table, key, table.text(key, usual).rstrip("/"), problem) or usual


def _reached_at(internal: tuple[Listen, ...], tls: Tls | None) -> str:
    """Where `internal` listens; a proxy in front of it needs `internal_url`."""
    listen = next((one for one in internal if isinstance(one, TcpListen)), TcpListen("127.0.0.1", 8080))
    return f"{'https' if tls else 'http'}://{listen}"


def _tls(table: Table, key: str, folder: Path) -> Tls | None:
    match table.raw(key):
        case None:
            return None
        case {"cert": str(cert), "key": str(private), **rest} if not rest:
            return Tls(folder / cert, folder / private)
        case _:
            table.wrong(key, "something else", '{ cert = "PATH", key = "PATH" }')
            return None


def _networks(table: Table, key: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    networks = []
    for text in table.texts(key, ()):
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:
            table.wrong(key, quoted(text), 'addresses or networks, as in "10.0.0.0/8"')
    return tuple(networks)


def _proxies(table: Table) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    networks = _networks(table, "trusted_proxies")
    if any(network.prefixlen == 0 for network in networks):
        # Whoever trusts everybody lets everybody choose the address that limits, logs and audit know them by.
        table.wrong("trusted_proxies", "a network that holds everybody", "the addresses of your own proxies")
    return networks
