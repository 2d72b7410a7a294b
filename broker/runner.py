"""The HTTP server under the applications: what is not HTTP gets a constant answer, and nothing of it is logged.

aiohttp would quote the offending line, `Authorization` included, in its log and in the body of its 400.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog
from aiohttp import web

from broker.errors import BrokerError, InvalidRequest, TooLarge
from broker.web import KEEPALIVE, problem

log = structlog.get_logger()
SHUTDOWN = 5.0
HEAR_OUT = 0.5
"""Seconds that a stop gives those who have connected and not yet asked; some browsers never do."""
LOOK_AGAIN = 0.01
Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class QuietRequestHandler(web.RequestHandler):
    """One connection."""

    __slots__ = ("has_asked",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.has_asked = False

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
        return _refused(status, exc)


class QuietServer(web.Server):
    """Makes a quiet handler for each connection."""

    def __call__(self) -> web.RequestHandler:
        return QuietRequestHandler(self, loop=self._loop, **self._kwargs)


class QuietRunner(web.AppRunner):
    """Runs one application. No access log: it would write queries with codes and states."""

    __slots__ = ("_options",)

    def __init__(self, application: web.Application) -> None:
        self._options: dict[str, Any] = {"access_log": None, "keepalive_timeout": KEEPALIVE}
        super().__init__(application, handle_signals=False, shutdown_timeout=SHUTDOWN, **self._options)

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
        return any(isinstance(one, QuietRequestHandler) and not one.has_asked for one in connections)

    async def _make_server(self) -> web.Server:
        usual = await super()._make_server()
        handle = _quoting_nothing(usual.request_handler)
        return QuietServer(handle, request_factory=usual.request_factory, **self._options)


def _quoting_nothing(handle: Handle) -> Handle:
    """An unknown `Expect` is refused by aiohttp before the application's own edge, and quoted."""

    async def quietly(request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, QuietRequestHandler):
            request.protocol.has_asked = True
        try:
            return await handle(request)
        except web.HTTPException as exc:
            return _refused(exc.status, exc)

    return quietly


def _refused(status: int, exc: BaseException | None) -> web.Response:
    log.warning("request.malformed", status=status, error=type(exc).__name__)
    response = problem(_error(status), secrets.token_hex(8))
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
