"""The peers of connections: their addresses behind proxies, what counts as one peer, and limits by peer."""

import asyncio
import re
import socket
import struct
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from broker.clock import Clock
from broker.errors import RateLimited

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
WITH_PORT = re.compile(r"\[([^\]]+)\](?::\d{1,5})?|([0-9.]+):\d{1,5}", re.ASCII)
CREDENTIALS = struct.Struct("iII")
"""pid, uid, gid: the kernel's struct ucred."""
ONE_SITE = 64
"""Bits of an IPv6 address that one customer cannot choose."""
LOCAL = "local"
"""A peer on a Unix socket."""
FAILURES = 20
WITHIN = 60.0
PEERS = 10_000


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """Return the client's address: the peer's, unless that is a trusted proxy; None for a Unix socket, which has none.

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


def peer_of(name: object) -> str:
    """Return the peer that the other end of a connection counts as; `name` is the `peername` of its socket."""
    return site_of(str(name[0])) if isinstance(name, tuple) else LOCAL


def site_of(address: str | None) -> str:
    """Return the peer that an address counts as: an IPv4 address, or an IPv6 network."""
    try:
        parsed = _plain(address or "")
    except ValueError:
        return "unknown"
    return str(IPv6Network((parsed, ONE_SITE), strict=False) if isinstance(parsed, IPv6Address) else parsed)


def peer_name(uid: int | None, address: str | None) -> str:
    """Return what failed credentials are counted by."""
    return site_of(address) if uid is None else f"uid {uid}"


def peer_uid(transport: asyncio.BaseTransport | None) -> int | None:
    """Return the uid that connected to a Unix socket (SO_PEERCRED, unix(7)); None on any other."""
    # Asked of every request: on TCP it is a tuple, and the socket's family takes longer to find out.
    if transport is None or isinstance(transport.get_extra_info("peername"), tuple):
        return None
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    _, uid, _ = CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return int(uid)


class Throttle:
    """The failures of the last minute, by peer; of too many peers those that failed longest ago are forgotten."""

    def __init__(
        self, clock: Clock, *, peers: int = PEERS, most: int = FAILURES, within: float = WITHIN
    ) -> None:
        self._clock, self._peers = clock, peers
        self._most, self._within = most, within
        self._failures: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        """How many peers are remembered."""
        return len(self._failures)

    def failed(self, peer: str) -> float | None:
        """Note a failure; return the seconds until the next may be answered in full, None while it still may."""
        now = self._clock.monotonic()
        recent = self._failures.pop(peer, None)
        if recent is None:
            recent = deque(maxlen=self._most)
            if len(self._failures) >= self._peers:
                del self._failures[next(iter(self._failures))]
        self._failures[peer] = recent
        if len(recent) == self._most and now - recent[0] < self._within:
            return recent[0] + self._within - now
        recent.append(now)
        return None


class UnknownUserLimits:
    """Limits, by address and in all, how often unknown people make the broker write or ask a provider."""

    def __init__(self, clock: Clock, *, most: int = 100, in_all: int = 5000, within: float = 600.0) -> None:
        self._by_site = Throttle(clock, most=most, within=within)
        self._all = Throttle(clock, most=in_all, within=within)

    def admit(self, site: str) -> None:
        """Count one more. Raises RateLimited."""
        wait = self._by_site.failed(site) or self._all.failed("")
        if wait is not None:
            raise RateLimited("Too many people connect from your network at once", retry_after=wait)


@lru_cache(maxsize=4096)
def _peer(text: str) -> tuple[Address | None, str | None]:
    """A peer's address, and how it is written: the same few ask again and again."""
    address = _parsed(text)
    return address, None if address is None else str(address)


def _parsed(text: str) -> Address | None:
    """An address, also with a port."""
    form = WITH_PORT.fullmatch(text.strip())
    try:
        return _plain((form[1] or form[2]) if form else text.strip())
    except ValueError:
        return None


def _plain(text: str) -> Address:
    """An address without its zone; an IPv4 address that is mapped to IPv6 is one of IPv4 (RFC 4291, 2.5.5.2)."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
