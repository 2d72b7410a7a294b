"""The fast path of `GET /token/NAME`, which answers from the cache before the request reaches the application.

A caller that was authenticated a moment ago needs no router and no middleware, and an account in the cache needs no
decision. Authorization, audit, metrics, log line and answer are the same as in the application, which answers every
request that is not that simple.
"""

import time
from collections.abc import Callable, Mapping
from email.utils import formatdate

from aiohttp import HttpVersion11, web

from broker.callers.authorization import may
from broker.context import Context
from broker.errors import AuditUnavailable
from broker.http.edge import SERVER, client_of, request_id_of
from broker.model import Caller, Permission, is_account_name
from broker.observe.logs import log_answer
from broker.times import SecondText
from broker.tokens.cache import TokenCache
from broker.tokens.routes import PATH
from broker.tokens.service import Uses

PREFIX = PATH.partition("{")[0]


class HotTokens:
    """The fast path for token requests on the internal listener."""

    def __init__(
        self,
        context: Context,
        *,
        callers: Callable[[web.BaseRequest], Caller | None],
        cache: TokenCache,
        uses: Uses,
        headers: Mapping[str, str],
    ) -> None:
        self._context, self._callers, self._cache, self._uses = context, callers, cache, uses
        # Each of these is read on every request.
        self._authorizer, self._metrics = context.authorizer, context.metrics
        self._now, self._wall = context.steady.now, context.clock.now
        answered = {"Content-Type": "application/json", "Server": SERVER, **headers}
        self._head = "".join(
            ("HTTP/1.1 200 OK\r\n", *(f"{name}: {value}\r\n" for name, value in answered.items()))
        ).encode()
        self._dates = SecondText(lambda second: formatdate(second, usegmt=True))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """Return the answer, or None if the application has to answer."""
        path = request.raw_path
        if not path.startswith(PREFIX) or self._context.health.stopping or not _is_plain(request):
            return None
        began, caller, name = time.perf_counter(), self._callers(request), path[len(PREFIX) :]
        if caller is None or not is_account_name(name) or not may(caller, Permission.TOKEN, name):
            return None
        now = self._now()
        entry = self._cache.entry(name, now)
        if entry is None:
            return None
        head, tail, _, _, opens, provider, _, generation, fingerprint = entry
        request_id = request_id_of(request)
        client = client_of(request, self._context.settings.server.trusted_proxies)
        try:
            await self._authorizer.handed_out(
                caller, name, generation, fingerprint, request_id=request_id, client=client
            )
        except AuditUnavailable:
            return None
        self._uses.note(name, caller.name, now, opens)
        self._metrics.token_requests.count(provider, "served")
        self._metrics.token_requests.observe(time.perf_counter() - began)
        body = b"%b%d%b" % (head, int(opens - now), tail)
        content = b'%bETag: "%d"\r\nX-Request-Id: %b\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b' % (
            self._head,
            generation,
            request_id.encode(),
            self._dates.of(self._wall()).encode(),
            len(body),
            body,
        )
        log_answer("internal", PATH, "GET", 200, time.perf_counter() - began, request_id, client, caller.name)
        return _Answer(content, is_last=self._context.health.stopping)


class _Answer(web.StreamResponse):
    """An answer whose bytes are ready, because aiohttp would compute each header again."""

    def __init__(self, content: bytes, *, is_last: bool) -> None:
        super().__init__()
        self._content = content
        if is_last:
            self.force_close()

    @property
    def keep_alive(self) -> bool:
        return super().keep_alive is not False

    async def prepare(self, request: web.BaseRequest) -> None:
        if request.transport is None:
            raise ConnectionError("the caller has hung up")
        if not self.keep_alive:
            self._content = self._content.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        request.transport.write(self._content)
        if request.protocol.writing_paused:
            # The peer does not read, so its next request has to wait.
            await request.writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has written everything."""


def _is_plain(request: web.BaseRequest) -> bool:
    """Return whether the request asks for the token alone, over a connection that stays open."""
    headers = request.headers
    return (
        request.method == "GET"
        and request.version == HttpVersion11
        and request.keep_alive
        and not request.body_exists
        and "If-None-Match" not in headers
        and "Expect" not in headers
        and "text/plain" not in headers.get("Accept", "")
    )
