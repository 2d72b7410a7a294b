"""`Broker`: tokens for programs on asyncio."""

import asyncio
import os
import ssl
from collections.abc import Callable, Hashable
from typing import Self, assert_never

import aiohttp

from broker.client.address import Address, read_address
from broker.client.clock import Clock
from broker.client.conversation import MOST_BYTES, TOO_LARGE, Ask, Heard, Lost, Pause, Reply, Talk
from broker.client.core import Core, Options
from broker.client.keys import Key, KeySource
from broker.client.token import Token


class Broker:
    """Tokens by account name, cached for as long as the broker allows; one for the whole program."""

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
        living token is used past its `expires_in` when the broker cannot be reached.
        """
        self._address, self._tls, self._clock = read_address(url), tls, clock or Clock()
        self._core = Core(
            keys=KeySource(key, key_file),
            options=Options(patience=patience, while_away=while_away),
            now=self._clock.monotonic,
        )
        self._flights: dict[Hashable, asyncio.Task[Token]] = {}

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
        account, generation = token.account, token.generation
        newer = self._core.newer(token)
        if newer is not None:
            return newer
        return await self._shared(
            ("rejected", account, generation), lambda: self._core.rejected(account, generation)
        )

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

    def __repr__(self) -> str:
        return f"<Broker at {self._address.unix_path or self._address.base}>"

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
        heard: Heard = None
        while True:
            try:
                step = talk.send(heard)
            except StopIteration as ended:
                token: Token = ended.value
                return token
            match step:
                case Ask():
                    heard = await send(step, self._address, self._tls)
                case Pause(seconds):
                    await self._clock.sleep(seconds)
                    heard = None
                case _:
                    assert_never(step)


async def send(ask: Ask, address: Address, tls: ssl.SSLContext | None) -> Reply | Lost:
    """One request on a connection of its own, so that nothing is left open and nothing stale is met."""
    try:
        async with (
            aiohttp.ClientSession(
                connector=_connector(address, tls),
                timeout=aiohttp.ClientTimeout(total=ask.timeout),
                trust_env=False,
            ) as session,
            session.request(
                ask.method,
                address.base + ask.path,
                data=ask.body or None,
                headers=ask.headers,
                allow_redirects=False,
            ) as response,
        ):
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MOST_BYTES:
                    return Lost(TOO_LARGE)
            return Reply(response.status, response.headers.get("Retry-After"), bytes(body))
    except TimeoutError:
        return Lost(f"the broker did not answer within {ask.timeout:g} s")
    except (aiohttp.ClientError, OSError) as exc:
        return Lost(f"the broker cannot be reached: {type(exc).__name__}")


def _connector(address: Address, tls: ssl.SSLContext | None) -> aiohttp.BaseConnector:
    if address.unix_path is not None:
        return aiohttp.UnixConnector(address.unix_path)
    return aiohttp.TCPConnector(ssl=tls or True, force_close=True)
