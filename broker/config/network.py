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
OTHER_KINDS = frozenset({"https", "socks", "socks4", "socks4a", "socks5", "socks5h"})
ADDRESS = re.compile(
    r"http://([!-~]*@)?([A-Za-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?/?", re.ASCII | re.IGNORECASE
)
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
    name = None
    if value == "environment":
        given = {one: environ.get(one, "").strip() for one in VARIABLES}
        name = next((one for one in VARIABLES if given[one]), None)
        exempt = environ.get("no_proxy", "").strip(", \t") or environ.get("NO_PROXY", "")
        no_proxy = tuple(one for one in re.split(r"[,\s]+", exempt) if one)
        if name is None:
            return None, no_proxy
        url = given[name] if "://" in given[name] else f"http://{given[name]}"
    else:
        secret, no_proxy = table.resolve("proxy", value), ()
        if secret is None:
            return None, no_proxy
        url = secret.reveal()
    if wrong := _problem(url):
        table.wrong("proxy", f"${name}, {wrong}" if name else wrong, EXPECTED)
        return None, no_proxy
    return Secret(f"http://{url[len('http://') :].removesuffix('/')}"), no_proxy


def _problem(url: str) -> str | None:
    """What is wrong with a proxy's address; nothing of it but a known scheme, because it may hold a password."""
    scheme = url.partition("://")[0].lower()
    if scheme in OTHER_KINDS:
        return f"{'an' if scheme == 'https' else 'a'} {scheme} proxy"
    form = ADDRESS.fullmatch(url)
    try:
        netloc = urlsplit(url).netloc
    except ValueError:
        netloc = ""
    # A `/`, `?` or `#` in the password would end the address before the host.
    if form is None or netloc != url[len("http://") :].removesuffix("/"):
        return "something else"
    if form["port"] is None:
        return "a proxy without a port"
    return None if 0 < int(form["port"]) < 65536 else "something else"


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
