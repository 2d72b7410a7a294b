"""The clients: `Broker` for programs on asyncio and `SyncBroker` for all others. Both drive a Core."""

import asyncio
import http.client
import logging
import os
import socket
import ssl
from collections.abc import Hashable
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
NOT_RENEWED = "the API answered 401, and there is no newer token: %s"


class _Client(Generic[Flight]):
    """The parts that both clients have."""

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
        """`url` is http, https or `unix:/path`. The key is `key`, `key_file` (read each time), else `$BROKER_KEY`.

        `patience`: seconds for which one call keeps asking when there is no valid token. `while_away`: seconds for
        which a valid token is used past its `expires_in` when the broker cannot be reached.
        """
        self._base, self._socket = read_address(url)
        self._tls, self._clock = tls, clock or Clock()
        keys, now = KeySource(key, key_file), self._clock.monotonic
        self._core = Core(keys=keys, patience=patience, while_away=while_away, now=now)
        self._flights: dict[Hashable, Flight] = {}
        """The talks under way, by their question."""
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._socket or self._base}>"


def _away(error: Exception, ask: Ask) -> BrokerAway:
    if isinstance(error, TimeoutError):
        return BrokerAway(f"the broker did not answer within {ask.timeout:g} s")
    return BrokerAway(f"the broker cannot be reached: {type(error).__name__}")


class Broker(_Client["asyncio.Task[Token]"]):
    """A client of the broker for asyncio, with a cache of tokens. Make one for the whole program."""

    async def token(self, account: str, *, min_ttl: float = 0.0) -> Token:
        """Return a valid token of the account; raises BrokerError. Use it immediately and ask again next time.

        `min_ttl`: at least that many seconds before it expires; if that is impossible, its `warning` says so.
        """
        return self._core.cached(account, min_ttl) or await self._shared(
            ("get", account, min_ttl), self._core.get(account, min_ttl)
        )

    async def rejected(self, token: Token) -> Token:
        """Report a token to which the provider answered 401, and return the next one; raises BrokerError.

        Reports of one token by several tasks are one request.
        """
        report = (token.account, token.generation)
        return self._core.newer(token) or await self._shared(
            ("rejected", *report), self._core.rejected(*report)
        )

    async def aclose(self) -> None:
        """Cancel the requests under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _shared(self, what: Hashable, talk: Talk) -> Token:
        """Drive one talk for all tasks that ask the same; a cancelled task ends only its own wait."""
        flight = self._flights.get(what)
        # A program may run one loop after another, and a task of an ended loop never ends.
        if flight is None or flight.get_loop() is not asyncio.get_running_loop():
            flight = asyncio.create_task(self._drive(talk))
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
        """Send a request on a new connection, so that nothing stays open and no stale connection is used."""
        import aiohttp  # noqa: PLC0415 - programs with threads need the standard library alone

        connector: aiohttp.BaseConnector
        if self._socket is not None:
            connector = aiohttp.UnixConnector(self._socket)
        else:
            connector = aiohttp.TCPConnector(ssl=self._tls or True, force_close=True)
        url, timeout = self._base + ask.path, aiohttp.ClientTimeout(total=ask.timeout)
        body, headers = ask.body or None, ask.headers
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
                session.request(
                    ask.method, url, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                read = bytearray()
                async for chunk in response.content.iter_any():
                    read += chunk
                    if len(read) > MOST_BYTES:
                        return BrokerAway(TOO_LARGE)
                return Reply(response.status, response.headers.get("Retry-After"), bytes(read))
        except (aiohttp.ClientError, OSError) as exc:
            return _away(exc, ask)


class SyncBroker(_Client["Future[Token]"]):
    """A client of the broker for threads, with a cache of tokens. Make one for the whole program."""

    def token(self, account: str, *, min_ttl: float = 0.0) -> Token:
        """Return a valid token of the account, as `Broker.token` does."""
        return self._core.cached(account, min_ttl) or self._shared(
            ("get", account, min_ttl), self._core.get(account, min_ttl)
        )

    def rejected(self, token: Token) -> Token:
        """Report a rejected token and return the next one, as `Broker.rejected` does."""
        report = (token.account, token.generation)
        return self._core.newer(token) or self._shared(("rejected", *report), self._core.rejected(*report))

    def close(self) -> None:
        """Do nothing, because no connection stays open between calls."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shared(self, what: Hashable, talk: Talk) -> Token:
        """Drive one talk for all threads that ask the same: the first one drives it, the others wait for its result."""
        with self._lock:
            under_way = self._flights.get(what)
            flight: Future[Token] = under_way or Future()
            self._flights[what] = flight
        if under_way is not None:
            return under_way.result()
        try:
            try:
                token = self._drive(talk)
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
        """Send a request on a new connection, so that nothing stays open and no stale connection is used."""
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
    """Report a token to which an API answered 401; return the next one, or None with a warning in the log."""
    try:
        return broker.rejected(token)
    except BrokerError as exc:
        log.warning(NOT_RENEWED, exc)
        return None


async def replacement_async(broker: Broker, token: Token) -> Token | None:
    """Return the next token as `replacement` does."""
    try:
        return await broker.rejected(token)
    except BrokerError as exc:
        log.warning(NOT_RENEWED, exc)
        return None
