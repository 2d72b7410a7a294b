"""`broker_auth` for aiohttp: adds the token to every request, and repeats it once with a new one after a 401."""

from contextvars import ContextVar

import aiohttp
from aiohttp import hdrs
from aiohttp.payload import BytesPayload
from yarl import URL

from .clients import Broker, replacement_async

REDIRECTS = frozenset({301, 302, 303, 307, 308})
ANYWHERE = URL()
"""The target of a redirect that cannot be parsed."""


def broker_auth(broker: Broker, account: str) -> aiohttp.ClientMiddlewareType:
    """Return a middleware, as in `aiohttp.ClientSession(middlewares=[broker_auth(Broker(…), "acme")])`.

    A request whose body is a stream is not repeated, because the stream is used up; its 401 is reported nevertheless.
    """
    redirected_to: ContextVar[URL | None] = ContextVar("redirected_to", default=None)
    """The foreign origin to which the last answer in this context redirects; it must not get the token."""

    async def middleware(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        # aiohttp calls this for each hop, and does not say which of them are redirects.
        is_foreign = redirected_to.get() in (request.url.origin(), ANYWHERE)
        redirected_to.set(None)
        if is_foreign:
            response = await handler(request)
        else:
            response = await _authenticated(broker, account, request, handler)
        leads_to = _target(response)
        if leads_to is not None and (is_foreign or leads_to != request.url.origin()):
            redirected_to.set(leads_to)
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
    """Return the origin that a redirect leads to, or None if the answer is not one."""
    location = response.headers.get(hdrs.LOCATION) or response.headers.get(hdrs.URI)
    if response.status not in REDIRECTS or not location:
        return None
    try:
        return response.url.join(URL(location)).origin()
    except ValueError:
        return ANYWHERE
