"""`broker check` of the store, its keys, unfinished work, the clock and the audit."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.admin.checks import DAY, Check
from broker.admin.overview import Statistics
from broker.audit.audit import Backlog
from broker.config.settings import Settings
from broker.encryption.keyring import Purpose, WrappedKey
from broker.files import exposure, open_own
from broker.keys.rewrap import ByKey
from broker.store.accounts import AccountStore
from broker.store.health import LEAST_FREE
from broker.store.keys import UNKNOWN
from broker.tokens.timekeeping import WORTH_TELLING, skew_told

MIB = 1024 * 1024
ROOMY = 256 * MIB
MOST_NAMED = 10
SETTLED_WITHIN = 600.0
"""Seconds in which an open renewal usually has its outcome."""
MOST_DOUBLES = 20
"""Lines about accounts that share an identity."""
TOLD_ELSEWHERE = frozenset(
    {"copied_store", "audit_waiting", "commit_retained", "install_retained", "disk_full"}
)
JOURNAL = Path("/run/systemd/journal/socket")
YEAR = 365 * DAY
START = "start the broker: it takes them up before anything else"


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Unfinished work: what waits for the store."""

    spooled: int
    """Files in the spool."""
    retained: int
    """Token sets in the memory of the running broker."""
    is_running: bool


def store_checks(statistics: Statistics, folder: Path) -> list[Check]:
    """Count the accounts of an open store by status, and look at the room beside it."""
    counts = statistics.counts
    checks = [Check("store", "ok", _counted(sum(counts.values()), "account"))]
    for (provider, status), count in sorted(counts.items()):
        if status != "active":
            mend = f"look at them: broker accounts list --status {status}"
            checks.append(Check(f"accounts of {provider}", "warning", f"{count} {status}", mend))
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    told = f"{free // MIB} MiB free beside the store"
    if free < LEAST_FREE:
        return [*checks, Check("disk", "problem", f"{told}: nothing is renewed", "free disk space")]
    if free < ROOMY:
        return [*checks, Check("disk", "warning", told, "free disk space")]
    return [*checks, Check("disk", "ok", told)]


async def leftover_checks(accounts: AccountStore, left: Leftovers, now: float) -> list[Check]:
    """Look for damaged records, renewals without an outcome, files in the spool, token sets not yet stored."""
    checks = list[Check]()
    if names := await accounts.damaged(MOST_NAMED + 1):
        more = " and others" if len(names) > MOST_NAMED else ""
        told = f"the stored tokens of these cannot be decrypted: {', '.join(names[:MOST_NAMED])}{more}"
        mend = (
            "look at the disk; then broker install-link PROVIDER --account NAME, or restore a backup that has the"
            " missing key"
        )
        checks.append(Check("damaged records", "problem", told, mend))
    oldest = await accounts.oldest_intent_at()
    if oldest is not None:
        age = max(0.0, now - oldest)
        told = f"the oldest renewal without an outcome is {age:.0f} s old"
        if not left.is_running:
            checks.append(Check("leftovers", "warning", told, START))
        elif age < SETTLED_WITHIN:
            checks.append(Check("leftovers", "ok", told))
        else:
            checks.append(Check("leftovers", "warning", told, "broker accounts list --status uncertain"))
    if left.retained:
        told = f"{_counted(left.retained, 'token set')} cannot be stored"
        checks.append(Check("leftovers", "problem", told, "free disk space, and do not kill the broker"))
    elif left.spooled:
        mend = "look at the log for what keeps the store from taking them" if left.is_running else START
        checks.append(Check("leftovers", "warning", f"{_counted(left.spooled, 'file')} in the spool", mend))
    return checks or [Check("leftovers", "ok", "none")]


async def identity_checks(accounts: AccountStore) -> list[Check]:
    """Look for accounts that share one identity, as earlier versions could make them."""
    return [
        Check(
            "identity",
            "warning",
            f"{older} and {name} are the same account at the provider; both are served",
            f"remove the one that nobody uses: broker accounts remove {name}, or {older}",
        )
        for older, name in await accounts.doubles(MOST_DOUBLES)
    ]


def standing_checks(standing: Mapping[str, str]) -> list[Check]:
    """Report what the running broker complains of, where no other line says it."""
    return [
        Check("broker", "problem", sentence, "see the log")
        for key, sentence in standing.items()
        if key not in TOLD_ELSEWHERE
    ]


def clock_check(ahead: float) -> Check:
    """Compare the machine's clock with the database's."""
    if abs(ahead) > WORTH_TELLING:
        return Check("clock", "problem", skew_told(ahead), "set the time (NTP)")
    return Check("clock", "ok", "as the database's")


def audit_check(path: Path | None, backlog: Backlog | None) -> Check:
    """Check whether the running broker can write its audit."""
    where = "the journal" if path is None else str(path)
    if backlog is None:
        return Check("audit", "ok", f"written to {where}")
    waiting = f"{_counted(backlog.records, 'record')} waiting, the oldest for {backlog.seconds:.0f} s"
    mend = "free disk space" if path else "look after systemd-journald"
    told = f"{where} cannot be written: {waiting}; changes are refused"
    return Check("audit", "problem", told, mend)


def audit_check_offline(path: Path | None) -> Check:
    """Check whether a start could write to the audit; nothing is written."""
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


def key_checks(settings: Settings, keys: Sequence[WrappedKey], counts: ByKey, now: float) -> list[Check]:
    """Check the keys' age, what is still encrypted with older ones, and whether a replacement was finished.

    `counts` is what is encrypted with each key.
    """
    checks = [_active_check(key, now) for key in keys if key.purpose is Purpose.DATA and key.active]
    for key in keys:
        if key.active:
            continue
        if records := sum(counts.get(key.kid, {}).values()):
            are = "records are" if records != 1 else "record is"
            told = f"{records} {are} sealed with the older key {key.kid}"
            checks.append(Check("keys", "warning", told, "broker keys rewrap"))
        elif key.retired_at is None:
            told = f"nothing is sealed with key {key.kid} any more"
            checks.append(Check("keys", "warning", told, f"broker keys remove {key.kid}"))
    known = {key.kid for key in keys if key.wrapped}
    if lost := sum(sum(where.values()) for kid, where in counts.items() if kid not in known):
        where = f" ({', '.join(sorted(counts[UNKNOWN]))})" if counts.get(UNKNOWN) else ""
        told = f"{_counted(lost, 'record')} cannot be opened with any key of this store{where}"
        mend = "find the backup that they belong to; the log of `broker keys rewrap` names them"
        checks.append(Check("keys", "problem", told, mend))
    if settings.previous_master is not None:
        told = "keys.previous is set and every key is wrapped by keys.master"
        mend = "take keys.previous out of the configuration; keep the old key as long as backups from before"
        checks.append(Check("keys", "warning", told, mend))
    return checks


def _active_check(key: WrappedKey, now: float) -> Check:
    days, opens = int((now - key.created_at) // DAY), f"the master key opens the store; key {key.kid}"
    if now - key.created_at < YEAR:
        return Check("keys", "ok", f"{opens} is {days} days old")
    mend = "once a year: broker keys add, broker keys rewrap, broker keys remove"
    return Check("keys", "warning", f"{opens} has sealed everything for {days} days", mend)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
