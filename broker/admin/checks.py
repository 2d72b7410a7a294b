"""`broker check` of the configuration and the providers: what is right, doubtful or wrong, and the next step for each.

Each `…_check` and `…_checks` here and in `store_checks` looks at one thing. Which of them are made, and in which order,
is said once: in `app` for a running broker and for none.
"""

import ipaddress
import os
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from broker.config import ConfigError, load
from broker.config.secrets import mode_problem
from broker.config.settings import FileKey, ServerSettings, Settings, TcpListen, Tls, UnixListen
from broker.errors import StartRefused
from broker.files import exposure
from broker.http.tls import expires_at, usable
from broker.providers.interface import NotSent, Reached
from broker.providers.oauth2 import OAuth2Provider

DAY = 86400.0
BESIDE = ("-wal", "-shm", ".lock", ".incarnation", ".spool")
"""What lies beside a store."""
RENEWED_BEFORE = 14 * DAY
"""What is renewed by itself is renewed earlier; a certificate this near its end was forgotten."""
SKEW = 30.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the answer of `broker check`."""

    what: str
    level: Literal["ok", "warning", "problem"]
    detail: str
    next: str | None = None

    def json(self) -> dict[str, Any]:
        return {"what": self.what, "level": self.level, "detail": self.detail, "next": self.next}


def config_checks(path: Path, environ: Mapping[str, str]) -> list[Check]:
    """Check the file as it stands now; a running broker may hold an older one."""
    try:
        load(path, environ=environ)
    except ConfigError as exc:
        mend = "mend it before the next restart or reload"
        return [Check("configuration", "problem", problem, mend) for problem in exc.problems]
    return [Check("configuration", "ok", f"{path} is valid")]


def settings_checks(settings: Settings) -> list[Check]:
    """Check what a valid configuration says, without opening anything."""
    checks = [Check("secrets", "warning", *one.split("; ", 1)) for one in settings.warnings]
    checks += [*_file_checks(settings), *_sandbox_checks(settings)]
    if not settings.providers:
        mend = "add [providers.kit] or [providers.kustomer]"
        checks.append(Check("providers", "warning", "no provider is configured", mend))
    return checks


def _file_checks(settings: Settings) -> list[Check]:
    """Check who may read the store, what lies beside it, the audit and a key that the broker made."""
    store, master = settings.store.path, settings.master
    checks = [_mode_check(path) for path in (store.parent, store) if path.exists()]
    if isinstance(master, FileKey) and master.created and master.path.exists():
        what = f"mode of {master.path.name}"
        match mode_problem(master.path):
            case None:
                checks.append(Check(what, "ok", f"{stat.S_IMODE(master.path.stat().st_mode):o}"))
            case exposed, True:
                checks.append(Check(what, "problem", f"open to others ({exposed.mode:o})", exposed.command))
            case exposed, _:
                mend = "mount it so that only the broker can read it"
                checks.append(Check(what, "warning", f"open to others ({exposed.mode:o})", mend))
    # Of these only what is wrong is worth a line.
    beside = [store.with_name(store.name + suffix) for suffix in BESIDE]
    audit = [settings.audit.path] if settings.audit.path else []
    others = [_mode_check(path) for path in (*beside, *audit) if path.is_file() or path.is_dir()]
    return checks + [check for check in others if check.level != "ok"]


def _mode_check(path: Path) -> Check:
    what = f"mode of {path.name}"
    if exposed := exposure(path):
        return Check(what, "problem", f"open to others ({exposed.mode:o})", exposed.command)
    return Check(what, "ok", f"{stat.S_IMODE(path.stat().st_mode):o}")


def _sandbox_checks(settings: Settings) -> list[Check]:
    if not settings.sandbox.enabled:
        return []
    listens = (*settings.server.internal, *settings.server.public, settings.sandbox.listen)
    hosts = [listen.host for listen in listens if isinstance(listen, TcpListen)]
    if all(host == "localhost" or ipaddress.ip_address(host).is_loopback for host in hosts):
        return [Check("sandbox", "warning", "on: nothing here is real", "remove [sandbox] for real use")]
    told = "on, and a listener is not on loopback: anybody there could sign in as anybody"
    return [Check("sandbox", "problem", told, "put every listener on 127.0.0.1, or remove [sandbox]")]


def listener_checks(settings: Settings) -> list[Check]:
    """Check whether something lies in the place of a Unix socket, so that a start would be refused."""
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
    """Check the certificates as they lie there now; a running broker may still serve older ones."""
    both = (("internal", server.internal_tls), ("public", server.public_tls))
    checks = [_tls_check(files, f"server.{name}_tls", now) for name, files in both if files is not None]
    if server.public_tls and not server.public_url.startswith("https://"):
        told = "http, but the public listener speaks TLS: no link leads there"
        mend = "write https:// there, or remove server.public_tls"
        checks.append(Check("server.public_url", "problem", told, mend))
    return checks


def _tls_check(files: Tls, key: str, now: float) -> Check:
    try:
        usable(files, key=key)
        left = expires_at(files.cert) - now
    except StartRefused as exc:
        return Check(key, "problem", str(exc), "mend it before the next restart or reload")
    if left <= 0:
        return Check(key, "problem", f"{files.cert} has expired", "renew it, then reload the broker")
    told = f"{files.cert} is good for {round(left / DAY)} days"
    return Check(key, "warning", told, "renew it") if left < RENEWED_BEFORE else Check(key, "ok", told)


def address_checks(settings: Settings) -> list[Check]:
    """Check what browsers are told, and say what is to be entered at the providers."""
    url = settings.server.public_url
    checks = [
        _public_check(url, has_real_providers=bool(settings.providers) and not settings.sandbox.enabled)
    ]
    for provider in settings.providers.values():
        entry = f"redirect URI {url}/callback/{provider.name}"
        if provider.type == "kit":
            entry += f" and Authorization URL {url}/install/{provider.name}"
        checks.append(Check(f"{provider.name} app", "ok", f"entered at the provider should be: {entry}"))
    return checks


def _public_check(url: str, *, has_real_providers: bool) -> Check:
    what = "server.public_url"
    if url.startswith("https://"):
        return Check(what, "ok", url)
    if urlsplit(url).hostname not in LOOPBACK:
        return Check(what, "problem", f"{url} is http: codes and tickets could be read", "use https")
    if not has_real_providers:
        return Check(what, "ok", f"{url}: for browsers on this machine")
    mend = "for real installs name the https address that people and Kit reach"
    return Check(what, "warning", f"{url}: only browsers on this machine reach it", mend)


async def reachable_check(url: str, probe: Callable[[str], Awaitable[str | None]]) -> Check:
    """Check whether `server.public_url` leads back here; from here only, so never a problem."""
    what = "public_url from here"
    if why := await probe(url):
        mend = "no matter if only the outside can reach it; else check name, proxy and server.public"
        return Check(what, "warning", why, mend)
    return Check(what, "ok", f"{url} leads to this broker")


async def provider_checks(providers: Mapping[str, OAuth2Provider]) -> list[Check]:
    """Check whether each provider answers, and what its clock and metadata say; never a problem, only a warning."""
    checks: list[Check] = []
    for provider in providers.values():
        by = f" ({provider.route})" if provider.route else ""
        match await provider.reach():
            case NotSent(why):
                mend = "check the network and the provider's status page"
                told = f"not reached{by}: {why}"
                checks.append(Check(f"provider {provider.name}", "warning", told, mend))
            case Reached() as reached:
                checks.append(Check(f"provider {provider.name}", "ok", f"answers{by}"))
                checks += _reached_checks(provider.name, reached)
    return checks


def _reached_checks(name: str, reached: Reached) -> list[Check]:
    checks, what = list[Check](), f"metadata of {name}"
    if reached.clock_skew is not None and abs(reached.clock_skew) > SKEW:
        told = f"the clocks of {name} and of this machine differ by {round(reached.clock_skew)} s"
        checks.append(Check("clock", "warning", told, "set the time (NTP)"))
    elif reached.clock_skew is not None:
        checks.append(Check("clock", "ok", f"as that of {name}, within {SKEW:.0f} s"))
    if reached.differences is None:
        told = "it publishes none (RFC 8414), so there is nothing to compare"
        return [*checks, Check(what, "ok", told)]
    if not reached.differences:
        return [*checks, Check(what, "ok", "it says of itself what the configuration says")]
    mend = f"look into its documents; keys of [providers.{name}] replace what is built in"
    return [*checks, *(Check(what, "warning", one, mend) for one in reached.differences)]
