"""Who may do what to which account. Pure; deny by default."""

from fnmatch import fnmatchcase
from functools import lru_cache

from broker.model import Caller, Permission

EVERY = "*"
LONGEST = 128
"""Characters of an account's name."""


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
