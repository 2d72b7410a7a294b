"""`broker_auth` for aiohttp: the token on every request, and once more with a new one after a 401."""

from contextvars import ContextVar

import aiohttp
from aiohttp import hdrs
from aiohttp.payload import BytesPayload
from yarl import URL

from .clients import Broker, replacement_async

REDIRECTS = frozenset({301, 302, 303, 307, 308})
ANYWHERE = URL()
"""Where a redirect leads that we cannot read."""


def broker_auth(broker: Broker, account: str) -> aiohttp.ClientMiddlewareType:
    """`aiohttp.ClientSession(middlewares=[broker_auth(Broker(…), "acme")])`.

    A request whose body is a stream is not repeated, since it is gone; its 401 is reported all the same.
    """
    strayed: ContextVar[URL | None] = ContextVar("strayed", default=None)
    """The origin that the last answer in this context leads to, if that is beyond the first one's."""

    async def middleware(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        # aiohttp calls once for each hop, and does not say which are redirects.
        has_strayed = strayed.get() in (request.url.origin(), ANYWHERE)
        strayed.set(None)
        if has_strayed:
            response = await handler(request)
        else:
            response = await _authenticated(broker, account, request, handler)
        leads_to = _target(response)
        if leads_to is not None and (has_strayed or leads_to != request.url.origin()):
            strayed.set(leads_to)
        return response

    return middleware


async def _authenticated(
    broker: Broker, account: str, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    token = await broker.token(account)
    request.headers[hdrs.AUTHORIZATION] = token.header
    response = await handler(request)
    if response.status != 401:
        return response
    newer = await replacement_async(broker, token)
    is_repeatable = not request.body or isinstance(request.body, BytesPayload)
    if newer is None or not is_repeatable:
        return response
    response.release()
    request.headers[hdrs.AUTHORIZATION] = newer.header
    return await handler(request)


def _target(response: aiohttp.ClientResponse) -> URL | None:
    """The origin that a redirect leads to."""
    location = response.headers.get(hdrs.LOCATION) or response.headers.get(hdrs.URI)
    if response.status not in REDIRECTS or not location:
        return None
    try:
        return response.url.join(URL(location)).origin()
    except ValueError:
        return ANYWHERE
