"""The HTTP server under the applications: what is not HTTP gets a constant answer, and nothing of it is logged.

aiohttp would quote the offending line, `Authorization` included, in its log and in the body of its 400.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from broker.door import Door, peer_of
from broker.errors import BrokerError, InvalidRequest, TooLarge
from broker.web import HEADERS, LIMITS, SAFE, SHORTCUT, Limits, Shortcut, problem

log = structlog.get_logger()
SHUTDOWN = 5.0
LINGER = 1.0
"""Seconds for a peer that is turned away to read why; closing at once would reset the connection."""
LINGERING = 64
VERSIONS = (HttpVersion10, HttpVersion11)
HEAR_OUT = 0.5
"""Seconds that a stop gives those who are about to ask; some browsers connect and never do."""
LOOK_AGAIN = 0.01
Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class QuietRequestHandler(web.RequestHandler):
    """One connection, if there is room for it."""

    __slots__ = ("_asked_at", "_door", "_headers", "_peer", "_talking")

    def __init__(self, server: "QuietServer", *, door: Door, talking: float, **options: Any) -> None:
        super().__init__(server, **options)
        self._door, self._headers = door, server.headers
        self._peer: str | None = None
        """Whom the door has counted."""
        self._asked_at: float | None = None
        self._talking = talking

    def note_request(self) -> None:
        self._asked_at = self._loop.time()

    @property
    def is_about_to_ask(self) -> bool:
        """Whether a request may be on its way that nobody else would answer."""
        return self._asked_at is None or self._loop.time() - self._asked_at < self._talking

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = peer_of(transport)
        refusal = self._door.enter(peer)
        if refusal is None:
            self._peer = peer
            super().connection_made(transport)
        else:
            # Nothing that comes now is looked at.
            self._force_close = True
            # A cast, because uvloop's transports are no subclasses of asyncio's.
            self._turn_away(cast(asyncio.Transport, transport), refusal)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._peer is not None:
            self._door.leave(self._peer)
            self._peer = None
        super().connection_lost(exc)

    def log_exception(self, *_: object, exc_info: BaseException | None = None, **__: object) -> None:
        if isinstance(exc_info, web.RequestPayloadError | HttpProcessingError):
            # The rest of a body that nobody wanted was broken; what the error says quotes it.
            log.warning("request.malformed", status=None, error=type(exc_info).__name__)
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
            log.warning("request.malformed", status=status, error=type(exc).__name__)
            raise ConnectionError("the answer has begun already")
        return _refused(status, exc, self._headers)

    def _turn_away(self, transport: asyncio.Transport, refusal: BrokerError) -> None:
        if not self._door.linger(LINGERING):
            transport.close()
            return
        transport.write(_as_bytes(problem(refusal, secrets.token_hex(8))))
        if transport.can_write_eof():
            transport.write_eof()
        self._loop.call_later(LINGER, self._let_go, transport)

    def _let_go(self, transport: asyncio.Transport) -> None:
        self._door.let_go()
        transport.abort()


class QuietServer(web.Server):
    """Makes a quiet handler for each connection."""

    headers: Mapping[str, str]
    """What is on every answer of the application."""

    def __call__(self) -> web.RequestHandler:
        return QuietRequestHandler(self, loop=self._loop, **self._kwargs)


class QuietRunner(web.AppRunner):
    """Runs one application within its limits. No access log: it would write queries with codes and states."""

    __slots__ = ("_options",)

    def __init__(self, application: web.Application) -> None:
        self._options = _options(application[LIMITS])
        super().__init__(application, handle_signals=False, shutdown_timeout=SHUTDOWN)

    async def cleanup(self) -> None:
        """Stop, with an answer for everybody whose connection was taken: nobody else would answer them."""
        for site in list(self.sites):
            await site.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAR_OUT):
                while self._someone_is_about_to_ask():  # noqa: ASYNC110 - nobody tells when the last has asked
                    await asyncio.sleep(LOOK_AGAIN)
        await super().cleanup()

    def _someone_is_about_to_ask(self) -> bool:
        connections = self.server.connections if self.server else []
        return any(isinstance(one, QuietRequestHandler) and one.is_about_to_ask for one in connections)

    async def _make_server(self) -> web.Server:
        usual = await super()._make_server()
        headers = self.app.get(HEADERS, SAFE)
        handle = _quoting_nothing(usual.request_handler, headers, self.app.get(SHORTCUT, _no_shortcut))
        server = QuietServer(handle, request_factory=usual.request_factory, **self._options)
        server.headers = headers
        return server


def _options(limits: Limits) -> dict[str, Any]:
    return {
        "access_log": None,
        "keepalive_timeout": limits.idle,
        "lingering_time": limits.body_seconds,
        "max_line_size": limits.line,
        "max_field_size": limits.line,
        "max_headers": limits.headers,
        "door": Door(limits),
        "talking": limits.talking,
    }


async def _no_shortcut(_: web.BaseRequest) -> None:
    return None


def _quoting_nothing(handle: Handle, headers: Mapping[str, str], shortcut: Shortcut) -> Handle:
    """An unknown `Expect` is refused by aiohttp before the application's own edge, and quoted."""

    async def quietly(request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, QuietRequestHandler):
            request.protocol.note_request()
        if request.version not in VERSIONS:
            _refuse_version(request, headers)
        if request.body_exists and _is_coded(request):
            return _refused(400, None, headers)
        try:
            response = await shortcut(request)
            return await handle(request) if response is None else response
        except web.HTTPException as exc:
            return _refused(exc.status, exc, headers)

    return quietly


def _is_coded(request: web.BaseRequest) -> bool:
    """Whether a transfer coding lies below the chunks; aiohttp would leave it packed, a proxy might not."""
    return request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked"


def _refuse_version(request: web.BaseRequest, headers: Mapping[str, str]) -> None:
    """Answer in HTTP/1.1 (aiohttp would claim to speak the other version) and hang up."""
    if request.transport is not None:
        request.transport.write(_as_bytes(_refused(400, None, headers)))
    raise ConnectionError("another version of HTTP")


def _refused(status: int, exc: BaseException | None, headers: Mapping[str, str]) -> web.Response:
    log.warning("request.malformed", status=status, error=type(exc).__name__)
    response = problem(_error(status), secrets.token_hex(8))
    response.headers.update(headers)
    response.force_close()
    return response


def _as_bytes(response: web.Response) -> bytes:
    """An answer for which there is no request."""
    body = response.body if isinstance(response.body, bytes) else b""
    fields = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n{lines}\r\n".encode() + body


def _error(status: int) -> BrokerError:
    match status:
        case 413 | 431:
            return TooLarge("the request is larger than is taken here")
        case 500:
            return BrokerError("An error of ours; quote the request id when you report it")
        case _:
            return InvalidRequest("this is not a well-formed HTTP request")
