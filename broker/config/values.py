"""Checks of single values: addresses, durations, names, keys. A check returns what is expected, or None if it fits."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

OwnAlgorithm = Literal["EdDSA", "ES256"]
DURATION = 'a duration as in "90s", "15m", "48h" or "30d"'
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MOST_LIFE = 3660 * 86400.0
PEM = "a PEM public key, Ed25519 or EC P-256 (never the private one)"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
"""The name of a provider or of a plugin's client."""
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+", re.ASCII)
"""A scope-token of RFC 6749 appendix A.4."""
VISIBLE = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)
"""A client id or secret (RFC 6749 appendix A)."""

HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})", re.ASCII)
ODD = re.compile(r"[\x00-\x20\x7f\\{}]")
"""Characters that no address may have; urlsplit drops some of them silently."""
SOME_ORG = "some-org"
"""Replaces `{org}` while an address is checked."""


@dataclass(frozen=True, slots=True)
class TcpListen:
    """An address to listen on."""

    """An address to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixListen:
    """A Unix socket to listen on."""

    """A Unix socket to listen on."""

    path: Path
    mode: int
    group: str | None

    def __str__(self) -> str:
        return str(self.path)


Listen = TcpListen | UnixListen


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a certificate and its private key."""

    """The files of a certificate and its private key."""

    cert: Path
    key: Path


def matching(form: re.Pattern[str], expected: str) -> Callable[[str], str | None]:
    """Return the check that a whole text matches the pattern."""
    return lambda text: None if form.fullmatch(text) else expected


def pointer_problem(example: str) -> Callable[[str], str | None]:
    """Return a check that a text is a JSON pointer (RFC 6901). Its error text shows `example`."""
    return matching(re.compile(r"(/[^/~]*(~[01][^/~]*)*)+"), f'a JSON pointer, as in "{example}"')


def plugin_scope_problem(scope: str) -> str | None:
    """Check a scope of a plugin's client; Kit separates scopes by commas too."""
    is_one = SCOPE.fullmatch(scope) and "," not in scope
    return None if is_one else "scopes without spaces, commas, quotes and backslashes, each on its own"


def claim_problem(text: str) -> str | None:
    """Check a value of a JWT's claim."""
    return None if 0 < len(text) <= 512 and text.isprintable() else "1 to 512 printable characters"


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration, or None if it is not one."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
    return float(found[1]) * UNITS[found[2]] if found else None


def algorithm_of(pem: str) -> OwnAlgorithm | None:
    """Return the algorithm (RFC 7518, RFC 8037) of a public key; None for unsupported and for private keys."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA"
    is_p256 = isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    return "ES256" if is_p256 else None


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def origin_problem(url: str) -> str | None:
    """Check `public_url`: scheme and host only, https unless loopback."""
    parts = _split(url)
    if parts is None or parts.path or "@" in parts.netloc or "?" in url or "#" in url:
        return "scheme and host only, as in https://broker.example.com"
    return _scheme_problem(parts)


def internal_origin_problem(url: str) -> str | None:
    """Check `internal_url` like `public_url`, but allow http, because the network of operators may be trusted."""
    return None if origin_problem(url.replace("http://", "https://", 1)) is None else origin_problem(url)


def endpoint_problem(url: str) -> str | None:
    """Check a provider's address: https unless loopback; it may contain `{org}`."""
    parts = _split(url.replace("{org}", SOME_ORG))
    if parts is None or "#" in url or "@" in parts.netloc:
        return "an https address without user and fragment; {org} may stand in it"
    if SOME_ORG in (parts.hostname or "").rpartition(".")[2]:
        # Otherwise the name of the organisation would decide the host.
        return "a host of which {org} is only a part, as in https://{org}.example.com"
    return _scheme_problem(parts)


def page_problem(url: str) -> str | None:
    """Check the address of a page or service: https unless loopback, without `{org}`."""
    parts = _split(url)
    if parts is None or "#" in url or "@" in parts.netloc:
        return "an https address without user and fragment"
    return _scheme_problem(parts)


def shown(url: str) -> str:
    """Return an address without its user, password and query, which may be secret."""
    if "@" in url:
        # A password may have any character, so nothing after the scheme is safe to show.
        scheme = re.match(r"[a-z+]{1,20}://", url)
        return f"{scheme[0] if scheme else ''}…@…"
    cut = re.search(r"[?#]", url)
    return f"{url[: cut.end()]}…" if cut else url


def _scheme_problem(parts: SplitResult) -> str | None:
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname)):
        return None
    return "https://… (http only on loopback)"


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    if not url.isascii() or ODD.search(url):
        return None
    return parts if parts.hostname and parts.scheme in ("http", "https") else None
