"""`broker check`: what is right, what is doubtful, what is wrong, and the next step for each."""

import ipaddress
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from broker.config import ConfigError, load
from broker.config.settings import FileKey, ServerSettings, Settings, TcpListen, Tls
from broker.errors import StartRefused
from broker.providers.interface import NotSent, Provider, Reached
from broker.store.interface import AccountStore
from broker.tls import expires_at, usable

SKEW = 30.0
DAY = 86400.0
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
    checks = _file_checks(settings)
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


async def store_checks(accounts: AccountStore, spooled: int) -> list[Check]:
    """What lies in an open store."""
    counts = await accounts.counts()
    total = sum(counts.values())
    checks = [Check("store", "ok", f"{total} account{'s' if total != 1 else ''}")]
    for (provider, status), count in sorted(counts.items()):
        if status != "active":
            checks.append(
                Check(
                    f"accounts of {provider}",
                    "warning",
                    f"{count} {status}",
                    f"look at them: broker accounts list --status {status}",
                )
            )
    oldest = await accounts.oldest_intent_at()
    if oldest is not None:
        checks.append(Check("leftovers", "warning", "a renewal without an outcome is being settled"))
    if spooled:
        checks.append(
            Check("leftovers", "problem", f"{spooled} token sets lie in the spool", "free disk space")
        )
    return checks


async def provider_checks(providers: Mapping[str, Provider]) -> list[Check]:
    """Whether each provider answers, and what its clock says; never a problem, only a warning."""
    return [await _provider_check(provider) for provider in providers.values()]


async def _provider_check(provider: Provider) -> Check:
    what = f"provider {provider.name}"
    match await provider.reach():
        case NotSent(why):
            return Check(
                what, "warning", f"not reached: {why}", "check the network and the provider's status page"
            )
        case Reached(skew) if skew is not None and abs(skew) > SKEW:
            return Check(
                what, "warning", f"its clock and ours differ by {round(skew)} s", "set the time (NTP)"
            )
        case Reached():
            return Check(what, "ok", "answers")


def _file_checks(settings: Settings) -> list[Check]:
    paths = [settings.store.path.parent, settings.store.path]
    if isinstance(settings.master, FileKey) and settings.master.created:
        paths.append(settings.master.path)
    return [_mode_check(path) for path in paths if path.exists()]


def _mode_check(path: Path) -> Check:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        return Check(
            f"mode of {path.name}", "problem", f"open to others ({mode:o})", f"chmod {wanted} {path}"
        )
    return Check(f"mode of {path.name}", "ok", f"{mode:o}")


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
