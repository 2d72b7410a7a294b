"""`SyncBroker`: tokens for programs with threads, or with one."""

import http.client
import os
import socket
import ssl
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Self, assert_never

from broker.client.address import Address, read_address
from broker.client.clock import ThreadClock
from broker.client.conversation import MOST_BYTES, TOO_LARGE, Ask, Heard, Lost, Pause, Reply, Talk
from broker.client.core import Core, Options
from broker.client.keys import Key, KeySource
from broker.client.token import Token


class SyncBroker:
    """Tokens by account name, cached for as long as the broker allows; one for all threads."""

    def __init__(
        self,
        url: str,
        *,
        key: Key | None = None,
        key_file: str | os.PathLike[str] | None = None,
        patience: float = 30.0,
        while_away: float = 3600.0,
        tls: ssl.SSLContext | None = None,
        clock: ThreadClock | None = None,
    ) -> None:
        """As `Broker`."""
        self._address, self._tls, self._clock = read_address(url), tls, clock or ThreadClock()
        self._core = Core(
            keys=KeySource(key, key_file),
            options=Options(patience=patience, while_away=while_away),
            now=self._clock.monotonic,
        )
        self._flights: dict[Hashable, Future[Token]] = {}
        self._lock = Lock()

    def token(self, account: str, *, min_ttl: float = 0.0) -> Token:
        """The account's token, to be used at once and asked for again next time; raises BrokerError.

        `min_ttl`: at least that many seconds of real life; where that cannot be had, its `warning` says so.
        """
        at_hand = self._core.at_hand(account, min_ttl)
        if at_hand is not None:
            return at_hand
        return self._shared(("get", account, min_ttl), lambda: self._core.get(account, min_ttl))

    def rejected(self, token: Token) -> Token:
        """The provider answered 401 to this token: the one after it; raises BrokerError.

        However many say it of one token, the broker is told once.
        """
        account, generation = token.account, token.generation
        newer = self._core.newer(token)
        if newer is not None:
            return newer
        return self._shared(
            ("rejected", account, generation), lambda: self._core.rejected(account, generation)
        )

    def close(self) -> None:
        """For `with` and symmetry: nothing stays open between calls."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SyncBroker at {self._address.unix_path or self._address.base}>"

    def _shared(self, what: Hashable, begin: Callable[[], Talk]) -> Token:
        """One talk for all threads that ask the same: the first holds it, the others wait for what it hears."""
        with self._lock:
            under_way = self._flights.get(what)
            flight: Future[Token] = under_way or Future()
            self._flights[what] = flight
        if under_way is not None:
            return under_way.result()
        try:
            token = self._drive(begin())
        except BaseException as exc:
            self._land(what)
            flight.set_exception(exc)
            raise
        self._land(what)
        flight.set_result(token)
        return token

    def _land(self, what: Hashable) -> None:
        with self._lock:
            del self._flights[what]

    def _drive(self, talk: Talk) -> Token:
        heard: Heard = None
        while True:
            try:
                step = talk.send(heard)
            except StopIteration as ended:
                token: Token = ended.value
                return token
            match step:
                case Ask():
                    heard = send(step, self._address, self._tls)
                case Pause(seconds):
                    self._clock.sleep(seconds)
                    heard = None
                case _:
                    assert_never(step)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("broker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def send(ask: Ask, address: Address, tls: ssl.SSLContext | None) -> Reply | Lost:
    """One request on a connection of its own, so that nothing is left open and nothing stale is met."""
    connection = _connection(address, tls, ask.timeout)
    try:
        connection.request(ask.method, address.prefix + ask.path, ask.body or None, ask.headers)
        response = connection.getresponse()
        body = response.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            return Lost(TOO_LARGE)
        if response.length:
            # Unlike `read()`, `read(n)` returns the part that arrived when the connection ends early.
            return Lost("the broker's answer was cut off")
        return Reply(response.status, response.headers.get("Retry-After"), body)
    except TimeoutError:
        return Lost(f"the broker did not answer within {ask.timeout:g} s")
    except (http.client.HTTPException, OSError) as exc:
        return Lost(f"the broker cannot be reached: {type(exc).__name__}")
    finally:
        connection.close()


def _connection(address: Address, tls: ssl.SSLContext | None, timeout: float) -> http.client.HTTPConnection:
    if address.unix_path is not None:
        return UnixConnection(address.unix_path, timeout)
    if address.tls:
        return http.client.HTTPSConnection(
            address.host, address.port, timeout=timeout, context=tls or ssl.create_default_context()
        )
    return http.client.HTTPConnection(address.host, address.port, timeout=timeout)
