"""The network below the HTTP client: name resolution, the configured proxy, and trusted authorities."""

import asyncio
import base64
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

from broker.config.settings import NetworkSettings
from broker.config.values import is_loopback

WITHIN = 10.0
"""Seconds to wait for a name server."""
WITHIN_IF_KNOWN = 3.0
"""Seconds to wait where an earlier answer can be used instead."""
THREADS = 4
"""Names resolved in parallel. `getaddrinfo` cannot be cancelled, and takes 20 s if the name server is down."""
KNOWN = 256
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses in an IPv6-only network (RFC 6052)."""
Lookup = Callable[..., list[Any]]


class Resolver(AbstractResolver):
    """A resolver with threads of its own, so that an unreachable name server delays only one provider.

    The last answer is used again while the name server does not answer; a name that does not exist is an error.
    """

    def __init__(self, *, lookup: Lookup = socket.getaddrinfo, within: float = WITHIN) -> None:
        self._lookup, self._within = lookup, within
        self._free = asyncio.Semaphore(THREADS)
        self._known: dict[tuple[str, int, int], list[ResolveResult]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError."""
        key = host, port, int(family)
        known = self._known.get(key)
        try:
            async with asyncio.timeout(self._within if known is None else min(WITHIN_IF_KNOWN, self._within)):
                found = await self._in_thread(host, port, family)
        except OSError as exc:
            if known is not None and (isinstance(exc, TimeoutError) or exc.errno == socket.EAI_AGAIN):
                return known
            raise
        if len(self._known) >= KNOWN:
            self._known.clear()
        answer = [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=family,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family, _, proto, _, address in found
        ]
        self._known[key] = answer
        return answer

    async def close(self) -> None:
        """Do nothing: the threads end with their lookups, and none keeps the process alive."""

    async def _in_thread(self, host: str, port: int, family: int) -> list[Any]:
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        done: Future[list[Any]] = Future()
        # A running future cannot be cancelled, so the thread can always set its result.
        done.set_running_or_notify_cancel()

        def work() -> None:
            kind, flags = socket.SOCK_STREAM, socket.AI_ADDRCONFIG
            try:
                done.set_result(self._lookup(host, port, family=family, type=kind, flags=flags))
            except OSError as exc:
                done.set_exception(exc)
            except Exception:  # noqa: BLE001 - a name that cannot be encoded
                done.set_exception(OSError(None, "no such name"))
            # Not before: a lookup whose result is no longer awaited still occupies its thread.
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._free.release)

        try:
            Thread(target=work, name="resolver", daemon=True).start()
        except RuntimeError:
            self._free.release()
            raise OSError(None, "no thread is left to resolve a name") from None
        return await asyncio.wrap_future(done)


class PublicResolver(AbstractResolver):
    """A resolver that refuses private addresses, for host names that contain user input."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or Resolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError if one of them is private."""
        found = await self._inner.resolve(host, port, family)
        if not all(is_public(result["host"]) for result in found):
            raise OSError(None, f"{host} resolves to an address that is not public")
        return found

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


def is_public(text: str) -> bool:
    """Return whether an address belongs to the public internet, also as an IPv4 address inside an IPv6 one."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast


def proxy_for(url: str, network: NetworkSettings) -> tuple[str, Mapping[str, str]] | None:
    """Return the address (without a password) and the headers of the proxy for a URL; None if it uses no proxy."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    target = host.rstrip(".").lower(), parts.port or 443
    if network.proxy is None or is_loopback(host) or any(_matches(*target, one) for one in network.no_proxy):
        return None
    proxy = urlsplit(network.proxy.reveal())
    address = f"http://{proxy.netloc.rpartition('@')[2]}"
    if proxy.username is None:
        return address, {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return address, {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


def _matches(host: str, port: int, pattern: str) -> bool:
    """Match an entry of `no_proxy` as curl does: a domain, an address, a network, each with or without a port; `*`."""
    pattern = pattern.strip().lower()
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern.strip("[]"), strict=False)
    name, colon, number = pattern.rpartition(":")
    if colon and number.isdigit():
        return int(number) == port and _matches(host, port, name.strip("[]"))
    name = pattern.removeprefix("*").strip(".")
    return pattern == "*" or (bool(name) and (host == name or host.endswith(f".{name}")))


@lru_cache(maxsize=16)
def trusting(ca: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's authorities and these (PEM)."""
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=ca)
    return context
