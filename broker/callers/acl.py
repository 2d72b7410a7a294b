"""Who may do what to which account. Pure; deny by default."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from broker.model import Caller, Permission

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
    """Whether the caller has the permission and, where an account is named, a glob that covers it."""
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
