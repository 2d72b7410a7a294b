"""`Broker` for programs on asyncio and `SyncBroker` for programs with threads, or with one: both drive a Core."""

import asyncio
import http.client
import logging
import os
import socket
import ssl
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, Self, TypeVar
from urllib.parse import urlsplit

from .connection import Clock, Key, KeySource, read_address
from .core import Ask, Core, Reply, Talk
from .errors import BrokerAway, BrokerError
from .tokens import Token

Flight = TypeVar("Flight")
log = logging.getLogger(__package__)
MOST_BYTES = 1024 * 1024
TOO_LARGE = "the broker's answer is larger than 1 MiB"
NOT_RENEWED = "the API's 401 stands, since there is no newer token: %s"


class _Client(Generic[Flight]):
    """What both clients are made of."""

    def __init__(
        self,
        url: str,
        *,
        key: Key | None = None,
        key_file: str | os.PathLike[str] | None = None,
        patience: float = 30.0,
        while_away: float = 3600.0,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`url`: http, https or `unix:/path`. Key: `key`, `key_file` (read again each time), else `$BROKER_KEY`.

        `patience`: seconds one call goes on asking when no token is left. `while_away`: seconds for which a
        valid token is used past its `expires_in` when the broker cannot be reached.
        """
        self._base, self._socket = read_address(url)
        self._tls, self._clock = tls, clock or Clock()
        self._core = Core(
            keys=KeySource(key, key_file),
            patience=patience,
            while_away=while_away,
            now=self._clock.monotonic,
        )
        self._flights: dict[Hashable, Flight] = {}
        """The talks under way, by what they ask."""
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._socket or self._base}>"


def _away(error: Exception, ask: Ask) -> BrokerAway:
    if isinstance(error, TimeoutError):
        return BrokerAway(f"the broker did not answer within {ask.timeout:g} s")
    return BrokerAway(f"the broker cannot be reached: {type(error).__name__}")


class Broker(_Client["asyncio.Task[Token]"]):
    """Tokens by account name, cached for as long as the broker allows; one for the whole program."""

    async def token(self, account: str, *, min_ttl: float = 0.0) -> Token:
        """The account's token, to be used at once and asked for again next time; raises BrokerError.

        `min_ttl`: at least that many seconds of real life; where that cannot be had, its `warning` says so.
        """
        at_hand = self._core.at_hand(account, min_ttl)
        if at_hand is not None:
            return at_hand
        return await self._shared(("get", account, min_ttl), lambda: self._core.get(account, min_ttl))

    async def rejected(self, token: Token) -> Token:
        """The provider answered 401 to this token: the one after it; raises BrokerError.

        However many say it of one token, the broker is told once.
        """
        newer, report = self._core.newer(token), (token.account, token.generation)
        if newer is not None:
            return newer
        return await self._shared(("rejected", *report), lambda: self._core.rejected(*report))

    async def aclose(self) -> None:
        """End what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _shared(self, what: Hashable, begin: Callable[[], Talk]) -> Token:
        """One talk for all who ask the same; who gives up waiting ends only its own wait."""
        flight = self._flights.get(what)
        # A program may run one loop after another; what belonged to an ended one never ends.
        if flight is None or flight.get_loop() is not asyncio.get_running_loop():
            flight = asyncio.create_task(self._drive(begin()))
            self._flights[what] = flight
            flight.add_done_callback(lambda ended: self._ended(what, ended))
        return await asyncio.shield(flight)

    def _ended(self, what: Hashable, flight: asyncio.Task[Token]) -> None:
        if self._flights.get(what) is flight:
            del self._flights[what]
        if not flight.cancelled():
            # Told here, for the case that nobody waits any more.
            flight.exception()

    async def _drive(self, talk: Talk) -> Token:
        heard: Reply | BrokerAway | None = None
        while True:
            try:
                step = talk.send(heard)
            except StopIteration as ended:
                token: Token = ended.value
                return token
            if isinstance(step, Ask):
                heard = await self._send(step)
            else:
                await self._clock.sleep_async(step)
                heard = None

    async def _send(self, ask: Ask) -> Reply | BrokerAway:
        """One request on a connection of its own, so that nothing is left open and nothing stale is met."""
        import aiohttp  # noqa: PLC0415 - programs with threads need the standard library alone

        connector: aiohttp.BaseConnector
        if self._socket is not None:
            connector = aiohttp.UnixConnector(self._socket)
        else:
            connector = aiohttp.TCPConnector(ssl=self._tls or True, force_close=True)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=aiohttp.ClientTimeout(total=ask.timeout), trust_env=False
                ) as session,
                session.request(
                    ask.method,
                    self._base + ask.path,
                    data=ask.body or None,
                    headers=ask.headers,
                    allow_redirects=False,
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MOST_BYTES:
                        return BrokerAway(TOO_LARGE)
                return Reply(response.status, response.headers.get("Retry-After"), bytes(body))
        except (aiohttp.ClientError, OSError) as exc:
            return _away(exc, ask)


class SyncBroker(_Client["Future[Token]"]):
    """Tokens by account name, cached for as long as the broker allows; one for all threads."""

    def token(self, account: str, *, min_ttl: float = 0.0) -> Token:
        """As `Broker.token`."""
        at_hand = self._core.at_hand(account, min_ttl)
        if at_hand is not None:
            return at_hand
        return self._shared(("get", account, min_ttl), lambda: self._core.get(account, min_ttl))

    def rejected(self, token: Token) -> Token:
        """As `Broker.rejected`."""
        newer, report = self._core.newer(token), (token.account, token.generation)
        if newer is not None:
            return newer
        return self._shared(("rejected", *report), lambda: self._core.rejected(*report))

    def close(self) -> None:
        """For `with` and symmetry: nothing stays open between calls."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shared(self, what: Hashable, begin: Callable[[], Talk]) -> Token:
        """One talk for all threads that ask the same: the first holds it, the others wait for what it hears."""
        with self._lock:
            under_way = self._flights.get(what)
            flight: Future[Token] = under_way or Future()
            self._flights[what] = flight
        if under_way is not None:
            return under_way.result()
        try:
            try:
                token = self._drive(begin())
            finally:
                with self._lock:
                    del self._flights[what]
        except BaseException as exc:
            flight.set_exception(exc)
            raise
        flight.set_result(token)
        return token

    def _drive(self, talk: Talk) -> Token:
        heard: Reply | BrokerAway | None = None
        while True:
            try:
                step = talk.send(heard)
            except StopIteration as ended:
                token: Token = ended.value
                return token
            if isinstance(step, Ask):
                heard = self._send(step)
            else:
                self._clock.sleep(step)
                heard = None

    def _send(self, ask: Ask) -> Reply | BrokerAway:
        """One request on a connection of its own, so that nothing is left open and nothing stale is met."""
        parts = urlsplit(self._base)
        connection: http.client.HTTPConnection
        if self._socket is not None:
            connection = _UnixConnection(self._socket, ask.timeout)
        elif parts.scheme == "https":
            tls = self._tls or ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=ask.timeout, context=tls
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ask.timeout)
        try:
            connection.request(ask.method, parts.path + ask.path, ask.body or None, ask.headers)
            response = connection.getresponse()
            body = response.read(MOST_BYTES + 1)
            if len(body) > MOST_BYTES:
                return BrokerAway(TOO_LARGE)
            if response.length:
                # Unlike `read()`, `read(n)` returns the part that arrived when the connection ends early.
                return BrokerAway("the broker's answer was cut off")
            return Reply(response.status, response.headers.get("Retry-After"), body)
        except (http.client.HTTPException, OSError) as exc:
            return _away(exc, ask)
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("broker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def replacement(broker: SyncBroker, token: Token) -> Token | None:
    """Report a token that an API answered 401 to; None, and a line in the log, where there is no newer one."""
    try:
        return broker.rejected(token)
    except BrokerError as exc:
        log.warning(NOT_RENEWED, exc)
        return None


async def replacement_async(broker: Broker, token: Token) -> Token | None:
    """As `replacement`."""
    try:
        return await broker.rejected(token)
    except BrokerError as exc:
        log.warning(NOT_RENEWED, exc)
        return None
