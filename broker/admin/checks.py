"""`broker check`: what is right, what is doubtful, what is wrong, and the next step for each."""

import ipaddress
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from broker.config import ConfigError, load
from broker.config.secrets import mode_problem
from broker.config.settings import FileKey, ServerSettings, Settings, TcpListen, Tls, UnixListen
from broker.errors import StartRefused
from broker.files import exposure
from broker.tls import expires_at, usable

DAY = 86400.0
BESIDE = ("-wal", "-shm", ".lock", ".incarnation", ".spool")
"""What lies beside a store."""
RENEWED_BEFORE = 14 * DAY
"""What is renewed by itself is renewed earlier; a certificate this near its end was forgotten."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor."""

    what: str
    level: Literal["ok", "warning", "problem"]
    detail: str
    next: str | None = None

    def json(self) -> dict[str, Any]:
        return {"what": self.what, "level": self.level, "detail": self.detail, "next": self.next}


def config_checks(path: Path, environ: Mapping[str, str]) -> list[Check]:
    """Whether the file as it stands now would be taken; a running broker may hold an older one."""
    try:
        load(path, environ=environ)
    except ConfigError as exc:
        mend = "mend it before the next restart or reload"
        return [Check("configuration", "problem", problem, mend) for problem in exc.problems]
    return [Check("configuration", "ok", f"{path} is valid")]


def settings_checks(settings: Settings) -> list[Check]:
    """What can be said of a valid configuration without opening anything."""
    checks = [Check("secrets", "warning", *one.split("; ", 1)) for one in settings.warnings]
    checks += _file_checks(settings)
    checks += _sandbox_checks(settings)
    if not settings.providers:
        checks.append(
            Check(
                "providers",
                "warning",
                "no provider is configured",
                "add [providers.kit] or [providers.kustomer]",
            )
        )
    return checks


def listener_checks(settings: Settings) -> list[Check]:
    """Where something lies in the place of a Unix socket, so that a start would be refused."""
    server = settings.server
    paths = {"server.admin_socket": [server.admin_socket]}
    for key, listens in (("server.internal", server.internal), ("server.public", server.public)):
        paths[key] = [one.path for one in listens if isinstance(one, UnixListen)]
    return [
        Check(
            key,
            "problem",
            f"what lies at {path} is no socket, so the broker cannot listen there",
            f"move it away, or set {key} to another path",
        )
        for key, found in paths.items()
        for path in found
        if os.path.lexists(path) and not path.is_socket()
    ]


def tls_checks(server: ServerSettings, now: float) -> list[Check]:
    """The certificates as they lie there now; a running broker may still serve older ones."""
    checks = [
        _tls_check(files, f"server.{name}_tls", now)
        for name, files in (("internal", server.internal_tls), ("public", server.public_tls))
        if files is not None
    ]
    if server.public_tls and not server.public_url.startswith("https://"):
        checks.append(
            Check(
                "server.public_url",
                "problem",
                "http, but the public listener speaks TLS: no link leads there",
                "write https:// there, or remove server.public_tls",
            )
        )
    return checks


def _tls_check(files: Tls, key: str, now: float) -> Check:
    try:
        usable(files, key=key)
        left = expires_at(files.cert) - now
    except StartRefused as exc:
        return Check(key, "problem", str(exc), "mend it before the next restart or reload")
    if left <= 0:
        return Check(key, "problem", f"{files.cert} has expired", "renew it, then reload the broker")
    level: Literal["ok", "warning"] = "warning" if left < RENEWED_BEFORE else "ok"
    days = round(left / DAY)
    return Check(
        key, level, f"{files.cert} is good for {days} days", "renew it" if level == "warning" else None
    )


def _file_checks(settings: Settings) -> list[Check]:
    store = settings.store.path
    paths = [store.parent, store]
    beside = [store.with_name(store.name + suffix) for suffix in BESIDE]
    audit = [settings.audit.path] if settings.audit.path else []
    checks = [_mode_check(path) for path in paths if path.exists()]
    if isinstance(settings.master, FileKey) and settings.master.created and settings.master.path.exists():
        checks.append(_secret_mode_check(settings.master.path))
    # Of these only what is wrong is worth a line.
    others = [_mode_check(path) for path in (*beside, *audit) if path.is_file() or path.is_dir()]
    return checks + [check for check in others if check.level != "ok"]


def _mode_check(path: Path) -> Check:
    what = f"mode of {path.name}"
    if exposed := exposure(path):
        return Check(what, "problem", f"open to others ({exposed.mode:o})", exposed.command)
    return Check(what, "ok", f"{stat.S_IMODE(path.stat().st_mode):o}")


def _secret_mode_check(path: Path) -> Check:
    what = f"mode of {path.name}"
    if (problem := mode_problem(path)) is None:
        return Check(what, "ok", f"{stat.S_IMODE(path.stat().st_mode):o}")
    exposed, is_refused = problem
    found = f"open to others ({exposed.mode:o})"
    if is_refused:
        return Check(what, "problem", found, exposed.command)
    return Check(what, "warning", found, "mount it so that only the broker can read it")


def _sandbox_checks(settings: Settings) -> list[Check]:
    if not settings.sandbox.enabled:
        return []
    listens = [*settings.server.internal, *settings.server.public, settings.sandbox.listen]
    if _all_on_loopback(listens):
        return [Check("sandbox", "warning", "on: nothing here is real", "remove [sandbox] for real use")]
    return [
        Check(
            "sandbox",
            "problem",
            "on, and a listener is not on loopback: anybody there could sign in as anybody",
            "put every listener on 127.0.0.1, or remove [sandbox]",
        )
    ]


def _all_on_loopback(listens: Iterable[object]) -> bool:
    tcp = [listen for listen in listens if isinstance(listen, TcpListen)]
    return all(listen.host == "localhost" or ipaddress.ip_address(listen.host).is_loopback for listen in tcp)
