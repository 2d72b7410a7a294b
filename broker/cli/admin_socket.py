"""A client of the running broker's admin socket: HTTP and JSON; every failure becomes one sentence."""

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from broker.cli.output import Failed
from broker.clock import SystemClock

PATIENCE = 180.0
"""Seconds for a whole answer; a token request of 75 s may have to end first."""
SLOWEST = 1800.0
"""Seconds without a byte; a large store is copied before the first one is sent."""
BLOCK = 64 * 1024
PAGE = 1000

Object = dict[str, Any]


class NoBroker(Failed):
    """No broker answers at the admin socket."""


class NotStarted(Failed):
    """The broker is starting, or cannot start; the message says which."""


class AdminSocket:
    """The running broker, as operators reach it. Its methods raise Failed, NoBroker or NotStarted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, object | None] | None = None,
        body: Mapping[str, object] | Iterable[bytes] | None = None,
        patience: float | None = PATIENCE,
        known: str | None = None,
    ) -> Object:
        """Return the answer's JSON object, empty if it has no body. Members of `query` that are None are left out.

        It is empty too where nothing has changed since the answer with the ETag `known`.
        """
        with self._answer(method, target, query=query, body=body, total=patience, known=known) as response:
            return {} if response.status == 304 else self._accepted(response)

    def ask_all(self, target: str, member: str, query: Mapping[str, object | None]) -> Object:
        """Return a listing with the objects of all its pages in `member`."""
        found, cursor = list[Object](), None
        while True:
            page = self.ask("GET", target, query={**query, "limit": PAGE, "cursor": cursor})
            found += page[member]
            cursor = page["next_cursor"]
            if cursor is None:
                return {member: found, "next_cursor": None}

    def attempt(self, method: str, target: str, *, body: Mapping[str, object]) -> tuple[int, Object]:
        """Return the status and the answer, which may be a problem document (RFC 9457)."""
        with self._answer(method, target, body=body, total=PATIENCE) as response:
            return response.status, self._object(response)

    def lines(self, target: str, *, body: Mapping[str, object]) -> Iterator[Object]:
        """Yield the JSON object on each line of the answer to a POST, as it arrives."""
        with self._answer("POST", target, body=body, silence=SLOWEST) as response:
            yield from map(json.loads, self._lines(response))

    def follow(self, target: str, *, query: Mapping[str, object | None]) -> Iterator[Object]:
        """Yield each server-sent event; raises Failed when the broker stops."""
        with self._answer("GET", target, query=query, accept="text/event-stream") as response:
            for line in self._lines(response):
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))
        raise Failed("The broker has stopped, so there is nothing more to follow.")

    def download(self, method: str, target: str) -> Iterator[tuple[bytes, int | None]]:
        """Yield the answer's bytes as they arrive, each time with the total number of bytes if it is known."""
        with self._answer(method, target, silence=SLOWEST) as response:
            total = response.length
            for block in self._blocks(response):
                yield block, total

    @contextmanager
    def _answer(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, object | None] | None = None,
        body: Mapping[str, object] | Iterable[bytes] | None = None,
        accept: str = "*/*",
        known: str | None = None,
        total: float | None = None,
        silence: float | None = None,
    ) -> Iterator[HTTPResponse]:
        """Yield the answer, to be read in the block.

        `total` limits the seconds of the whole answer, `silence` those between two parts of it.
        """
        given = urlencode({name: value for name, value in (query or {}).items() if value is not None})
        headers = {"Accept": accept, **({} if known is None else {"If-None-Match": known})}
        if isinstance(body, Mapping):
            headers["Content-Type"], body = "application/json", [json.dumps(body).encode()]
        connection = _Connection(self._path, total, silence)
        try:
            try:
                connection.connect()
            except OSError as exc:
                raise self._unreachable(exc) from None
            # A broker that does not want the rest of a body may have answered all the same.
            with suppress(BrokenPipeError):
                connection.request(method, f"{target}?{given}" if given else target, body, headers)
            with connection.getresponse() as response:
                if response.length is None and not response.chunked:
                    # Without a length its end looks like a broker that was killed.
                    raise IncompleteRead(b"")
                yield response
        except TimeoutError:
            told = f"The broker at {self._path} has not answered within {PATIENCE:.0f} s. See its log."
            raise Failed(told) from None
        except (HTTPException, OSError, ValueError):
            raise Failed(f"The broker at {self._path} broke off its answer. See its log.") from None
        finally:
            connection.close()

    def _unreachable(self, error: OSError) -> Failed:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return NoBroker(f"No broker answers at {self._path}. Start it with: systemctl start token-broker")
        if isinstance(error, PermissionError):
            return Failed(
                f"You may not open the admin socket {self._path}. Run this as the broker's user or as root,"
                " or set server.admin_group to a group of yours."
            )
        return Failed(f"The admin socket {self._path} cannot be reached: {error.strerror or error}.")

    def _blocks(self, response: HTTPResponse) -> Iterator[bytes]:
        """Yield the bytes of an answer with status 200."""
        if response.status != 200:
            self._accepted(response)
        # Not `readline()`, which accepts an answer that was cut off between two chunks.
        yield from iter(lambda: response.read1(BLOCK), b"")
        if response.length:
            raise IncompleteRead(b"", response.length)

    def _lines(self, response: HTTPResponse) -> Iterator[bytes]:
        rest = b""
        for block in self._blocks(response):
            *lines, rest = (rest + block).split(b"\n")
            yield from lines
        if rest:
            yield rest

    def _accepted(self, response: HTTPResponse) -> Object:
        answer = self._object(response)
        if response.status >= 300:
            raise (NotStarted if answer.get("code") == "not_started" else Failed)(sentence(answer))
        return answer

    def _object(self, response: HTTPResponse) -> Object:
        """Return the answer's JSON object, or a problem document (RFC 9457)."""
        text = response.read()
        try:
            answer = json.loads(text or b"{}")
        except ValueError:
            answer = None
        if isinstance(answer, dict) and (response.status < 300 or isinstance(answer.get("detail"), str)):
            return answer
        raise Failed(f"What answers at {self._path} does not talk like a broker (status {response.status}).")


def sentence(problem: Mapping[str, Any]) -> str:
    """Return the sentence of a problem document; an internal error also has the id that the log has."""
    if problem.get("code") == "internal":
        return f"{problem['detail']} (request id {problem.get('request_id')})"
    return str(problem["detail"])


class _Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, total: float | None, silence: float | None) -> None:
        super().__init__("broker")
        self._path, self._total, self._silence = path, total, silence

    def connect(self) -> None:
        self.sock = _Socket(self._total, self._silence)
        self.sock.connect(str(self._path))


class _Socket(socket.socket):
    """A Unix socket with one deadline for all its reads, because a time-out limits each of them alone."""

    def __init__(self, total: float | None, silence: float | None) -> None:
        super().__init__(socket.AF_UNIX)
        self._clock = SystemClock()
        self._deadline = None if total is None else self._clock.monotonic() + total
        self.settimeout(total or silence)

    def recv_into(self, *args: Any) -> int:
        if self._deadline is not None:
            self.settimeout(max(0.001, self._deadline - self._clock.monotonic()))
        return super().recv_into(*args)
