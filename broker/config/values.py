"""What single values may look like: addresses, durations, names, keys. Each check says what was expected, or None."""

import ipaddress
import re
from collections.abc import Callable
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
"""Of a provider's or a plugin client's table."""
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+", re.ASCII)
"""A scope-token of RFC 6749 appendix A.4."""
VISIBLE = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)
"""What a client id or secret may hold (RFC 6749 appendix A)."""

HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})", re.ASCII)
ODD = re.compile(r"[\x00-\x20\x7f\\{}]")
"""Characters that no address holds; urlsplit drops some of them silently."""
SOME_ORG = "some-org"
"""Stands where `{org}` is while an address is judged."""


def matching(form: re.Pattern[str], expected: str) -> Callable[[str], str | None]:
    """The check that a text is wholly of that form."""
    return lambda text: None if form.fullmatch(text) else expected


def pointer_problem(example: str) -> Callable[[str], str | None]:
    """The check of a JSON pointer, RFC 6901."""
    return matching(re.compile(r"(/[^/~]*(~[01][^/~]*)*)+"), f'a JSON pointer, as in "{example}"')


def plugin_scope_problem(scope: str) -> str | None:
    is_one = SCOPE.fullmatch(scope) and "," not in scope
    return None if is_one else "scopes without spaces, commas, quotes and backslashes, each on its own"


def claim_problem(text: str) -> str | None:
    """A text that a claim of a JWT can hold."""
    return None if 0 < len(text) <= 512 and text.isprintable() else "1 to 512 printable characters"


def parse_duration(text: str) -> float | None:
    """Seconds, or None where it is no duration."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
    return float(found[1]) * UNITS[found[2]] if found else None


def algorithm_of(pem: str) -> OwnAlgorithm | None:
    """The one algorithm (RFC 7518, RFC 8037) that a public key verifies; None for any other key, and a private one."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA"
    is_p256 = isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    return "ES256" if is_p256 else None


def is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def origin_problem(url: str) -> str | None:
    """`public_url`: scheme and host only, https unless loopback."""
    parts = _split(url)
    if parts is None or parts.path or "@" in parts.netloc or "?" in url or "#" in url:
        return "scheme and host only, as in https://broker.example.com"
    return _scheme_problem(parts)


def internal_origin_problem(url: str) -> str | None:
    """`internal_url`: as `origin_problem`, but http will do where the operators' network is trusted."""
    return None if origin_problem(url.replace("http://", "https://", 1)) is None else origin_problem(url)


def endpoint_problem(url: str) -> str | None:
    """A provider's address: https unless loopback; `{org}` may stand in it."""
    parts = _split(url.replace("{org}", SOME_ORG))
    if parts is None or "#" in url or "@" in parts.netloc:
        return "an https address without user and fragment; {org} may stand in it"
    if SOME_ORG in (parts.hostname or "").rpartition(".")[2]:
        # Whoever names the org would otherwise name the host.
        return "a host of which {org} is only a part, as in https://{org}.example.com"
    return _scheme_problem(parts)


def page_problem(url: str) -> str | None:
    """A page that browsers are sent to: https unless loopback, and nothing to fill in."""
    parts = _split(url)
    if parts is None or "#" in url or "@" in parts.netloc:
        return "an https address without user and fragment"
    return _scheme_problem(parts)


def shown(url: str) -> str:
    """An address without what may be secret in it: a user, a password, a query."""
    if "@" in url:
        # A password may hold any character, so nothing behind the scheme is safe to show.
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
