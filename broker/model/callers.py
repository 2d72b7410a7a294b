"""Who is asking, and what they may touch."""

import re
from dataclasses import dataclass

from broker.model.choice import Choice, Labelled

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
GLOB = re.compile(r"[a-z0-9._*?\[\]!-]{1,128}", re.ASCII)


class Permission(Choice):
    """What a caller may do; deny by default."""

    TOKEN = "token"
    REFRESH = "refresh"
    INSTALL = "install"
    ACCOUNTS = "accounts"
    MANAGE = "manage"
    PLUGIN = "plugin"
    ADMIN = "admin"


class CallerKind(Labelled):
    """How a caller proves who it is."""

    KEYS = "keys", "keys of the broker"
    PUBLIC_KEY = "public_key", "signs its own JWTs"
    ISSUER = "issuer", "JWTs of an issuer"
    UID = "uid", "a user of this machine"


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

    def at(self, address: str | None) -> "Caller":
        """The same caller, asking from there."""
        # Not by `replace`: every request comes by here, and that takes three times as long.
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
    """A caller as it is known: with keys, as stored, or named in the configuration."""

    name: str
    accounts: tuple[str, ...]
    permissions: frozenset[Permission]
    created_at: float | None
    """None where the configuration names it."""
    keys: tuple[CallerKey, ...] = ()
    kind: CallerKind = CallerKind.KEYS
    last_used_at: float | None = None
    is_overridden: bool = False
    """The configuration has a caller of this name, so these keys do not work."""


def is_caller_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


def is_glob(text: str) -> bool:
    """Whether it is a glob over account names."""
    return GLOB.fullmatch(text) is not None
