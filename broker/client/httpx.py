"""`BrokerAuth` for httpx: the token on every request, and once more with a new one after a 401."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator

import httpx

from broker.client.asynchronous import Broker
from broker.client.errors import BrokerError
from broker.client.synchronous import SyncBroker
from broker.client.token import Token

log = logging.getLogger("broker.client")


class BrokerAuth(httpx.Auth):
    """`httpx.AsyncClient(auth=BrokerAuth(Broker(…), "acme"))`; `httpx.Client` takes a `SyncBroker`.

    A request whose body is a stream is not repeated, since it is gone; its 401 is reported all the same.
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
            try:
                newer = self._broker.rejected(token)
            except BrokerError as exc:
                _not_renewed(exc)
            else:
                if _is_repeatable(request):
                    yield _with(request, newer)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        token = await self._token()
        response = yield _with(request, token)
        if _is_rejection(response, token):
            try:
                newer = await self._rejected(token)
            except BrokerError as exc:
                _not_renewed(exc)
            else:
                if _is_repeatable(request):
                    yield _with(request, newer)

    async def _token(self) -> Token:
        if isinstance(self._broker, SyncBroker):
            return await asyncio.to_thread(self._broker.token, self._account)
        return await self._broker.token(self._account)

    async def _rejected(self, token: Token) -> Token:
        if isinstance(self._broker, SyncBroker):
            return await asyncio.to_thread(self._broker.rejected, token)
        return await self._broker.rejected(token)


def _with(request: httpx.Request, token: Token) -> httpx.Request:
    request.headers["Authorization"] = token.header
    return request


def _is_rejection(response: httpx.Response, token: Token) -> bool:
    """A redirect to another origin took the header off; that one's 401 says nothing of our token."""
    return response.status_code == 401 and response.request.headers.get("Authorization") == token.header


def _is_repeatable(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)


def _not_renewed(error: BrokerError) -> None:
    log.warning("the API's 401 stands, since there is no newer token: %s", error)
