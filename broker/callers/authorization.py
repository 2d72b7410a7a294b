"""Authorization: the rules for what callers may do to accounts, and `Authorizer`, which applies and audits them."""

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
"""Permissions that still hold for a while when the audit cannot be written; all others change something."""
EVERY = "*"
LONGEST = 128
"""Characters of an account's name."""
BEHIND = "~"
"""Greater than every character of an account's name."""


@dataclass(frozen=True, slots=True)
class NameRange:
    """Names from `low` to `high`, both included, among which are all that some glob covers."""

    low: str
    high: str
    is_exact: bool
    """Whether every name in the range is covered; else each has to be looked at."""


def may(caller: Caller, permission: Permission, account: str | None) -> bool:
    """Whether the caller has the permission and, where an account is named, a glob that covers it; deny by default."""
    if permission not in caller.permissions:
        return False
    return account is None or covers(caller, account)


def why_not(caller: Caller, permission: Permission, account: str | None) -> str:
    """Say what the caller may not do; the same whether or not the account exists."""
    if permission not in caller.permissions:
        lacks = f"has no permission {str(permission)!r}"
        return f"Caller {caller.name!r} {lacks}" + (f" for account {account[:LONGEST]!r}" if account else "")
    return f"Caller {caller.name!r} may not touch account {(account or '')[:LONGEST]!r}"


def covers(caller: Caller, account: str) -> bool:
    """Whether one of the caller's globs covers the account."""
    return EVERY in caller.accounts or _covered(caller.accounts, account)


@lru_cache(maxsize=8192)
def _covered(globs: tuple[str, ...], account: str) -> bool:
    # Remembered for ever, because other rights are other globs.
    return any(fnmatchcase(account, glob) for glob in globs)


@lru_cache(maxsize=1024)
def name_ranges(globs: tuple[str, ...]) -> tuple[NameRange, ...]:
    """The ranges of names that the globs can cover, in order; no name is in two of them."""
    ranges: list[NameRange] = []
    # A range that holds others comes before them. Two ranges never overlap otherwise: each is all names with a prefix.
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
        """Return if the caller may; raises Forbidden, the same whether or not the account exists.

        `action` says what is done more closely than the permission; `reads`: nothing is changed by it. An allowed
        read of a token is audited by `handed_out`, when it is known which token it was; everything else here.
        Raises AuditUnavailable.
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
        """Return if the caller is an operator, who may look also while audit records wait; raises Forbidden."""
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
        """Audit that this token is about to be handed out; raises AuditUnavailable, and then it must not be."""
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
        """Audit an action that is about to be done; raises AuditUnavailable, and then it must not be done."""
        await self._audit.record(AuditRecord(caller, action, account, request_id, detail), Stakes.CHANGE)

    async def note(
        self, caller: Caller, action: str, account: str | None, detail: str, *, request_id: str
    ) -> None:
        """Audit an action that was done for the caller; never refused, since it has happened."""
        await self._audit.record(AuditRecord(caller, action, account, request_id, detail), Stakes.DONE)
