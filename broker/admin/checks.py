"""The checks of the configuration for `broker check`: what is right, doubtful or wrong, and the next step for each.

Each check is one function, registered once: here in `CONFIGURATION`, or in `BROKER` in `store_checks`.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from broker.config import ConfigError, load
from broker.config.secrets import mode_problem
from broker.config.settings import FileKey, Settings
from broker.config.values import TcpListen, UnixListen, is_loopback
from broker.errors import StartRefused
from broker.files import exposure, open_own
from broker.http.sockets import expires_at, usable

DAY = 86400.0
RENEWED_BEFORE = 14 * DAY
"""Automatic renewal happens earlier, so a certificate this close to its end was forgotten."""
JOURNAL = Path("/run/systemd/journal/socket")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `broker check`."""

    what: str
    level: Literal["ok", "warning", "problem"]
    detail: str
    next: str | None = None

    def json(self) -> dict[str, Any]:
        """Return the check as `GET /check` answers it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """The input of the checks that open nothing."""

    settings: Settings
    now: float
    environ: Mapping[str, str] | None
    """The environment of the running broker; None if no broker runs, so that the configuration was read just now."""


def configuration(of: Examined) -> Iterator[Check]:
    """Check the configuration file. A running broker may have read an older version of it."""
    try:
        if of.environ is not None:
            load(of.settings.path, environ=of.environ)
        yield Check("configuration", "ok", f"{of.settings.path} is valid")
    except ConfigError as exc:
        mend = "correct it before the next restart or reload"
        yield from (Check("configuration", "problem", problem, mend) for problem in exc.problems)


def warnings(of: Examined) -> Iterator[Check]:
    """Check for values that the configuration accepts but should not have."""
    yield from (Check("secrets", "warning", *one.split("; ", 1)) for one in of.settings.warnings)
    if not of.settings.providers:
        mend = "add [providers.kit] or [providers.kustomer]"
        yield Check("providers", "warning", "no provider is configured", mend)


def file_modes(of: Examined) -> Iterator[Check]:
    """Check the file modes of the store, the files next to it, the audit and a generated master key."""
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
    # The other files get a line only if something is wrong.
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
    """Check that a sandbox listens on loopback only."""
    if not of.settings.sandbox.enabled:
        return
    server = of.settings.server
    listens = (*server.internal, *server.public, of.settings.sandbox.listen)
    hosts = [listen.host for listen in listens if isinstance(listen, TcpListen)]
    if all(is_loopback(host) for host in hosts):
        yield Check(
            "sandbox",
            "warning",
            "the sandbox is on: no account is real",
            "remove [sandbox] for production",
        )
        return
    told = "the sandbox is on, and a listener is not on loopback: anybody there can sign in as any user"
    yield Check("sandbox", "problem", told, "put every listener on 127.0.0.1, or remove [sandbox]")


def certificates(of: Examined) -> Iterator[Check]:
    """Check the certificate files. A running broker may have loaded older ones."""
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
            yield Check(key, "problem", str(exc), "correct it before the next restart or reload")
            continue
        told = f"{files.cert} is valid for {round(left / DAY)} more days"
        if left <= 0:
            yield Check(key, "problem", f"{files.cert} has expired", "renew it, then reload the broker")
        elif left < RENEWED_BEFORE:
            yield Check(key, "warning", told, "renew it")
        else:
            yield Check(key, "ok", told)
    if server.public_tls and not server.public_url.startswith("https://"):
        told = "the address is http, but the public listener speaks TLS, so no link works"
        mend = "change it to https://, or remove server.public_tls"
        yield Check("server.public_url", "problem", told, mend)


def public_url(of: Examined) -> Iterator[Check]:
    """Check the address that browsers are sent to."""
    what, url = "server.public_url", of.settings.server.public_url
    if url.startswith("https://"):
        yield Check(what, "ok", url)
    elif not is_loopback(urlsplit(url).hostname):
        yield Check(what, "problem", f"{url} is http, so others can read codes and tickets", "use https")
    elif of.settings.sandbox.enabled or not of.settings.providers:
        yield Check(what, "ok", f"{url}, for browsers on this machine")
    else:
        mend = "for production set the https address that customers and Kit reach"
        yield Check(what, "warning", f"only browsers on this machine reach {url}", mend)


def provider_entries(of: Examined) -> Iterator[Check]:
    """List the addresses that have to be entered at each provider."""
    url = of.settings.server.public_url
    for provider in of.settings.providers.values():
        entry = f"redirect URI {url}/callback/{provider.name}"
        if provider.type == "kit":
            entry += f" and Authorization URL {url}/install/{provider.name}"
        yield Check(f"{provider.name} app", "ok", f"enter at the provider: {entry}")


def socket_paths(of: Examined) -> Iterator[Check]:
    """Check, if no broker runs, that no other file is at the path of a Unix socket: the start would be refused."""
    server, found = of.settings.server, [("server.admin_socket", of.settings.server.admin_socket)]
    for key, listens in (("server.internal", server.internal), ("server.public", server.public)):
        found += [(key, one.path) for one in listens if isinstance(one, UnixListen)]
    for key, path in found if of.environ is None else []:
        if os.path.lexists(path) and not path.is_socket():
            told = f"{path} is not a socket, so the broker cannot listen there"
            yield Check(key, "problem", told, f"move it away, or set {key} to another path")


def audit_file(of: Examined) -> Iterator[Check]:
    """Check, if no broker runs, that the audit can be written."""
    if of.environ is None:
        yield audit_writable(of.settings.audit.path)


def audit_writable(path: Path | None) -> Check:
    """Check that the audit's file or the journal can be written, without writing to it."""
    if path is None:
        if JOURNAL.exists():
            return Check("audit", "ok", "written to the journal")
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
    """Run all checks of the configuration."""
    return [check for one in CONFIGURATION for check in one(of)]
