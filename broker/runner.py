"""The HTTP server under the applications: what is not HTTP gets a constant answer, and nothing of it is logged.

aiohttp would quote the offending line, `Authorization` included, in its log and in the body of its 400.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from aiohttp import web

from broker.errors import BrokerError, InvalidRequest, TooLarge
from broker.web import HEADERS, KEEPALIVE, SAFE, problem

log = structlog.get_logger()
SHUTDOWN = 5.0
Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class QuietRequestHandler(web.RequestHandler):
    """One connection."""

    __slots__ = ("_headers",)

    def __init__(self, server: "QuietServer", **options: Any) -> None:
        super().__init__(server, **options)
        self._headers = server.headers

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            log.warning("request.malformed", status=status, error=type(exc).__name__)
            raise ConnectionError("the answer has begun already")
        return _refused(status, exc, self._headers)


class QuietServer(web.Server):
    """Makes a quiet handler for each connection."""

    headers: Mapping[str, str]
    """What is on every answer of the application."""

    def __call__(self) -> web.RequestHandler:
        return QuietRequestHandler(self, loop=self._loop, **self._kwargs)


class QuietRunner(web.AppRunner):
    """Runs one application. No access log: it would write queries with codes and states."""

    __slots__ = ("_options",)

    def __init__(self, application: web.Application) -> None:
        self._options: dict[str, Any] = {"access_log": None, "keepalive_timeout": KEEPALIVE}
        super().__init__(application, handle_signals=False, shutdown_timeout=SHUTDOWN, **self._options)

    async def _make_server(self) -> web.Server:
        usual = await super()._make_server()
        headers = self.app.get(HEADERS, SAFE)
        handle = _quoting_nothing(usual.request_handler, headers)
        server = QuietServer(handle, request_factory=usual.request_factory, **self._options)
        server.headers = headers
        return server


def _quoting_nothing(handle: Handle, headers: Mapping[str, str]) -> Handle:
    """An unknown `Expect` is refused by aiohttp before the application's own edge, and quoted."""

    async def quietly(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handle(request)
        except web.HTTPException as exc:
            return _refused(exc.status, exc, headers)

    return quietly


def _refused(status: int, exc: BaseException | None, headers: Mapping[str, str]) -> web.Response:
    log.warning("request.malformed", status=status, error=type(exc).__name__)
    response = problem(_error(status), secrets.token_hex(8))
    response.headers.update(headers)
    response.force_close()
    return response


def _error(status: int) -> BrokerError:
    match status:
        case 413 | 431:
            return TooLarge("the request is larger than is taken here")
        case 500:
            return BrokerError("An error of ours; quote the request id when you report it")
        case _:
            return InvalidRequest("this is not a well-formed HTTP request")
