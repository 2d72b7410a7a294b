"""Reads `[server]`, `[store]`, `[keys]`, `[refresh]`, `[login]`, `[audit]`, `[log]` and `[sandbox]`."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

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
from broker.config.urls import HOST_AND_PORT, is_loopback, origin_problem, page_problem, shown

LISTEN = '"host:port", { path = "…", mode = "0660", group = "…" }, or a list of them'
MOST_TIMEOUT = 600.0
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
        public_url=_public_url(table),
        admin_socket=folder / table.text("admin_socket", "var/admin.sock"),
        admin_group=table.text("admin_group", None),
        internal_plaintext=plaintext,
        internal_tls=tls,
        public_tls=_tls(table, "public_tls", folder),
        metrics_from=_networks(table, "metrics_from"),
        trusted_proxies=_proxies(table),
    )
    table.done()
    return settings


def read_store(table: Table, folder: Path) -> StoreSettings:
    url = table.text("url", "sqlite:var/broker.db")
    kind, _, path = url.partition(":")
    if kind != "sqlite" or not path or path.startswith("//"):
        table.wrong("url", quoted(shown(url)), '"sqlite:PATH"')
    settings = StoreSettings(folder / (path or "var/broker.db"), table.integer("memory", 200_000, least=1))
    table.done()
    return settings


def read_master(table: Table, folder: Path, secrets: SecretReader) -> MasterKey:
    value = table.raw("master", {"file": "var/master.key"})
    table.done()
    match value:
        case {"file": str(path), **rest} if path and not rest:
            return FileKey(folder / path)
        case {"credential": str(name), **rest} if not rest:
            try:
                return FileKey(secrets.credential(name), created=False)
            except SecretMissing as exc:
                table.wrong("master", str(exc).split(";", 1)[0], "to run under systemd with LoadCredential=")
        case {"command": [*words], **rest} if (
            words and not rest and all(isinstance(word, str) for word in words)
        ):
            return CommandKey(tuple(str(word) for word in words))
        case _:
            table.wrong(
                "master",
                "something else",
                '{ file = "PATH" }, { credential = "NAME" } or { command = ["…"] }',
            )
    return FileKey(folder / "var/master.key")


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
    if pem is not None and not _is_public_key(pem.reveal()):
        table.wrong("key", "no public key", "a PEM public key, Ed25519 or EC P-256 (never the private one)")
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
    table.done()
    return AuditSettings(path)


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


def _public_url(table: Table) -> str:
    url = table.text("public_url", "http://127.0.0.1:8081").rstrip("/")
    return checked(table, "public_url", url, origin_problem) or "http://127.0.0.1:8081"


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


def _is_public_key(pem: str) -> bool:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    curve = isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    return isinstance(key, Ed25519PublicKey) or curve
