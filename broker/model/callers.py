"""Who is asking, and what they may touch."""

from dataclasses import dataclass
from enum import StrEnum


class Permission(StrEnum):
    """What a caller may do; deny by default."""

    TOKEN = "token"
    REFRESH = "refresh"
    INSTALL = "install"
    ACCOUNTS = "accounts"
    MANAGE = "manage"
    PLUGIN = "plugin"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, and what they may touch."""

    name: str
    accounts: tuple[str, ...]
    """Globs over account names (fnmatchcase)."""
    permissions: frozenset[Permission]
    credential: str
    """Which key, JWT or uid, for the audit: never the secret itself."""
    address: str | None = None
    """Where this request came from, for the audit; None on a Unix socket."""


@dataclass(frozen=True, slots=True)
class CallerKey:
    """One API key of a caller; only its hash is stored."""

    id: str
    caller: str
    hash: str
    created_at: float
    expires_at: float | None
    last_used_at: float | None = None


@dataclass(frozen=True, slots=True)
class CallerRecord:
    """A caller with keys, as stored."""

    name: str
    accounts: tuple[str, ...]
    permissions: frozenset[Permission]
    created_at: float
    keys: tuple[CallerKey, ...] = ()
