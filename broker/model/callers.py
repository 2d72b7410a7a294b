"""Callers: their permissions, the accounts that they may use, and their API keys."""

import re
from dataclasses import dataclass

from broker.model.choice import Choice, Labelled

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
GLOB = re.compile(r"[a-z0-9._*?\[\]!-]{1,128}", re.ASCII)


class Permission(Choice):
    """A permission of a caller; without it the request is denied."""

    TOKEN = "token"
    REFRESH = "refresh"
    INSTALL = "install"
    ACCOUNTS = "accounts"
    MANAGE = "manage"
    PLUGIN = "plugin"
    ADMIN = "admin"


class CallerKind(Labelled):
    """The way in which a caller authenticates."""

    KEYS = "keys", "keys of the broker"
    PUBLIC_KEY = "public_key", "signs its own JWTs"
    ISSUER = "issuer", "JWTs of an issuer"
    UID = "uid", "a user of this machine"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller, its permissions, and the accounts that it may use."""

    name: str
    accounts: tuple[str, ...]
    """Globs over account names (fnmatchcase)."""
    permissions: frozenset[Permission]
    credential: str
    """Names the key, JWT or uid in the audit; never the secret itself."""
    address: str | None = None
    """The address of the request, for the audit; None on a Unix socket."""

    def at(self, address: str | None) -> "Caller":
        """Return the caller with the address of a request."""
        # Every request calls this, and `replace` takes three times as long.
        return Caller(self.name, self.accounts, self.permissions, self.credential, address)


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
    """A caller as operators see it: one with stored keys, or one that the configuration declares."""

    name: str
    accounts: tuple[str, ...]
    permissions: frozenset[Permission]
    created_at: float | None
    """None for a caller that the configuration declares."""
    keys: tuple[CallerKey, ...] = ()
    kind: CallerKind = CallerKind.KEYS
    last_used_at: float | None = None
    is_overridden: bool = False
    """The configuration has a caller of this name, so these keys do not work."""


def is_caller_name(text: str) -> bool:
    """Return whether `text` may be a caller's name: lower-case ASCII letters, digits, `. _ -`, at most 64."""
    return NAME.fullmatch(text) is not None


def is_glob(text: str) -> bool:
    """Return whether `text` is a glob over account names."""
    return GLOB.fullmatch(text) is not None
