"""The HTTP client for providers. It knows the phases of a request and its limits, and nothing of OAuth.

Each request has a connection of its own: a reused idle one turns a harmless close into an ambiguous answer.
Redirects are not followed (aiohttp would send the secrets to the new origin). Only a configured proxy is used.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import is_ip_address
from multidict import CIMultiDict

from broker import __version__
from broker.config.settings import NetworkSettings
from broker.providers.message import decoded, read_message, unchunked
from broker.providers.network import PublicResolver, Resolver, proxy_for, trusting
from broker.providers.outcomes import BeforeSend, NotSent

USER_AGENT = f"token-broker/{__version__}"
MAX_BODY = 64 * 1024
MAX_HEADER, MAX_HEADERS = 64 * 1024, 1000
"""Bytes of a header, and the number of headers: those of a provider's front end are many and long."""
TOO_LARGE = "the answer could not be read: it is larger than 64 KiB"
MAX_RECEIVED = 1024 * 1024
CONNECT_TIMEOUT = 10.0
CONNECTION_TIMEOUT = 30.0
"""Seconds for the whole connection: the name, each address, a proxy's answer, TLS."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The request was sent. The answer, if any, is incomplete or cannot be read."""

    why: str
    timed_out: bool
    status: int | None = None
    prefix: bytes = field(default=b"", repr=False)
    arrived: bool = False
    """An answer was received, but it cannot be read to its end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of at most 64 KiB."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


Reply = NotSent | Lost | Answer


@dataclass(slots=True)
class _Progress:
    """The progress of one request."""

    before_send: BeforeSend | None = None
    sent: bool = False
    stopped: BaseException | None = None
    connection: "_Connection | None" = None


class _Connection(ResponseHandler):
    """A connection that keeps all bytes it receives, and goes on receiving when the HTTP parser gives up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.received = bytearray()
        self.refused: Exception | None = None
        """The error of the HTTP parser, if it gave up."""

    def set_response_params(self, **params: Any) -> None:
        super().set_response_params(**params)
        self._parser: Any = _Parser(self._parser, self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        super().data_received(data)
        if len(self.received) > MAX_RECEIVED:
            self.give_up()

    def connection_lost(self, exc: BaseException | None) -> None:
        payload = self._payload
        super().connection_lost(exc)
        if self.refused is not None and payload is not None:
            payload.set_exception(aiohttp.ClientPayloadError())

    def give_up(self) -> None:
        """Stop receiving and use what has been received."""
        if self.transport is not None:
            self.transport.close()


_made: ContextVar[_Connection] = ContextVar("_made")
"""The connection that the current task made last."""


class _Parser:
    """aiohttp's parser, except that an answer it rejects is still received to its end: it may hold a token."""

    def __init__(self, parser: Any, connection: _Connection) -> None:
        self._parser, self._connection = parser, connection

    def feed_data(self, data: bytes) -> Any:
        connection = self._connection
        if connection.refused is None:
            try:
                return self._parser.feed_data(data)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the bytes are there
                connection.refused = exc
        if read_message(bytes(connection.received)).framed:
            connection.give_up()
        return (), False, b""

    def feed_eof(self) -> Any:
        return None if self._connection.refused is not None else self._parser.feed_eof()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


class _Connector(aiohttp.TCPConnector):
    """A connector that notes each new connection: aiohttp forgets one whose trace raises, and leaves it open."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = partial(_Connection, loop=self._loop)

    async def _create_connection(
        self, req: Any, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        # aiohttp's own time-outs leave out the name server and the proxy's answer.
        async with asyncio.timeout(CONNECTION_TIMEOUT):
            made = await super()._create_connection(req, traces, timeout)
        if isinstance(made, _Connection):
            _made.set(made)
        return made


class ProviderClient:
    """An HTTP client for token, identity and revocation endpoints, with sessions for any and for public addresses."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        network: NetworkSettings | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._network, resolver = network or NetworkSettings(), resolver or Resolver()
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_announce)
        # aiohttp's own context for True verifies as well, and is made once: to read the roots takes 40 ms.
        verified = ssl_context or (trusting(self._network.ca) if self._network.ca else True)
        self._trusted, self._public = (
            aiohttp.ClientSession(
                connector=_Connector(force_close=True, limit=0, ssl=verified, resolver=one),
                trace_configs=[trace],
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT},
                max_line_size=MAX_HEADER,
                max_field_size=MAX_HEADER,
                max_headers=MAX_HEADERS,
                # A broken or mislabelled coding must not cost the bytes.
                auto_decompress=False,
            )
            for one in (resolver, PublicResolver(resolver))
        )

    async def get(self, url: str, *, headers: Mapping[str, str], timeout: float, public_only: bool) -> Reply:
        """Send one GET request, without a retry, and return the reply."""
        return await self.post(url, data=None, headers=headers, timeout=timeout, public_only=public_only)

    async def close(self) -> None:
        """Close both sessions."""
        await self._trusted.close()
        await self._public.close()

    async def post(
        self,
        url: str,
        *,
        data: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
        public_only: bool,
        before_send: BeforeSend | None = None,
    ) -> Reply:
        """POST `data` once, or GET if it is None. Raises only what `before_send` raises.

        `public_only`: a private address is not contacted. `timeout`: seconds for everything.
        """
        progress = _Progress(before_send)
        way = proxy_for(url, self._network)
        # A proxy resolves the name itself, and may have a private address of its own.
        session = self._public if public_only and way is None else self._trusted
        if public_only and is_ip_address(urlsplit(url).hostname):
            # The resolver is not asked for an address; the connector uses this same function to tell one.
            return NotSent("no connection (an address in place of a name)")
        try:
            async with session.request(
                "GET" if data is None else "POST",
                url,
                data=data,
                headers={"Accept": "application/json", "Accept-Encoding": "identity", **headers},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT),
                trace_request_ctx=progress,
                proxy=None if way is None else way[0],
                proxy_headers=None if way is None else way[1],
            ) as response:
                received = b""
                async for chunk in response.content.iter_chunked(8192):
                    received += chunk
                    if len(received) > MAX_BODY:
                        response.close()
                        return Lost(TOO_LARGE, False, response.status, received, arrived=True)
                return _answer(response.status, response.headers, received)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, UnicodeError) as exc:
            return _failed(exc, progress)


async def _announce(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    """Call `before_send` on the new connection, before anything is sent: here the intent is stored (R3)."""
    progress: _Progress = context.trace_request_ctx
    connection = progress.connection = _made.get()
    try:
        if progress.before_send is not None:
            await progress.before_send()
    except BaseException as exc:
        progress.stopped = exc
        connection.close()
        raise
    progress.sent = True


def _answer(status: int, headers: Mapping[str, str], received: bytes) -> Reply:
    """Return the answer with its content decoded."""
    received = unchunked(received, headers.get("Transfer-Encoding", ""))
    body, problem = decoded(received, headers.get("Content-Encoding", ""), MAX_BODY)
    if problem is not None:
        return Lost(f"the answer could not be read: {problem}", False, status, body, arrived=True)
    if len(body) > MAX_BODY:
        return Lost(TOO_LARGE, False, status, body, arrived=True)
    return Answer(status, headers, body)


def _failed(exc: Exception, progress: _Progress) -> Reply:
    if progress.stopped is not None and not isinstance(progress.stopped, asyncio.CancelledError):
        raise progress.stopped
    if not progress.sent:
        return NotSent(f"no connection ({_cause(exc)})")
    timed_out, connection = isinstance(exc, TimeoutError), progress.connection
    refused, raw = (None, b"") if connection is None else (connection.refused, bytes(connection.received))
    if not raw:
        return Lost(f"no answer ({_cause(exc)})", timed_out)
    message = read_message(raw)
    if message.framed and message.status is not None and len(message.body) <= MAX_BODY:
        return _answer(message.status, CIMultiDict(message.headers), message.body)
    body, _ = decoded(message.body, message.headers.get("content-encoding", ""), MAX_BODY)
    if refused is None and message.framed is not None:
        return Lost(f"no whole answer ({_cause(exc)})", timed_out, message.status, body)
    # The parser's own words quote the answer, which may hold tokens.
    why = _cause(exc) if refused is None else type(refused).__name__
    return Lost(f"the answer could not be read ({why})", timed_out, message.status, body or raw, arrived=True)


def _cause(exc: Exception) -> str:
    """Return what failed below HTTP, in the words of the system or of TLS; aiohttp's may hold our headers."""
    if isinstance(exc, TimeoutError):
        return "timed out"
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {exc.status}"
    if isinstance(exc, aiohttp.ClientProxyConnectionError):
        return "the proxy cannot be reached"
    inner: BaseException = exc
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        inner = exc.certificate_error
    elif isinstance(exc, aiohttp.ClientConnectorError):
        inner = exc.os_error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"the certificate is not valid: {inner.verify_message}"
    if isinstance(inner, ssl.SSLError):
        return f"TLS: {inner.reason or type(inner).__name__}"
    if isinstance(inner, OSError) and inner.errno is not None and inner.errno > 0:
        return os.strerror(inner.errno)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return type(exc).__name__
