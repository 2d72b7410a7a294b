"""Who may do what to which account. Pure; deny by default."""

from fnmatch import fnmatchcase
from functools import lru_cache

from broker.model import Caller, Permission

EVERY = "*"


def may(caller: Caller, permission: Permission, account: str | None) -> bool:
    """Whether the caller has the permission and, where an account is named, a glob that covers it."""
    if permission not in caller.permissions:
        return False
    return account is None or covers(caller, account)


def covers(caller: Caller, account: str) -> bool:
    """Whether one of the caller's globs covers the account."""
    return EVERY in caller.accounts or _covered(caller.accounts, account)


@lru_cache(maxsize=8192)
def _covered(globs: tuple[str, ...], account: str) -> bool:
    # Remembered for ever, because other rights are other globs.
    return any(fnmatchcase(account, glob) for glob in globs)
