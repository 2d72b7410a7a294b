"""Where the broker is: `http://…`, `https://…`, or `unix:/run/…/api.sock`."""

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """One of both."""

    base: str
    """What paths are put behind."""
    prefix: str
    """The path that the broker lies below, behind a proxy; mostly empty."""
    host: str
    port: int
    tls: bool
    unix_path: str | None


def read_address(url: str) -> Address:
    """Raises ValueError, which says what is expected."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        path = "/" + path.lstrip("/") if path.startswith("/") else path
        if not path:
            raise ValueError("the path of the Unix socket is missing, as in unix:/run/token-broker/api.sock")
        return Address("http://broker", "", "broker", 80, tls=False, unix_path=path)
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("the broker's URL holds no user, query or fragment; the key goes into key=")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the broker's URL is http://host:port, https://host:port or unix:/path")
    tls = parts.scheme == "https"
    prefix, port = parts.path.rstrip("/"), parts.port or (443 if tls else 80)
    base = f"{parts.scheme}://{parts.netloc}{prefix}"
    return Address(base, prefix, parts.hostname, port, tls=tls, unix_path=None)
