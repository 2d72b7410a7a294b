"""The short way of a plain question for a token, `GET /token/NAME`: answered before the application is asked.

A caller who proved itself a moment ago needs no router and no middleware. Where the token is valid and outside its
window, nothing has to be decided either. Authorization, audit, metrics, log line and answer are those of the ordinary
way; whatever is not plainly so is left to the application.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate

from aiohttp import HttpVersion11, web

from broker.callers.authorization import Authorizer, may
from broker.clock import Clock
from broker.errors import AuditUnavailable
from broker.http.edge import SERVER, client_of, expected_error, problem, request_id_of
from broker.http.peers import Network
from broker.model import ENDLESS, Caller, Permission, is_account_name
from broker.observe.logs import log_answer
from broker.observe.metrics import Metrics
from broker.times import SecondText
from broker.tokens.opened import RECENT, OpenedAccounts
from broker.tokens.packing import Glimpse, OpenedAccount, glimpse_of
from broker.tokens.policy import window_opens
from broker.tokens.routes import PATH, etag, token_json, token_parts
from broker.tokens.service import TokenService
from broker.tokens.uses import Uses

PREFIX = PATH.partition("{")[0]
NOTHING = None, None


@dataclass(frozen=True, slots=True)
class _Made:
    """What all answers with one token have in common."""

    of: Glimpse
    opens: float
    """When its window opens, epoch seconds."""
    etag: bytes
    before: bytes
    """The body up to the seconds that are left, and from there on."""
    after: bytes


class HotTokens:
    """A shortcut for the listener of services."""

    def __init__(
        self,
        *,
        callers: Callable[[web.BaseRequest], Caller | None],
        opened: OpenedAccounts,
        service: TokenService,
        uses: Uses,
        authorizer: Authorizer,
        clock: Clock,
        wall: Clock,
        metrics: Metrics,
        ahead: float,
        headers: Mapping[str, str],
        trusted_proxies: Sequence[Network],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._callers, self._opened, self._service, self._authorizer = callers, opened, service, authorizer
        self._uses = uses
        self._clock, self._wall, self._metrics, self._ahead = clock, wall, metrics, ahead
        self._trusted_proxies, self._is_stopping = trusted_proxies, is_stopping
        self._head = _head({"Content-Type": "application/json", "Server": SERVER, **headers})
        self._dates = SecondText(lambda second: formatdate(second, usegmt=True))
        self._made: dict[str, tuple[OpenedAccount, _Made]] = {}
        """While that very object is in memory, nothing about the account has changed."""

    def forget(self, name: str) -> None:
        """The row of this name has changed; a purged account's token must not stay in memory."""
        self._made.pop(name, None)

    def forget_all(self) -> None:
        """Any row may have changed."""
        self._made.clear()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """The answer; None where the application has to be asked."""
        path = request.raw_path
        if not path.startswith(PREFIX) or self._is_stopping() or not _is_plain(request):
            return None
        began, caller, name = time.perf_counter(), self._callers(request), path[len(PREFIX) :]
        if caller is None or not is_account_name(name):
            return None
        request_id, client = request_id_of(request), client_of(request, self._trusted_proxies)
        status, response = 200, await self._hot(caller, name, request_id, client, began)
        if response is None:
            response = await self._decided(request, caller.at(client), name, request_id)
            status = response.status
        if self._is_stopping():
            response.force_close()
        log_answer(
            "internal", PATH, "GET", status, time.perf_counter() - began, request_id, client, caller.name
        )
        return response

    async def _hot(
        self, caller: Caller, name: str, request_id: str, client: str | None, began: float
    ) -> web.StreamResponse | None:
        """The token, where nothing has to be decided."""
        if not may(caller, Permission.TOKEN, name):
            return None
        now = self._clock.now()
        made = self._made_of(name, now)
        if made is None:
            return None
        of = made.of
        try:
            await self._authorizer.handed_out(
                caller, name, of.generation, of.fingerprint, request_id=request_id, client=client
            )
        except AuditUnavailable:
            return None
        self._uses.note(name, caller.name, now, made.opens)
        self._metrics.token_requests.count(of.provider, "served")
        self._metrics.token_requests.observe(time.perf_counter() - began)
        body = b"%b%d%b" % (made.before, int(made.opens - now), made.after)
        return _Answer(self._content(made.etag, body, request_id))

    async def _decided(
        self, request: web.BaseRequest, caller: Caller, name: str, request_id: str
    ) -> web.StreamResponse:
        """What the service decides, as the application would answer it."""
        try:
            handout = await self._service.get(caller, name, min_ttl=0.0, request_id=request_id)
        except Exception as exc:
            if isinstance(exc, ConnectionError) and request.transport is None:
                raise  # nobody is left to answer
            response: web.StreamResponse = problem(expected_error(exc), request_id)
        else:
            body = token_json(handout).encode()
            response = _Answer(self._content(etag(handout.account).encode(), body, request_id))
        return response

    def _made_of(self, name: str, now: float) -> _Made | None:
        """None unless there is a token, and its window is a second away."""
        found = self._opened.at_hand(name)
        if isinstance(found, OpenedAccount):
            of, made = self._made.get(name, NOTHING)
            if of is not found:
                made = self._made_of_opened(found)
        else:
            made = None if found is None else self._make(found)
        return made if made is not None and made.opens - now >= 1 and _is_dated(made.of, now) else None

    def _made_of_opened(self, opened: OpenedAccount) -> _Made | None:
        if (shown := glimpse_of(opened)) is None:
            return None
        made = self._make(shown)
        if len(self._made) >= RECENT:
            self._made.clear()
        self._made[shown.name] = opened, made
        return made

    def _make(self, of: Glimpse) -> _Made:
        opens = window_opens(of, self._ahead)
        before, after = token_parts(of, of.access_token, expires_at=opens, warning=None)
        return _Made(of, opens, etag(of).encode(), before.encode(), after.encode())

    def _content(self, etag: bytes, body: bytes, request_id: str) -> bytes:
        return b"%bETag: %b\r\nX-Request-Id: %b\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            self._head,
            etag,
            request_id.encode(),
            self._dates.of(self._wall.now()).encode(),
            len(body),
            body,
        )


def _is_dated(of: Glimpse, now: float) -> bool:
    """Whether its times need no decision: issued in the past, with a stated end."""
    return of.issued_at <= now and of.life < ENDLESS / 2


def _head(headers: Mapping[str, str]) -> bytes:
    """The status line, and what is on every answer."""
    return "".join(
        ("HTTP/1.1 200 OK\r\n", *(f"{name}: {value}\r\n" for name, value in headers.items()))
    ).encode()


class _Answer(web.StreamResponse):
    """An answer whose bytes are known: the library would work out each header once more."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content

    @property
    def keep_alive(self) -> bool:
        return super().keep_alive is not False

    async def prepare(self, request: web.BaseRequest) -> None:
        if request.transport is None:
            raise ConnectionError("nobody is left to answer")
        if not self.keep_alive:
            self._content = self._content.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        request.transport.write(self._content)
        if request.protocol.writing_paused:
            # The peer does not read, so its next request has to wait.
            await request.writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything is written."""


def _is_plain(request: web.BaseRequest) -> bool:
    """Whether nothing but the token is asked for, over a connection that goes on."""
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
