"""Reads `[network]`, and the same keys of a provider: a proxy, whom to reach without it, and authorities to trust."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from broker.config.problems import quoted
from broker.config.read import Table
from broker.config.secrets import text_of
from broker.config.settings import NetworkSettings
from broker.files import read_regular
from broker.model import Secret

KEYS = ("proxy", "no_proxy", "ca_file")
VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
EXPECTED = '"http://host:port" (http://user:password@… as a secret), "environment" or "none"'
NO_PROXY = re.compile(r"[A-Za-z0-9.*:/\[\]_-]+", re.ASCII)


def read_network(
    table: Table, folder: Path, environ: Mapping[str, str], usual: NetworkSettings | None = None
) -> NetworkSettings:
    """The keys of this table; what it leaves out is as in `usual`."""
    usual = usual or NetworkSettings()
    proxy, no_proxy, ca = usual.proxy, usual.no_proxy, usual.ca
    if table.has("proxy"):
        proxy, no_proxy = _proxy(table, environ)
    if table.has("no_proxy"):
        no_proxy = table.texts("no_proxy", ())
        for one in no_proxy:
            if not NO_PROXY.fullmatch(one):
                table.wrong("no_proxy", quoted(one), 'names, addresses and networks, as in ".example.com"')
    if table.has("ca_file"):
        ca = _authorities(table, folder)
    for key in KEYS:
        table.raw(key)
    return NetworkSettings(proxy, no_proxy, ca)


def _proxy(table: Table, environ: Mapping[str, str]) -> tuple[Secret | None, tuple[str, ...]]:
    value = table.raw("proxy")
    if value == "none":
        return None, ()
    if value == "environment":
        found = next((environ[name] for name in VARIABLES if environ.get(name)), "")
        exempt = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        no_proxy = tuple(one for one in re.split(r"[,\s]+", exempt) if one)
        if not found:
            return None, no_proxy
        secret: Secret | None = Secret(found if "://" in found else f"http://{found}")
    else:
        secret, no_proxy = table.resolve("proxy", value), ()
    if secret is not None and not _is_proxy(secret.reveal()):
        # It may hold a password, so nothing of it is shown.
        table.wrong("proxy", "something else", EXPECTED)
        return None, no_proxy
    return secret, no_proxy


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme == "http"
        and bool(parts.hostname)
        and port is not None
        and parts.path in ("", "/")
        and not parts.query
        and not parts.fragment
        and url.isascii()
    )


def _authorities(table: Table, folder: Path) -> str | None:
    value = table.text("ca_file", "")
    path = folder / value
    try:
        text = text_of(read_regular(path))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except OSError as exc:
        # An SSLError is one as well: what it says is about the file's content.
        why = (
            "which holds no certificate (PEM)"
            if isinstance(exc, ssl.SSLError)
            else f"which cannot be read ({exc.strerror})"
        )
        table.wrong("ca_file", f"{path}, {why}", "a file of certificates (PEM)")
        return None
    except ValueError:
        table.wrong("ca_file", f"{path}, which holds no certificate (PEM)", "a file of certificates (PEM)")
        return None
    return text
