"""The HTTP server under the applications: it limits connections, and answers malformed HTTP with a constant error.

aiohttp would quote the malformed line, `Authorization` included, in its log and in the body of its 400.
"""

import asyncio
import re
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from ipaddress import ip_network
from typing import Any, cast

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from broker.errors import BrokerError, InvalidRequest, Overloaded, RateLimited, TooLarge
from broker.http.edge import BASE, HAS_BASES, HEADERS, LIMITS, SAFE, SHORTCUT, Limits, Shortcut, problem
from broker.http.peers import LOCAL, peer_of
from broker.observe.logs import log_malformed

log = structlog.get_logger()
SHUTDOWN = 5.0
LINGER = 1.0
"""Seconds for a refused peer to read the answer, because closing immediately would reset the connection."""
LINGERING = 64
"""The most refused connections that get an answer at a time; others are closed without one."""
LOG_EVERY = 1.0
"""Seconds between two log lines about refused connections, so that they do not fill the log."""
BASED = re.compile(r"/~[0-9a-f]{32}(?=/)", re.ASCII)
VERSIONS = (HttpVersion10, HttpVersion11)
HEAR_OUT = 0.5
"""Seconds that a stop waits for a request on each new connection; some browsers connect without sending one."""
LOOK_AGAIN = 0.01
ACCEPT_AGAIN = 0.25
"""Seconds until the next attempt after accepting a connection failed, for instance without open files."""
Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class ConnectionLimiter:
    """Counts the open connections of a listener, in total and by peer, and refuses those beyond the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open = 0
        self.by_peer: Counter[str] = Counter()
        self.lingering = 0
        """The number of refused connections that are still open."""
        self._refused, self._logged_at = 0, float("-inf")

    def enter(self, peer: str) -> BrokerError | None:
        """Count a connection, or return the error to answer if there are too many."""
        limits = self._limits
        if self._open >= limits.connections:
            return self._refuse(
                Overloaded("there are too many connections; ask again in a moment", retry_after=1)
            )
        if limits.per_peer is not None and self.by_peer[peer] >= limits.per_peer and self._is_capped(peer):
            return self._refuse(
                RateLimited(f"one address may have {limits.per_peer} connections", retry_after=1)
            )
        self._open += 1
        self.by_peer[peer] += 1
        return None

    def leave(self, peer: str) -> None:
        """Stop counting a connection that has ended."""
        self._open -= 1
        self.by_peer[peer] -= 1
        if not self.by_peer[peer]:
            del self.by_peer[peer]

    def _is_capped(self, peer: str) -> bool:
        if peer == LOCAL:
            return False
        address = ip_network(peer).network_address
        return not any(address in network for network in self._limits.uncapped)

    def _refuse(self, error: BrokerError) -> BrokerError:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= LOG_EVERY:
            log.warning("connection.refused", code=error.code, refused=self._refused)
            self._refused, self._logged_at = 0, now
        return error


class QuietRequestHandler(web.RequestHandler):
    """Handles one connection, if the limiter admits it."""

    __slots__ = ("_asked_at", "_headers", "_limiter", "_peer", "_talking", "_unread", "_until_read")

    def __init__(
        self,
        server: web.Server,
        *,
        limiter: ConnectionLimiter,
        limits: Limits,
        headers: Mapping[str, str],
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self._limiter, self._headers = limiter, headers
        self._talking, self._unread = limits.talking, limits.unread
        self._until_read: asyncio.TimerHandle | None = None
        self._asked_at: float | None = None
        self._peer: str | None = None
        """The peer for which the limiter counts this connection; None if it does not."""

    def note_request(self) -> None:
        """Remember the time of a request."""
        self._asked_at = self._loop.time()

    @property
    def is_about_to_ask(self) -> bool:
        """True if the client may be sending a request, for which a stop should wait."""
        return self._asked_at is None or self._loop.time() - self._asked_at < self._talking

    def enter(self, peer: str) -> BrokerError | None:
        """Count the connection, or return the error to answer if there are too many."""
        refusal = self._limiter.enter(peer)
        if refusal is None:
            self._peer = peer
        return refusal

    def leave(self) -> None:
        """Stop counting the connection."""
        if self._peer is not None:
            self._limiter.leave(self._peer)
            self._peer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A connection with TLS was counted before its handshake.
        refusal = self.enter(peer_of(transport.get_extra_info("peername"))) if self._peer is None else None
        if refusal is None:
            super().connection_made(transport)
        else:
            # Nothing that the peer sends from now on is parsed.
            self._force_close = True
            # A cast, because uvloop's transports are no subclasses of asyncio's.
            self._turn_away(cast(asyncio.Transport, transport), refusal)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.leave()
        self._cancel_until_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is not None and self.transport is not None:
            self._until_read = self._loop.call_later(self._unread, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_until_read()

    def _cancel_until_read(self) -> None:
        if self._until_read is not None:
            self._until_read.cancel()
            self._until_read = None

    def log_exception(self, *_: object, exc_info: BaseException | None = None, **__: object) -> None:
        if isinstance(exc_info, web.RequestPayloadError | HttpProcessingError):
            # The unread rest of a body was malformed. The error is not logged, because it quotes the body.
            log_malformed(self._peer, None, exc_info)
        else:
            log.error("request.crashed", exc_info=exc_info)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size > 0:
            log_malformed(self._peer, status, exc)
            raise ConnectionError("the answer has begun already")
        return _refused(request, status, exc, self._headers)

    def _turn_away(self, transport: asyncio.Transport, refusal: BrokerError) -> None:
        limiter = self._limiter
        if limiter.lingering >= LINGERING:
            transport.close()
            return

        def end() -> None:
            limiter.lingering -= 1
            transport.abort()

        limiter.lingering += 1
        transport.write(_as_bytes(problem(refusal, secrets.token_hex(8))))
        if transport.can_write_eof():
            transport.write_eof()
        self._loop.call_later(LINGER, end)


class QuietServer(web.Server):
    """Creates a QuietRequestHandler for each connection."""

    def __call__(self) -> QuietRequestHandler:
        return QuietRequestHandler(self, loop=self._loop, **self._kwargs)


class QuietRunner(web.AppRunner):
    """Runs an application within its limits, without an access log, which would contain codes and states."""

    __slots__ = ("handshakes", "limits")

    def __init__(self, application: web.Application) -> None:
        self.limits = application[LIMITS]
        self.handshakes: set[asyncio.Task[None]] = set()
        """The running TLS handshakes."""
        super().__init__(application, handle_signals=False, shutdown_timeout=SHUTDOWN)

    async def cleanup(self) -> None:
        """Stop after answering the requests on all accepted connections."""
        for site in list(self.sites):
            await site.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAR_OUT):
                while self._someone_is_about_to_ask():  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(LOOK_AGAIN)
        for handshake in self.handshakes:
            handshake.cancel()
        await super().cleanup()

    def _someone_is_about_to_ask(self) -> bool:
        connections = self.server.connections if self.server else []
        return bool(self.handshakes) or any(
            isinstance(one, QuietRequestHandler) and one.is_about_to_ask for one in connections
        )

    async def _make_server(self) -> web.Server:
        usual, limits = await super()._make_server(), self.limits
        headers, make = self.app.get(HEADERS, SAFE), usual.request_factory
        return QuietServer(
            _quoting_nothing(usual.request_handler, headers, self.app.get(SHORTCUT)),
            request_factory=_without_base(make) if self.app.get(HAS_BASES) and make is not None else make,
            access_log=None,
            keepalive_timeout=limits.idle,
            lingering_time=limits.body_seconds,
            max_line_size=limits.line,
            max_field_size=limits.line,
            max_headers=limits.headers,
            limiter=ConnectionLimiter(limits),
            limits=limits,
            headers=headers,
        )


class TlsSite(web.BaseSite):
    """A listening socket that counts connections before their TLS handshake.

    asyncio's own TLS server reports a connection only after the handshake, so connections without one would have no
    limit.
    """

    __slots__ = ("_accepting", "_listening", "_quiet")

    def __init__(self, runner: QuietRunner, listening: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(runner, ssl_context=context)
        self._quiet, self._listening = runner, listening
        self._accepting: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return f"https://{self._listening.getsockname()}"

    async def start(self) -> None:
        await super().start()
        self._listening.setblocking(False)
        self._listening.listen(self._backlog)
        self._accepting = asyncio.create_task(self._accept_all(), name="accept")

    async def stop(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
        self._listening.close()
        await super().stop()

    async def _accept_all(self) -> None:
        loop, server = asyncio.get_running_loop(), cast(QuietServer, self._quiet.server)
        while True:
            try:
                connection, address = await loop.sock_accept(self._listening)
            except OSError as exc:
                log.warning("connection.not_accepted", error=exc.strerror)
                await asyncio.sleep(ACCEPT_AGAIN)
                continue
            handler = server()
            if handler.enter(peer_of(address)) is not None:
                # An answer would cost a handshake.
                connection.close()
            else:
                handshake = asyncio.create_task(self._shake_hands(handler, connection), name="tls handshake")
                self._quiet.handshakes.add(handshake)
                handshake.add_done_callback(self._quiet.handshakes.discard)
            # Many new connections must not delay the requests on the open ones.
            await asyncio.sleep(0)

    async def _shake_hands(self, handler: QuietRequestHandler, connection: socket.socket) -> None:
        within = self._quiet.limits.handshake
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: handler,
                connection,
                ssl=self._ssl_context,
                ssl_handshake_timeout=within,
                ssl_shutdown_timeout=within,
            )
        except OSError:
            # The peer speaks no TLS, disconnects or is too slow. TLS errors are OSErrors as well.
            handler.leave()
        except asyncio.CancelledError:
            handler.leave()
            raise


def _quoting_nothing(handle: Handle, headers: Mapping[str, str], shortcut: Shortcut | None) -> Handle:
    """Wrap a handler so that requests which no application must see get a constant answer."""

    async def quietly(request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, QuietRequestHandler):
            request.protocol.note_request()
        if request.version not in VERSIONS:
            # In HTTP/1.1: aiohttp would claim to speak the other version.
            if request.transport is not None:
                request.transport.write(_as_bytes(_refused(request, 400, None, headers)))
            raise ConnectionError("another version of HTTP")
        # A transfer coding below the chunks is refused: aiohttp would leave it encoded, a proxy might not.
        if (
            request.body_exists
            and request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked"
        ):
            return _refused(request, 400, None, headers)
        try:
            response = None if shortcut is None else await shortcut(request)
            return await handle(request) if response is None else response
        except web.HTTPException as exc:
            return _refused(request, exc.status, exc, headers)

    return quietly


def _without_base(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Wrap a request factory so that it moves the BASE from the path into the request."""

    def made(message: Any, *others: Any) -> web.BaseRequest:
        base = BASED.match(message.path) if message.path.startswith("/~") else None
        if base is None:
            return make(message, *others)
        url = message.url.with_path(message.url.raw_path[base.end() :], encoded=True, keep_query=True)
        request = make(message._replace(path=message.path[base.end() :], url=url), *others)
        request[BASE] = base[0]
        return request

    return made


def _refused(
    request: web.BaseRequest, status: int, exc: BaseException | None, headers: Mapping[str, str]
) -> web.Response:
    log_malformed(request.remote, status, exc)
    error: BrokerError
    match status:
        case 413 | 431:
            error = TooLarge("the request is larger than is taken here")
        case 500:
            error = BrokerError("An error of ours; quote the request id when you report it")
        case _:
            error = InvalidRequest("this is not a well-formed HTTP request")
    response = problem(error, secrets.token_hex(8))
    response.headers.update(headers)
    response.force_close()
    return response


def _as_bytes(response: web.Response) -> bytes:
    """Serialize an answer that is written without a request."""
    body = response.body if isinstance(response.body, bytes) else b""
    fields = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n{lines}\r\n".encode() + body
