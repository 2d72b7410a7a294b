"""A token endpoint on a raw socket: it answers what a test scripts, byte by byte, and notes every sloppiness."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import responses
from types import TracebackType
from typing import Self, assert_never
from urllib.parse import parse_qsl

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole, well-formed answer; Content-Length is added where `headers` has none."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    body: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class Raw:
    """These bytes, whatever they are, and the end of the connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """The request is read and the connection closed without a byte."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The length of the whole `body` is declared, its first `after` bytes are sent, the connection closes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    body: bytes = b"{}"
    after: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing comes until `Upstream.release()`; after that comes `then`."""

    then: Answer | Raw | Drop | Cut = Drop()


Scripted = Answer | Raw | Drop | Cut | Stall


def json_answer(members: object, status: int = 200) -> Answer:
    """`members` as a JSON answer."""
    return Answer(status, JSON, json.dumps(members).encode())


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    """With its query, if it had one."""
    headers: Mapping[str, str]
    """Names in lower case; a repeated header's values are joined with `, `."""
    body: bytes
    form: Mapping[str, str]
    """The parameters of a form or JSON body; of repeated ones the last."""


class Upstream:
    """`async with Upstream() as upstream`: serves `.url` and lets connections live as long as answers permit.

    Answers are used in the order of the requests' arrival, over all connections. A request for which there is
    no answer gets 500 and is a violation.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.violations: list[str] = []
        """What no client may do (RFC 9112; RFC 6749 section 2.3 and 3.2), one sentence each."""
        self._answers: deque[Scripted] = deque()
        self._released = asyncio.Event()
        self._arrived = asyncio.Condition()
        self._connections: list[asyncio.Task[None]] = []
        self._port = 0

    @property
    def url(self) -> str:
        """The token endpoint; other paths of the same host are served from the same script."""
        return f"http://127.0.0.1:{self._port}/token"

    @property
    def pending(self) -> int:
        """How many scripted answers are left."""
        return len(self._answers)

    def script(self, answers: Iterable[Scripted]) -> None:
        """Add `answers` behind those not used yet."""
        self._answers.extend(answers)

    def release(self) -> None:
        """Let all answers go that stall now; a later `Stall` stalls again."""
        self._released.set()
        self._released = asyncio.Event()

    async def arrived(self, count: int = 1) -> None:
        """Wait until `count` requests have come altogether. TimeoutError: not within a minute."""
        async with asyncio.timeout(60), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        ended = await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        for failure in ended:
            if isinstance(failure, Exception):
                raise failure

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.append(asyncio.create_task(self._converse(reader, writer)))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A client that goes away, in the middle of anything, is no failure of this server.
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._serve_one(reader, writer):
                    pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request, violations = await _read(reader)
        self.requests.append(request)
        self.violations += violations
        async with self._arrived:
            self._arrived.notify_all()
        stays = await self._play(self._next(request), writer)
        # A body without a declared length was left unread, and would be taken for the next request.
        return stays and "transfer-encoding" not in request.headers

    def _next(self, request: Received) -> Scripted:
        if self._answers:
            return self._answers.popleft()
        self.violations.append(f"nothing is scripted for {request.method} {request.path}")
        return Answer(500)

    async def _play(self, scripted: Scripted, writer: asyncio.StreamWriter) -> bool:
        """Send what is scripted; False: the connection ends here."""
        match scripted:
            case Answer(status, headers, body):
                await _send(writer, _head(status, headers, len(body)) + body)
                return not _closes(headers)
            case Raw(data):
                await _send(writer, data)
                return False
            case Drop():
                return False
            case Cut(status, headers, body, after):
                await _send(writer, _head(status, headers, len(body)) + body[:after])
                return False
            case Stall(then):
                await self._released.wait()
                return await self._play(then, writer)
            case _:
                assert_never(scripted)


def _head(status: int, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"HTTP/1.1 {status} {responses.get(status, 'Unheard Of')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if "content-length" not in map(str.lower, headers):
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _closes(headers: Mapping[str, str]) -> bool:
    return any(name.lower() == "connection" and value.lower() == "close" for name, value in headers.items())


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _read(reader: asyncio.StreamReader) -> tuple[Received, list[str]]:
    """One request and what is wrong with it. Raises IncompleteReadError where the client has gone."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
    method, path, version = (*line.split(" ", 2), "", "")[:3]
    pairs = [(name.lower(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
    headers = _joined(pairs)
    length = headers.get("content-length", "0")
    body = await reader.readexactly(int(length) if length.isdecimal() else 0)
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    parameters, unreadable = _parameters(media_type, body)
    received = Received(method, path, headers, body, dict(parameters))
    violations = [
        *([] if version == "HTTP/1.1" else [f"the request line ends in {version!r}, not HTTP/1.1"]),
        *_header_violations(method, pairs),
        *unreadable,
        *_oauth_violations(received, parameters),
    ]
    return received, violations


def _joined(pairs: list[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _parameters(media_type: str, body: bytes) -> tuple[list[tuple[str, str]], list[str]]:
    try:
        match media_type:
            case "application/x-www-form-urlencoded":
                return _form_parameters(body), []
            case "application/json":
                return _json_parameters(body), []
            case _:
                return [], [f"a body of type {media_type!r} is no form"] if body else []
    except ValueError as error:
        return [], [f"the body is not {media_type}: {error}"]


def _form_parameters(body: bytes) -> list[tuple[str, str]]:
    return parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict")


def _json_parameters(body: bytes) -> list[tuple[str, str]]:
    # Pairs, so that a repeated member is not lost on the way.
    members = json.loads(body, object_pairs_hook=list)
    if not isinstance(members, list) or not all(_is_text_pair(member) for member in members):
        raise ValueError("not an object of strings")
    return [(name, value) for name, value in members]


def _is_text_pair(member: object) -> bool:
    return isinstance(member, tuple) and all(isinstance(part, str) for part in member)


def _header_violations(method: str, pairs: list[tuple[str, str]]) -> Iterable[str]:
    names = Counter(name for name, _ in pairs)
    required = {"host", "content-type", "content-length"} if method == "POST" else {"host"}
    for name in sorted(required - names.keys()):
        yield f"{name} is missing"
    for name in ("host", "content-type", "content-length", "authorization"):
        if names[name] > 1:
            yield f"{name} comes {names[name]} times"
    if names["transfer-encoding"]:
        yield "transfer-encoding instead of a content-length"


def _oauth_violations(request: Received, parameters: list[tuple[str, str]]) -> Iterable[str]:
    path, _, query = request.path.partition("?")
    for name, count in Counter(name for name, _ in parameters).items():
        if count > 1:
            yield f"the parameter {name} comes {count} times"
    if request.headers.get("authorization") and "client_secret" in request.form:
        yield "both authorization and client_secret: RFC 6749 section 2.3 allows one"
    if "client_secret" in dict(parse_qsl(query, keep_blank_values=True)):
        yield "client_secret in the address"
    if path == "/token":
        yield from _token_violations(request, query)


def _token_violations(request: Received, query: str) -> Iterable[str]:
    if request.method != "POST":
        yield f"{request.method} instead of POST"
    if query:
        yield "parameters in the token endpoint's address"
    if not request.form.get("grant_type"):
        yield "grant_type is missing"
