"""What `broker check` says of the store, of what was left half done, and of the audit."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from broker.admin.checks import Check
from broker.admin.statistics import Statistics
from broker.audit.audit import Backlog
from broker.files import exposure, open_own
from broker.store.accounts import AccountStore
from broker.store.health import LEAST_FREE
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


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What waits for the store."""

    spooled: int
    """Files in the spool."""
    retained: int
    """Token sets in the memory of the running broker."""
    is_running: bool


def store_checks(statistics: Statistics, folder: Path) -> list[Check]:
    """What lies in an open store, and the room beside it."""
    counts = statistics.counts
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
    return [*checks, _room_check(folder)]


async def leftover_checks(accounts: AccountStore, left: Leftovers, now: float) -> list[Check]:
    """Renewals without an outcome, files in the spool, token sets that the store would not take."""
    checks = await _damage_checks(accounts)
    oldest = await accounts.oldest_intent_at()
    if oldest is not None:
        checks.append(_intent_check(max(0.0, now - oldest), is_running=left.is_running))
    if left.retained:
        checks.append(
            Check(
                "leftovers",
                "problem",
                f"{_counted(left.retained, 'token set')} cannot be stored",
                "free disk space, and do not kill the broker",
            )
        )
    elif left.spooled:
        mend = "look at the log for what keeps the store from taking them" if left.is_running else START
        checks.append(Check("leftovers", "warning", f"{_counted(left.spooled, 'file')} in the spool", mend))
    return checks or [Check("leftovers", "ok", "none")]


async def identity_checks(accounts: AccountStore) -> list[Check]:
    """Accounts that share one identity, as earlier versions could make them."""
    return [
        Check(
            "identity",
            "warning",
            f"{older} and {name} are the same account at the provider; both are served",
            f"remove the one that nobody uses: broker accounts remove {name}, or {older}",
        )
        for older, name in await accounts.doubles(MOST_DOUBLES)
    ]


async def _damage_checks(accounts: AccountStore) -> list[Check]:
    names = await accounts.damaged(MOST_NAMED + 1)
    if not names:
        return []
    more = " and others" if len(names) > MOST_NAMED else ""
    return [
        Check(
            "damaged records",
            "problem",
            f"the stored tokens of these cannot be decrypted: {', '.join(names[:MOST_NAMED])}{more}",
            "look at the disk; then broker install-link PROVIDER --account NAME, or restore a backup that has the"
            " missing key",
        )
    ]


def standing_checks(standing: Mapping[str, str]) -> list[Check]:
    """What the running broker complains of, where no other line says it."""
    return [
        Check("broker", "problem", sentence, "see the log")
        for key, sentence in standing.items()
        if key not in TOLD_ELSEWHERE
    ]


def clock_check(ahead: float) -> Check:
    """How the machine's clock stands to the database's."""
    if abs(ahead) > WORTH_TELLING:
        return Check("clock", "problem", skew_told(ahead), "set the time (NTP)")
    return Check("clock", "ok", "as the database's")


def audit_check(path: Path | None, backlog: Backlog | None) -> Check:
    """Of the running broker."""
    where = "the journal" if path is None else str(path)
    if backlog is None:
        return Check("audit", "ok", f"written to {where}")
    return Check(
        "audit",
        "problem",
        f"{where} cannot be written: {_counted(backlog.records, 'record')} waiting,"
        f" the oldest for {backlog.seconds:.0f} s; changes are refused",
        "free disk space" if path else "look after systemd-journald",
    )


def audit_check_offline(path: Path | None) -> Check:
    """Whether a start could write to it; nothing is written."""
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


START = "start the broker: it takes them up before anything else"


def _intent_check(age: float, *, is_running: bool) -> Check:
    told = f"the oldest renewal without an outcome is {age:.0f} s old"
    if not is_running:
        return Check("leftovers", "warning", told, START)
    level: Literal["ok", "warning"] = "ok" if age < SETTLED_WITHIN else "warning"
    return Check(
        "leftovers", level, told, None if level == "ok" else "broker accounts list --status uncertain"
    )


def _room_check(folder: Path) -> Check:
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    told = f"{free // MIB} MiB free beside the store"
    if free < LEAST_FREE:
        return Check("disk", "problem", f"{told}: nothing is renewed", "free disk space")
    if free < ROOMY:
        return Check("disk", "warning", told, "free disk space")
    return Check("disk", "ok", told)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
