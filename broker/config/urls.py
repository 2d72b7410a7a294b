"""What an address in the configuration may look like. Pure; each check says what was expected, or None."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})", re.ASCII)
ODD = re.compile(r"[\x00-\x20\x7f\\{}]")
"""Characters that no address holds; urlsplit drops some of them silently."""
SOME_ORG = "some-org"
"""Stands where `{org}` is while an address is judged."""


def is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
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
