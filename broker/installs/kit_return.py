"""Kit's `redirect`: where the creator goes back to after an install. Pure."""

import re
from urllib.parse import unquote, urlsplit

from broker.providers.kinds import KIT

ALLOWED_HOST = "app.kit.com"
PLAIN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,2048}", re.ASCII)
"""Visible ASCII without quotes and backslashes."""


def from_raw_query(raw_query: str) -> str | None:
    """What Kit put behind `redirect=`, verbatim.

    Kit sends it unencoded with a nested `?` (developers.kit.com, "App authentication"), so everything behind
    the first `redirect=` belongs to it; it is decoded only where it begins percent-encoded.
    """
    found = re.search(r"(?:^|&)redirect=(.*)", raw_query, re.DOTALL)
    if found is None:
        return None
    value = found[1]
    return unquote(value) if value[:9].lower().startswith("https%3a") else value


def app_page(app_id: int | None, kit: str) -> str:
    """The app's page at Kit, where `kit` is; without an app id the page of all apps."""
    return f"{kit}/apps" + (f"/{app_id}" if app_id is not None else "")


def is_allowed(url: str, kit: str = KIT) -> bool:
    """Whether the browser may be sent there: https, exactly Kit's host, below /apps, nothing clever.

    `kit`: where a sandbox plays Kit; its pages are allowed as well.
    """
    if not PLAIN.fullmatch(url):
        return False
    if kit != KIT and (url == f"{kit}/apps" or url.startswith((f"{kit}/apps/", f"{kit}/apps?"))):
        return "/.." not in unquote(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        # As it is written: urlsplit() would take "Https" as well.
        url.startswith("https://")
        and parts.netloc == ALLOWED_HOST
        and port is None
        and (parts.path == "/apps" or parts.path.startswith("/apps/"))
        and "/.." not in unquote(parts.path)
    )
