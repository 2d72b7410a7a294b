"""Finds the address of a client behind proxies, and limits failures and connections by peer."""

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
"""The prefix length of an IPv6 network that counts as one peer: one customer may have a whole /64."""
LOCAL = "local"
"""The peer of all connections on a Unix socket."""
FAILURES = 20
WITHIN = 60.0
PEERS = 10_000


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """Return the address of the client, which may be behind trusted proxies; None on a Unix socket.

    `forwarded` are the lines of X-Forwarded-For. They are read from the right as long as the hops are trusted,
    because a client can write the entries further left itself. An entry that is no address ends the search.
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
    """Return the peer for the `peername` of a socket."""
    return site_of(str(name[0])) if isinstance(name, tuple) else LOCAL


def site_of(address: str | None) -> str:
    """Return the peer for an address: the IPv4 address itself, or its IPv6 /64."""
    try:
        parsed = _plain(address or "")
    except ValueError:
        return "unknown"
    return str(IPv6Network((parsed, ONE_SITE), strict=False) if isinstance(parsed, IPv6Address) else parsed)


def peer_name(uid: int | None, address: str | None) -> str:
    """Return the key under which failed credentials are counted: the uid, else the peer of the address."""
    return site_of(address) if uid is None else f"uid {uid}"


def peer_uid(transport: asyncio.BaseTransport | None) -> int | None:
    """Return the uid of the client of a Unix socket (SO_PEERCRED, unix(7)); None on other sockets."""
    # This runs for every request, and the type of the peername is cheaper than the socket's family.
    if transport is None or isinstance(transport.get_extra_info("peername"), tuple):
        return None
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    _, uid, _ = CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return int(uid)


class Throttle:
    """Counts recent failures by peer. If there are too many peers, the least recent ones are forgotten."""

    def __init__(
        self, clock: Clock, *, peers: int = PEERS, most: int = FAILURES, within: float = WITHIN
    ) -> None:
        self._clock, self._peers = clock, peers
        self._most, self._within = most, within
        self._failures: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        """Return the number of peers with recent failures."""
        return len(self._failures)

    def failed(self, peer: str) -> float | None:
        """Count a failure. Return None within the limit, else the seconds until the next one is permitted."""
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
    """Limits how often anonymous users cause writes or requests to providers, by address and in total."""

    def __init__(self, clock: Clock, *, most: int = 100, in_all: int = 5000, within: float = 600.0) -> None:
        self._by_site = Throttle(clock, most=most, within=within)
        self._all = Throttle(clock, most=in_all, within=within)

    def admit(self, site: str) -> None:
        """Count a request of a peer; raises RateLimited beyond the limit."""
        wait = self._by_site.failed(site) or self._all.failed("")
        if wait is not None:
            raise RateLimited("Too many people connect from your network at once", retry_after=wait)


@lru_cache(maxsize=4096)
def _peer(text: str) -> tuple[Address | None, str | None]:
    """Return an address and its text. It is cached because the same peers connect repeatedly."""
    address = _parsed(text)
    return address, None if address is None else str(address)


def _parsed(text: str) -> Address | None:
    """Parse an address with or without a port; None if it is not one."""
    form = WITH_PORT.fullmatch(text.strip())
    try:
        return _plain((form[1] or form[2]) if form else text.strip())
    except ValueError:
        return None


def _plain(text: str) -> Address:
    """Parse an address without its zone. An IPv4-mapped one becomes IPv4 (RFC 4291, 2.5.5.2)."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
