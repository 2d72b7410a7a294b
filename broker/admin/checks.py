"""`broker check` of the configuration: what is right, doubtful or wrong, and the next step for each.

Each check is one function, and is registered once: here in `CONFIGURATION`, or in `store_checks.BROKER`.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from broker.config import ConfigError, load
from broker.config.secrets import mode_problem
from broker.config.settings import FileKey, Settings, TcpListen, UnixListen
from broker.config.values import is_loopback
from broker.errors import StartRefused
from broker.files import exposure, open_own
from broker.http.sockets import expires_at, usable

DAY = 86400.0
RENEWED_BEFORE = 14 * DAY
"""Certificates that are renewed automatically are renewed earlier; one this near its end was forgotten."""
JOURNAL = Path("/run/systemd/journal/socket")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the answer of `broker check`."""

    what: str
    level: Literal["ok", "warning", "problem"]
    detail: str
    next: str | None = None

    def json(self) -> dict[str, Any]:
        return {"what": self.what, "level": self.level, "detail": self.detail, "next": self.next}


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What can be checked without opening anything."""

    settings: Settings
    now: float
    environ: Mapping[str, str] | None
    """The environment of the running broker, None if none runs and the configuration was read just now."""


def configuration(of: Examined) -> Iterator[Check]:
    """Check the file as it is now; a running broker may use an older one."""
    try:
        if of.environ is not None:
            load(of.settings.path, environ=of.environ)
        yield Check("configuration", "ok", f"{of.settings.path} is valid")
    except ConfigError as exc:
        mend = "mend it before the next restart or reload"
        yield from (Check("configuration", "problem", problem, mend) for problem in exc.problems)


def warnings(of: Examined) -> Iterator[Check]:
    """Report what the configuration accepts but should not contain."""
    yield from (Check("secrets", "warning", *one.split("; ", 1)) for one in of.settings.warnings)
    if not of.settings.providers:
        mend = "add [providers.kit] or [providers.kustomer]"
        yield Check("providers", "warning", "no provider is configured", mend)


def file_modes(of: Examined) -> Iterator[Check]:
    """Check who may read the store, the files next to it, the audit and a key that the broker made."""
    store, master, audit = of.settings.store.path, of.settings.master, of.settings.audit.path
    yield from (_mode(path) for path in (store.parent, store) if path.exists())
    if isinstance(master, FileKey) and master.created and master.path.exists():
        what = f"mode of {master.path.name}"
        match mode_problem(master.path):
            case None:
                yield Check(what, "ok", f"{stat.S_IMODE(master.path.stat().st_mode):o}")
            case exposed, True:
                yield Check(what, "problem", f"open to others ({exposed.mode:o})", exposed.command)
            case exposed, _:
                mend = "mount it so that only the broker can read it"
                yield Check(what, "warning", f"open to others ({exposed.mode:o})", mend)
    # Of the others only what is wrong is worth a line.
    others = [
        store.with_name(store.name + end) for end in ("-wal", "-shm", ".lock", ".incarnation", ".spool")
    ]
    for path in (*others, *([audit] if audit else [])):
        if (path.is_file() or path.is_dir()) and (check := _mode(path)).level != "ok":
            yield check


def _mode(path: Path) -> Check:
    what = f"mode of {path.name}"
    if exposed := exposure(path):
        return Check(what, "problem", f"open to others ({exposed.mode:o})", exposed.command)
    return Check(what, "ok", f"{stat.S_IMODE(path.stat().st_mode):o}")


def sandbox(of: Examined) -> Iterator[Check]:
    """Check that a sandbox is on loopback only."""
    if not of.settings.sandbox.enabled:
        return
    server = of.settings.server
    listens = (*server.internal, *server.public, of.settings.sandbox.listen)
    hosts = [listen.host for listen in listens if isinstance(listen, TcpListen)]
    if all(is_loopback(host) for host in hosts):
        yield Check("sandbox", "warning", "on: nothing here is real", "remove [sandbox] for real use")
        return
    told = "on, and a listener is not on loopback: anybody there could sign in as anybody"
    yield Check("sandbox", "problem", told, "put every listener on 127.0.0.1, or remove [sandbox]")


def certificates(of: Examined) -> Iterator[Check]:
    """Check the certificate files as they are now; a running broker may still use older ones."""
    server = of.settings.server
    for key, files in (
        ("server.internal_tls", server.internal_tls),
        ("server.public_tls", server.public_tls),
    ):
        if files is None:
            continue
        try:
            usable(files, key=key)
            left = expires_at(files.cert) - of.now
        except StartRefused as exc:
            yield Check(key, "problem", str(exc), "mend it before the next restart or reload")
            continue
        told = f"{files.cert} is good for {round(left / DAY)} days"
        if left <= 0:
            yield Check(key, "problem", f"{files.cert} has expired", "renew it, then reload the broker")
        elif left < RENEWED_BEFORE:
            yield Check(key, "warning", told, "renew it")
        else:
            yield Check(key, "ok", told)
    if server.public_tls and not server.public_url.startswith("https://"):
        told = "http, but the public listener speaks TLS: no link leads there"
        mend = "write https:// there, or remove server.public_tls"
        yield Check("server.public_url", "problem", told, mend)


def public_url(of: Examined) -> Iterator[Check]:
    """Check the address that browsers are sent to."""
    what, url = "server.public_url", of.settings.server.public_url
    if url.startswith("https://"):
        yield Check(what, "ok", url)
    elif not is_loopback(urlsplit(url).hostname):
        yield Check(what, "problem", f"{url} is http: codes and tickets could be read", "use https")
    elif of.settings.sandbox.enabled or not of.settings.providers:
        yield Check(what, "ok", f"{url}: for browsers on this machine")
    else:
        mend = "for real installs name the https address that people and Kit reach"
        yield Check(what, "warning", f"{url}: only browsers on this machine reach it", mend)


def provider_entries(of: Examined) -> Iterator[Check]:
    """Say what is to be entered at each provider."""
    url = of.settings.server.public_url
    for provider in of.settings.providers.values():
        entry = f"redirect URI {url}/callback/{provider.name}"
        if provider.type == "kit":
            entry += f" and Authorization URL {url}/install/{provider.name}"
        yield Check(f"{provider.name} app", "ok", f"entered at the provider should be: {entry}")


def socket_paths(of: Examined) -> Iterator[Check]:
    """Check before a start that no file is in the place of a Unix socket, because the start would be refused."""
    server, found = of.settings.server, [("server.admin_socket", of.settings.server.admin_socket)]
    for key, listens in (("server.internal", server.internal), ("server.public", server.public)):
        found += [(key, one.path) for one in listens if isinstance(one, UnixListen)]
    for key, path in found if of.environ is None else []:
        if os.path.lexists(path) and not path.is_socket():
            told = f"what lies at {path} is no socket, so the broker cannot listen there"
            yield Check(key, "problem", told, f"move it away, or set {key} to another path")


def audit_file(of: Examined) -> Iterator[Check]:
    """Check before a start that the audit could be written to; write nothing."""
    if of.environ is None:
        yield audit_writable(of.settings.audit.path)


def audit_writable(path: Path | None) -> Check:
    """Check that the audit's file, or the journal, could be written to."""
    if path is None:
        if JOURNAL.exists():
            return Check("audit", "ok", "goes to the journal")
        return Check("audit", "problem", f"{JOURNAL} is missing", 'set audit.to = { path = "…" }')
    there = next((one for one in (path, *path.parents) if os.path.lexists(one)), path)
    if there == path and not (path.is_relative_to("/dev") or path.is_fifo()):
        try:
            handle = open_own(path, os.O_RDWR)
        except OSError as exc:
            return Check("audit", "problem", f"{path} cannot be written", exc.strerror)
        with os.fdopen(handle):
            exposed = exposure(path, handle)
        if exposed:
            return Check("audit", "problem", f"{path} is open to others", exposed.command)
    if os.access(there, os.W_OK) and (there == path or there.is_dir()):
        return Check("audit", "ok", f"{path} can be written")
    return Check("audit", "problem", f"{there} cannot be written", "give it to the broker's user")


CONFIGURATION: tuple[Callable[[Examined], Iterator[Check]], ...] = (
    configuration,
    warnings,
    file_modes,
    sandbox,
    certificates,
    public_url,
    provider_entries,
    socket_paths,
    audit_file,
)


def check_configuration(of: Examined) -> list[Check]:
    """Run every check that opens nothing."""
    return [check for one in CONFIGURATION for check in one(of)]
