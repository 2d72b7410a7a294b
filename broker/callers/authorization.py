"""Decides what callers may do to accounts; `Authorizer` applies the rules and audits each decision."""

import re
from collections.abc import Awaitable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from broker.audit.audit import Audit
from broker.audit.lines import AuditRecord, Stakes, token_body
from broker.errors import Forbidden
from broker.model import Caller, Permission

READS = frozenset({Permission.TOKEN, Permission.ACCOUNTS})
"""Permissions that still work for a while when the audit cannot be written, because they change nothing."""
EVERY = "*"
LONGEST = 128
"""Characters of an account's name."""
BEHIND = "~"
"""Greater than every character of an account's name."""


@dataclass(frozen=True, slots=True)
class NameRange:
    """A range of names, from `low` to `high` inclusive, that contains every name a glob covers."""

    low: str
    high: str
    is_exact: bool
    """True if the glob covers every name in the range; if not, each name has to be compared."""


def may(caller: Caller, permission: Permission, account: str | None) -> bool:
    """Return whether the caller has the permission, and a glob that covers `account` unless that is None."""
    if permission not in caller.permissions:
        return False
    return account is None or covers(caller, account)


def why_not(caller: Caller, permission: Permission, account: str | None) -> str:
    """Return the message of a refusal. It does not depend on whether the account exists."""
    if permission not in caller.permissions:
        lacks = f"has no permission {str(permission)!r}"
        return f"Caller {caller.name!r} {lacks}" + (f" for account {account[:LONGEST]!r}" if account else "")
    return f"Caller {caller.name!r} may not touch account {(account or '')[:LONGEST]!r}"


def covers(caller: Caller, account: str) -> bool:
    """Return whether one of the caller's globs covers the account."""
    return EVERY in caller.accounts or _covered(caller.accounts, account)


@lru_cache(maxsize=8192)
def _covered(globs: tuple[str, ...], account: str) -> bool:
    # An entry never becomes wrong, because changed rights are other globs.
    return any(fnmatchcase(account, glob) for glob in globs)


@lru_cache(maxsize=1024)
def name_ranges(globs: tuple[str, ...]) -> tuple[NameRange, ...]:
    """Return the ranges of names that the globs can cover, sorted and without overlaps."""
    ranges: list[NameRange] = []
    # Each range is a name or all names with a prefix, so two ranges are disjoint or one contains the other. The
    # containing range is sorted first.
    for one in sorted(
        map(_range, globs), key=lambda one: (one.low, not one.high.endswith(BEHIND), not one.is_exact)
    ):
        if not ranges or one.low > ranges[-1].high:
            ranges.append(one)
    return tuple(ranges)


def _range(glob: str) -> NameRange:
    prefix = re.split(r"[*?\[]", glob, maxsplit=1)[0]
    if prefix == glob:
        return NameRange(glob, glob, is_exact=True)
    return NameRange(prefix, prefix + BEHIND, is_exact=set(glob[len(prefix) :]) == {EVERY})


class Authorizer:
    """Authorizes callers, and audits each decision before any account is looked up."""

    def __init__(self, *, audit: Audit) -> None:
        self._audit = audit

    async def require(
        self,
        caller: Caller,
        permission: Permission,
        account: str | None,
        *,
        request_id: str,
        action: str | None = None,
        detail: str | None = None,
        reads: bool = False,
    ) -> None:
        """Return if the caller has the permission, and audit the decision; raises Forbidden, AuditUnavailable.

        `action` names the action in the audit, by default it is the permission. `reads` means that it changes
        nothing. An allowed token request is audited by `handed_out`, when its generation is known.
        """
        allowed = may(caller, permission, account)
        if allowed and permission is Permission.TOKEN:
            return
        record = AuditRecord(caller, action or permission, account, request_id, detail, allowed)
        changes = allowed and not reads and permission not in READS
        await self._audit.record(record, Stakes.CHANGE if changes else Stakes.READ)
        if not allowed:
            raise Forbidden(why_not(caller, permission, account))

    async def require_look(self, caller: Caller, action: str, *, request_id: str) -> None:
        """Require permission `admin` for reading; works also while audit records wait. Raises Forbidden."""
        await self.require(caller, Permission.ADMIN, None, request_id=request_id, action=action, reads=True)

    def handed_out(
        self,
        caller: Caller,
        account: str,
        generation: int,
        fingerprint: str,
        *,
        request_id: str,
        client: str | None,
    ) -> Awaitable[None]:
        """Audit that a token is about to be issued. It must not be issued if this raises AuditUnavailable."""
        body = token_body(
            caller,
            account,
            self._audit.now(),
            request_id=request_id,
            generation=generation,
            fingerprint=fingerprint,
            client=client,
        )
        return self._audit.put(body, Stakes.READ)

    async def announce(
        self, caller: Caller, action: str, account: str | None, detail: str, *, request_id: str
    ) -> None:
        """Audit an action before it is done. It must not be done if this raises AuditUnavailable."""
        await self._audit.record(AuditRecord(caller, action, account, request_id, detail), Stakes.CHANGE)

    async def note(
        self, caller: Caller, action: str, account: str | None, detail: str, *, request_id: str
    ) -> None:
        """Audit an action after it was done. The record waits if it cannot be written; nothing is raised."""
        await self._audit.record(AuditRecord(caller, action, account, request_id, detail), Stakes.DONE)
