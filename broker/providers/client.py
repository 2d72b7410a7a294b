"""The one place that talks to a provider: it knows the phases of a request and its limits, and nothing of OAuth.

Each request has a connection of its own: a reused idle one turns a harmless close into an ambiguous answer.
No redirects (aiohttp would re-send the secrets to the new origin), no proxy from the environment, 64 KiB.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import is_ip_address

from broker import __version__
from broker.providers.interface import BeforeSend

USER_AGENT = f"token-broker/{__version__}"
MAX_BODY = 64 * 1024
CONNECT_TIMEOUT = 10.0
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as an IPv6-only network sees them (RFC 6052)."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """Nothing of the request left."""

    why: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The request left; what came back, if anything, is incomplete."""

    why: str
    timed_out: bool
    status: int | None = None
    prefix: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of at most 64 KiB."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


Reply = Unsent | Lost | Answer


@dataclass(slots=True)
class _Progress:
    """How far one request has come."""

    before_send: BeforeSend
    sent: bool = False
    stopped: BaseException | None = None
    status: int | None = None
    received: bytearray = field(default_factory=bytearray)


_made: ContextVar[ResponseHandler] = ContextVar("_made")
"""The connection that the running task has just made."""


class _Connector(aiohttp.TCPConnector):
    """Remembers a new connection: aiohttp forgets one whose trace raises, and it would stay open for ever."""

    async def _create_connection(
        self, req: Any, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        made = await super()._create_connection(req, traces, timeout)
        _made.set(made)
        return made


class PublicResolver(AbstractResolver):
    """Resolves names, and refuses private addresses: for hosts that were made from a person's input."""

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not all(is_public(result["host"]) for result in found):
            raise OSError(None, f"{host} resolves to an address that is not public")
        return found

    async def close(self) -> None:
        await self._inner.close()


def is_public(text: str) -> bool:
    """Whether an address is of the public internet, whatever it is dressed up as."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast


class ProviderClient:
    """An HTTP client for token, identity and revocation endpoints."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_announce)
        # aiohttp's own context for True verifies as well, and is made once: to read the roots takes 40 ms.
        verified = ssl_context or True
        self._trusted = _session(_Connector(force_close=True, limit=0, ssl=verified), trace)
        self._public = _session(
            _Connector(force_close=True, limit=0, ssl=verified, resolver=PublicResolver()), trace
        )

    async def post(
        self,
        url: str,
        *,
        data: bytes,
        headers: Mapping[str, str],
        timeout: float,
        before_send: BeforeSend,
        public_only: bool,
    ) -> Reply:
        """POST once. Raises only what `before_send` raised."""
        return await self._request(
            "POST",
            url,
            data=data,
            headers=headers,
            timeout=timeout,
            progress=_Progress(before_send),
            public_only=public_only,
        )

    async def get(self, url: str, *, headers: Mapping[str, str], timeout: float, public_only: bool) -> Reply:
        """GET once."""
        return await self._request(
            "GET",
            url,
            data=None,
            headers=headers,
            timeout=timeout,
            progress=_Progress(_nothing),
            public_only=public_only,
        )

    async def close(self) -> None:
        await self._trusted.close()
        await self._public.close()

    async def _request(
        self,
        method: str,
        url: str,
        *,
        data: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
        progress: _Progress,
        public_only: bool,
    ) -> Reply:
        session = self._public if public_only else self._trusted
        if public_only and is_ip_address(urlsplit(url).hostname):
            # A literal never comes to the resolver; what is one, the connector decides by this very function.
            return Unsent("no connection (an address in place of a name)")
        try:
            async with session.request(
                method,
                url,
                data=data,
                headers={"Accept": "application/json", "Accept-Encoding": "identity", **headers},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT),
                trace_request_ctx=progress,
            ) as response:
                progress.status = response.status
                return await _read(response, progress)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, UnicodeError) as exc:
            return _failed(exc, progress)


def _session(connector: aiohttp.TCPConnector, trace: aiohttp.TraceConfig) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        trace_configs=[trace],
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT},
    )


async def _announce(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    """The connection stands and nothing was sent: the moment for the durable intent (R3)."""
    progress: _Progress = context.trace_request_ctx
    try:
        await progress.before_send()
    except BaseException as exc:
        progress.stopped = exc
        _made.get().close()
        raise
    progress.sent = True


async def _nothing() -> None:
    """No announcement."""


async def _read(response: aiohttp.ClientResponse, progress: _Progress) -> Reply:
    async for chunk in response.content.iter_chunked(8192):
        progress.received += chunk
        if len(progress.received) > MAX_BODY:
            response.close()
            return Lost("the answer is larger than 64 KiB", False, response.status, bytes(progress.received))
    return Answer(response.status, response.headers, bytes(progress.received))


def _failed(exc: Exception, progress: _Progress) -> Reply:
    if progress.stopped is not None and not isinstance(progress.stopped, asyncio.CancelledError):
        raise progress.stopped
    timed_out = isinstance(exc, TimeoutError)
    # The text of aiohttp's errors can hold our headers, so only the class is told.
    why = "timed out" if timed_out else type(exc).__name__
    if not progress.sent:
        return Unsent(f"no connection ({why})")
    return Lost(f"no whole answer ({why})", timed_out, progress.status, bytes(progress.received))
