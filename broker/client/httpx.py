"""`BrokerAuth` for httpx: adds the token to every request, and repeats it once with a new one after a 401."""

import asyncio
from collections.abc import AsyncGenerator, Generator

import httpx

from .clients import Broker, SyncBroker, replacement, replacement_async
from .tokens import Token


class BrokerAuth(httpx.Auth):
    """Authentication, as in `httpx.AsyncClient(auth=BrokerAuth(Broker(…), "acme"))`; `httpx.Client` has a `SyncBroker`.

    A request whose body is a stream is not repeated, because the stream is used up; its 401 is reported nevertheless.
    """

    def __init__(self, broker: Broker | SyncBroker, account: str) -> None:
        self._broker, self._account = broker, account

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if isinstance(self._broker, Broker):
            raise TypeError(
                "httpx.Client needs BrokerAuth(SyncBroker(…), …); Broker is for httpx.AsyncClient"
            )
        token = self._broker.token(self._account)
        response = yield _with(request, token)
        if _is_rejection(response, token):
            newer = replacement(self._broker, token)
            if newer is not None and isinstance(request.stream, httpx.ByteStream):
                yield _with(request, newer)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if isinstance(self._broker, SyncBroker):
            token = await asyncio.to_thread(self._broker.token, self._account)
        else:
            token = await self._broker.token(self._account)
        response = yield _with(request, token)
        if _is_rejection(response, token):
            if isinstance(self._broker, SyncBroker):
                newer = await asyncio.to_thread(replacement, self._broker, token)
            else:
                newer = await replacement_async(self._broker, token)
            if newer is not None and isinstance(request.stream, httpx.ByteStream):
                yield _with(request, newer)


def _with(request: httpx.Request, token: Token) -> httpx.Request:
    request.headers["Authorization"] = token.header
    return request


def _is_rejection(response: httpx.Response, token: Token) -> bool:
    """Return whether the API rejected this token; a redirect to another origin removed it from the request."""
    return response.status_code == 401 and response.request.headers.get("Authorization") == token.header
