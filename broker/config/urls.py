"""What an address in the configuration may look like. Pure; each check says what was expected, or None."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})", re.ASCII)


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
    if parts is None or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return "scheme and host only, as in https://broker.example.com"
    return _scheme_problem(parts)


def endpoint_problem(url: str) -> str | None:
    """A provider's address: https unless loopback; `{org}` may stand in it."""
    parts = _split(url.replace("{org}", "org"))
    if (
        parts is None
        or parts.fragment
        or "@" in parts.netloc
        or re.search(r"[{}\s]", url.replace("{org}", ""))
    ):
        return "an https address without user and fragment; {org} may stand in it"
    if url.startswith(("https://{org}/", "http://{org}")) or url.endswith("://{org}"):
        return "a host of which {org} is only a part, as in https://{org}.example.com"
    return _scheme_problem(parts)


def _scheme_problem(parts: SplitResult) -> str | None:
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname)):
        return None
    return "https (http only on loopback)"


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname and parts.scheme in ("http", "https") and url.isascii() else None
