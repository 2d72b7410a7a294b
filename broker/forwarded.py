"""Who is really asking when proxies stand between: the rightmost address that none of ours has vouched for."""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
WITH_PORT = re.compile(r"\[([^\]]+)\](?::\d{1,5})?|([0-9.]+):\d{1,5}", re.ASCII)


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """The client's address: the peer's, unless that is a trusted proxy; None where the peer has none (Unix sockets).

    `forwarded` are the lines of X-Forwarded-For. Each trusted hop vouches for the one to its left, and for no more:
    what a client wrote there itself lies further left. A hop that is no address ends the search.
    """
    address, text = _peer(peer or "")
    if address is None or not trusted:
        return text
    hops = [hop for line in forwarded for hop in line.split(",")]
    while hops and any(address in network for network in trusted):
        before = _parsed(hops.pop())
        if before is None:
            break
        address = before
    return str(address)


@lru_cache(maxsize=4096)
def _peer(text: str) -> tuple[Address | None, str | None]:
    """A peer's address, and how it is written: the same few ask again and again."""
    address = _parsed(text)
    return address, None if address is None else str(address)


def _parsed(text: str) -> Address | None:
    """An address, also with a port; one of IPv4 in the dress of IPv6 is one of IPv4 (RFC 4291, 2.5.5.2)."""
    form = WITH_PORT.fullmatch(text.strip())
    plain = (form[1] or form[2]) if form else text.strip()
    try:
        address = ipaddress.ip_address(plain.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
