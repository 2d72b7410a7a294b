"""Finds and reads config.toml, and reports all mistakes together."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from broker.config.named_tables import read_callers, read_plugin, read_provider
from broker.config.sandbox import with_sandbox
from broker.config.secrets import SecretReader, text_of
from broker.config.sections import (
    read_alerts,
    read_audit,
    read_login,
    read_masters,
    read_network,
    read_refresh,
    read_sandbox,
    read_server,
    read_store,
)
from broker.config.settings import LogSettings, Settings, StoreSettings
from broker.config.table import ConfigError, Table
from broker.files import read_regular

USUAL_PATH = Path("/etc/token-broker/config.toml")
RELOADED = ("providers", "callers", "alerts", "log")
"""The tables that a reload takes over."""
DISGUISED = re.compile(
    "[\u0085\u00a0\u00ab\u00bb\u1680\u2000-\u200f\u2018-\u201f\u2028-\u202f\u205f-\u2064\u3000\ufeff\uff02\uff07\uff1d]"
)
FORBIDDEN = re.compile(r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Characters that TOML allows nowhere, not even in a comment."""
HOME = re.compile(r"(sqlite:)?~[^/]*(/|$)")
PATHS = frozenset({"url", "path", "file", "cert", "key", "admin_socket", "command", "ca_file"})
"""The keys whose value is a path, or begins with one."""
DEEPEST = 32
"""The most levels of tables and lists in a file; no key needs more than a few."""
TOO_DEEP = "its tables and lists nest too deeply"
NO_KEYS = ("path", "variables", "warnings")


def locate(option: str | None, environ: Mapping[str, str]) -> Path:
    """Return the path of the file: `--config`, else `$BROKER_CONFIG`, else the one in /etc."""
    given = option or environ.get("BROKER_CONFIG")
    return Path(given).absolute() if given else USUAL_PATH


def load(path: Path, *, environ: Mapping[str, str], port: int | None = None) -> Settings:
    """Return the settings in the file at `path`; raises ConfigError.

    With `port` the listeners are on loopback: internal on this port, public and the sandbox on the next two.
    """
    data, problems = _moved(_toml(path), port), list[str]()
    secrets = SecretReader(folder=path.absolute().parent, environ=environ)
    top = Table(data, problems=problems, secrets=secrets)
    sandbox = read_sandbox(top.table("sandbox"))
    top.knows("providers", "login", "plugin")
    tables = with_sandbox(data, sandbox.listen) if sandbox.enabled else data
    supplied = Table(tables, problems=problems, secrets=secrets)
    server = read_server(top.table("server"))
    store = read_store(top.table("store"), server)
    outside = top.table("network")
    network = read_network(outside)
    outside.done()
    master, previous = read_masters(top.table("keys"))
    providers = {
        name: read_provider(name, table, network) for name, table in supplied.tables("providers").items()
    }
    settings = Settings(
        path=path.absolute(),
        server=server,
        store=store,
        master=master,
        previous_master=previous,
        refresh=read_refresh(top.table("refresh")),
        providers={name: provider for name, provider in providers.items() if provider is not None},
        network=network,
        login=read_login(supplied.table("login")) if supplied.has("login") else None,
        plugin=read_plugin(supplied.table("plugin")) if supplied.has("plugin") else None,
        callers=read_callers(top.tables("callers"), server),
        audit=read_audit(top.table("audit"), store.path),
        alerts=read_alerts(top.table("alerts")),
        log=top.table("log").section(LogSettings),
        sandbox=sandbox,
        variables=frozenset(secrets.variables),
        warnings=tuple(secrets.warnings),
    )
    top.done()
    problems += _home_paths(data, "")
    if problems:
        raise ConfigError(problems)
    return settings


def admin_socket_of(path: Path, environ: Mapping[str, str]) -> Path:
    """Return the path of the admin socket, without reading the other settings; raises ConfigError."""
    given = environ.get("BROKER_ADMIN_SOCKET")
    if given:
        return Path(given)
    server = _toml(path).get("server", {})
    value = server.get("admin_socket", "var/admin.sock") if isinstance(server, dict) else None
    if not isinstance(value, str):
        raise ConfigError(["server.admin_socket: found something else; expected a path"])
    return path.absolute().parent / value


def store_of(path: Path, environ: Mapping[str, str]) -> StoreSettings:
    """Return the settings of the store, without reading the others; raises ConfigError."""
    data, problems = _toml(path), list[str]()
    secrets = SecretReader(folder=path.absolute().parent, environ=environ)
    # Mistakes in [server] do not matter here; only the replica's default name depends on it.
    server = read_server(Table(data, problems=[], secrets=secrets).table("server"))
    store = read_store(Table(data, problems=problems, secrets=secrets).table("store"), server)
    if problems:
        raise ConfigError(problems)
    return store


def store_path_of(path: Path, environ: Mapping[str, str]) -> Path:
    """Return the path of the SQLite store; raises ConfigError."""
    store = store_of(path, environ)
    if store.postgres is not None:
        raise ConfigError(["the store is a PostgreSQL database; use pg_dump and pg_restore for it"])
    return store.path


def reloadable(old: Settings, new: Settings) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings after a reload, and the full names of the changed keys that need a restart."""
    same_sandbox = (old.sandbox.enabled, old.sandbox.listen) == (new.sandbox.enabled, new.sandbox.listen)
    # The sandbox supplies providers, which must fit the sandbox that still runs.
    reloaded = [name for name in RELOADED if same_sandbox or name != "providers"]
    taken = replace(old, **{name: getattr(new, name) for name in reloaded})
    kept = list[str]()
    for name, before, after in _changed(old, new):
        if name not in (*reloaded, *NO_KEYS):
            is_table = type(before) is type(after) and is_dataclass(before) and "." not in name
            kept += [f"{name}.{key}" for key, *_ in _changed(before, after)] if is_table else [name]
    return taken, tuple(dict.fromkeys(kept))


def _changed(old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name in the file of each setting that differs, with its two values."""
    for one in fields(old):
        before, after = getattr(old, one.name), getattr(new, one.name)
        if before != after:
            yield one.metadata.get("name") or one.name, before, after


def keys_of(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name of each key of a configuration with its value."""
    for one in fields(settings):
        name, value = prefix + (one.metadata.get("name") or one.name), getattr(settings, one.name)
        if "name" in one.metadata:
            yield name, value
        elif is_dataclass(value):
            yield from keys_of(value, prefix if "inline" in one.metadata else f"{name}.")
        elif isinstance(value, Mapping):
            for inner, table in value.items():
                yield from keys_of(table, f"{name}.{inner}.")


def _toml(path: Path) -> dict[str, Any]:
    try:
        text = _text(read_regular(path))
    except OSError as exc:
        problem = f"cannot be read ({exc.strerror}); pass another with --config PATH or $BROKER_CONFIG"
        raise ConfigError([f"{path}: {problem}"]) from None
    except ValueError as exc:
        raise ConfigError([f"{path}: {exc}"]) from None
    try:
        level: list[Any] = [data := tomllib.loads(text)]
    except ValueError as exc:
        # Besides TOMLDecodeError: a number longer than Python reads.
        raise ConfigError([f"{path}: is not TOML: {exc}{_disguised(text)}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: {TOO_DEEP}"]) from None
    # The parser reads dotted keys of any depth, but what walks over them is recursive.
    for _ in range(DEEPEST):
        level = [inner for one in level if isinstance(one, dict | list) for inner in _members(one)]
    if level:
        raise ConfigError([f"{path}: {TOO_DEEP}"])
    return data


def _members(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _home_paths(value: object, key: str) -> Iterator[str]:
    """Complaints about paths that begin with `~`: nobody expands it, so it would make a folder of that name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _home_paths(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _home_paths(inner, key)
    elif isinstance(value, str) and HOME.match(value) and key.rpartition(".")[2] in PATHS:
        yield f"{key}: found a path that begins with ~; expected a whole path, or one relative to this file"


def _text(raw: bytes) -> str:
    """Return the text of a TOML file; raises ValueError, which names the line and what to do."""
    # ASCII is half NUL in UTF-16, and three quarters in UTF-32.
    is_wide = len(raw) <= 4 * raw.count(0) < 4 * len(raw)
    wide = ValueError("is not UTF-8 text: line 1 is UTF-16 or UTF-32 without a mark; save it as UTF-8")
    try:
        text = text_of(raw)
    except UnicodeDecodeError as exc:
        if exc.encoding != "utf-8":
            told = exc.encoding[:6].upper()
            raise ValueError(f"is not whole {told} text; save it as UTF-8") from None
        if is_wide:
            raise wide from None
        number = len(re.findall(rb"\r\n|\r|\n", exc.object[: exc.start])) + 1
        odd = f"line {number} holds the byte 0x{exc.object[exc.start]:02X}"
        raise ValueError(f"is not UTF-8 text: {odd}; save it as UTF-8") from None
    if is_wide and "\0" in text:
        raise wide
    if found := FORBIDDEN.search(text):
        number = text.count("\n", 0, found.start()) + 1
        if found[0] == "\r":
            what = "ends with CR alone; save it with the line ends of Unix (LF)"
            raise ValueError(f"is not TOML: line {number} {what}")
        name = {"\0": " (NUL)", "\x1a": " (Ctrl-Z)"}.get(found[0], "")
        raise ValueError(f"is not TOML: line {number} holds U+{ord(found[0]):04X}{name}; delete it")
    return text


def _disguised(text: str) -> str:
    """Return a hint at a character that a word processor put in the place of a quote or a blank, else \"\"."""
    for number, line in enumerate(text.split("\n"), 1):
        if found := DISGUISED.search(line.partition("#")[0]):
            return f"; line {number} holds U+{ord(found[0]):04X} in place of a quote, a blank or a line end"
    return ""


def _moved(data: dict[str, Any], port: int | None) -> dict[str, Any]:
    if port is None:
        return data
    public = f"127.0.0.1:{port + 1}"
    moved = {
        "server": {"internal": f"127.0.0.1:{port}", "public": public, "public_url": f"http://{public}"},
        "sandbox": {"listen": f"127.0.0.1:{port + 2}"},
    }
    # A value that is not a table is reported where it is read.
    tables = {name: table for name in moved if isinstance(table := data.get(name, {}), dict)}
    return {**data, **{name: {**table, **moved[name]} for name, table in tables.items()}}
