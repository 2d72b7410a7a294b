"""Asks the running broker over its admin socket, HTTP and JSON; every failure becomes one sentence."""

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
"""Seconds for a whole answer; a token request of 75 s may stand before ours."""
SLOWEST = 1800.0
"""Seconds without a byte; a large store is copied before the first one comes."""
BLOCK = 64 * 1024
PAGE = 1000

Object = dict[str, Any]


class NoBroker(Failed):
    """Nobody answers at the admin socket."""


class NotStarted(Failed):
    """The broker is starting, or cannot start; the message says which."""


class AdminSocket:
    """The running broker, as operators reach it. Its methods raise Failed, NoBroker and NotStarted."""

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
    ) -> Object:
        """Return the answer's JSON object, empty where there is none. `query` leaves out what is None."""
        with self._answer(method, target, query=query, body=body, total=patience) as response:
            return self._accepted(response)

    def ask_all(self, target: str, member: str, query: Mapping[str, object | None]) -> Object:
        """Return a listing with the objects of all its pages."""
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
        """Yield each line of the answer to a POST, as it comes."""
        with self._answer("POST", target, body=body, silence=SLOWEST) as response:
            yield from map(json.loads, self._lines(response))

    def follow(self, target: str, *, query: Mapping[str, object | None]) -> Iterator[Object]:
        """Yield each server-sent event; ends only with Failed, when the broker stops."""
        with self._answer("GET", target, query=query, accept="text/event-stream") as response:
            for line in self._lines(response):
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))
        raise Failed("The broker has stopped, so there is nothing more to follow.")

    def download(self, method: str, target: str) -> Iterator[tuple[bytes, int | None]]:
        """Yield the answer's bytes as they come, each time with how many there are in all, where that is known."""
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
        total: float | None = None,
        silence: float | None = None,
    ) -> Iterator[HTTPResponse]:
        """Yield the answer, to be read inside; `total` and `silence` are the seconds it may take and pause."""
        given = urlencode({name: value for name, value in (query or {}).items() if value is not None})
        headers = {"Accept": accept}
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
                    # Its end could not be told from a broker that died.
                    raise IncompleteRead(b"")
                yield response
        except TimeoutError:
            raise Failed(
                f"The broker at {self._path} has not answered within {PATIENCE:.0f} s; see its log."
            ) from None
        except (HTTPException, OSError, ValueError):
            raise Failed(f"The broker at {self._path} broke off its answer; see its log.") from None
        finally:
            connection.close()

    def _unreachable(self, error: OSError) -> Failed:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return NoBroker(f"No broker answers at {self._path}; is it running? (`broker serve`)")
        if isinstance(error, PermissionError):
            return Failed(
                f"You may not open the admin socket {self._path}; run this as the broker's user or as root,"
                " or set server.admin_group to a group of yours."
            )
        return Failed(f"The admin socket {self._path} cannot be reached: {error.strerror or error}.")

    def _blocks(self, response: HTTPResponse) -> Iterator[bytes]:
        """Yield the bytes of a good answer."""
        if response.status != 200:
            self._accepted(response)
        # Not `readline()`, which takes an answer that is cut off between two chunks for a whole one.
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
        """Read the answer's JSON object, or a problem document with a sentence."""
        text = response.read()
        try:
            answer = json.loads(text or b"{}")
        except ValueError:
            answer = None
        if isinstance(answer, dict) and (response.status < 300 or isinstance(answer.get("detail"), str)):
            return answer
        raise Failed(f"What answers at {self._path} does not talk like a broker (status {response.status}).")


def sentence(problem: Mapping[str, Any]) -> str:
    """Return what the problem document says; our own bugs are found again by the request's id."""
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
    """A Unix socket whose waits all end at one deadline, since a time-out bounds each of them alone."""

    def __init__(self, total: float | None, silence: float | None) -> None:
        super().__init__(socket.AF_UNIX)
        self._clock = SystemClock()
        self._deadline = None if total is None else self._clock.monotonic() + total
        self.settimeout(total or silence)

    def recv_into(self, *args: Any) -> int:
        if self._deadline is not None:
            self.settimeout(max(0.001, self._deadline - self._clock.monotonic()))
        return super().recv_into(*args)
