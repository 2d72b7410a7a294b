"""Asks the running broker over its admin socket, HTTP and JSON; every failure becomes one sentence."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import aiohttp

from broker.cli.output import Failed

BASE = "http://broker"
PATIENCE = 180.0
"""Seconds; a token request of 75 s may stand before ours."""
SLOWEST = 1800.0
"""Seconds; a large store is copied before the first byte comes."""
ABSENT = (FileNotFoundError, ConnectionRefusedError)
PAGE = 1000

Object = dict[str, Any]
Ask = Callable[[str, str, Mapping[str, object]], Awaitable[tuple[int, Object]]]
"""Method, path and body; status and answer, which may be a problem document (RFC 9457)."""
Told = Callable[[int, int | None], None]


class NoBroker(Failed):
    """Nobody answers at the admin socket."""


class NotStarted(Failed):
    """The broker is starting, or cannot start; the message says which."""


class AdminSocket:
    """The running broker, as operators reach it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, object | None] | None = None,
        body: Mapping[str, object] | None = None,
        patience: float | None = PATIENCE,
    ) -> Object:
        """The answer's JSON object, empty where there is none; raises Failed, NoBroker.

        `query` leaves out what is None.
        """
        return asyncio.run(self._ask(method, target, _given(query), body, patience))

    def ask_all(self, target: str, member: str, query: Mapping[str, object | None]) -> list[Object]:
        """Return the objects of all pages of a listing; raises Failed, NoBroker."""
        found, cursor = list[Object](), None
        while True:
            page = self.ask("GET", target, query={**query, "limit": PAGE, "cursor": cursor})
            found += page[member]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def send(
        self, target: str, blocks: Callable[[], AsyncIterator[bytes]], *, query: Mapping[str, object | None]
    ) -> Object:
        """POST a body of any length, however long the answer takes; raises Failed, NoBroker."""
        return asyncio.run(self._send(target, blocks, _given(query)))

    def save(self, method: str, target: str, file: IO[bytes], *, told: Told) -> None:
        """Write the answer's bytes to `file`, all of them; raises Failed, NoBroker.

        `told` hears how many more have come, and how many there are in all.
        """
        asyncio.run(self._save(method, target, file, told))

    def lines(self, target: str, *, body: Mapping[str, object], show: Callable[[Object], None]) -> None:
        """Hand each line of the answer to a POST to `show`, as it comes; raises Failed, NoBroker."""
        asyncio.run(self._lines(target, body, show))

    def converse(self, talk: Callable[[Ask], Awaitable[None]]) -> None:
        """Run `talk`, which may ask many things at once; raises Failed, NoBroker and what it raises."""
        asyncio.run(self._converse(talk))

    def follow(
        self, target: str, *, query: Mapping[str, object | None], show: Callable[[Object], None]
    ) -> None:
        """Hand each server-sent event to `show`; ends only with Failed or NoBroker, when the broker stops."""
        asyncio.run(self._follow(target, _given(query), show))

    async def _ask(
        self,
        method: str,
        target: str,
        query: Mapping[str, str],
        body: Mapping[str, object] | None,
        patience: float | None,
    ) -> Object:
        async with (
            self._session(aiohttp.ClientTimeout(total=patience)) as session,
            session.request(method, BASE + target, params=query, json=body) as response,
        ):
            return self._read(response.status, await response.read())

    async def _send(
        self, target: str, blocks: Callable[[], AsyncIterator[bytes]], query: Mapping[str, str]
    ) -> Object:
        unread = list[OSError]()

        async def body() -> AsyncIterator[bytes]:
            try:
                async for block in blocks():
                    yield block
            except OSError as exc:
                unread.append(exc)
                raise

        try:
            async with (
                self._session(aiohttp.ClientTimeout(total=None)) as session,
                session.post(BASE + target, params=query, data=body()) as response,
            ):
                return self._read(response.status, await response.read())
        except Failed:
            # The client calls it a broken connection.
            if unread:
                raise unread[0] from None
            raise

    async def _lines(self, target: str, body: Mapping[str, object], show: Callable[[Object], None]) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SLOWEST)
        async with self._session(timeout) as session, session.post(BASE + target, json=body) as response:
            if response.status != 200:
                self._read(response.status, await response.read())
            async for line in response.content:
                show(json.loads(line))

    async def _converse(self, talk: Callable[[Ask], Awaitable[None]]) -> None:
        async with self._session(aiohttp.ClientTimeout(total=PATIENCE)) as session:

            async def ask(method: str, target: str, body: Mapping[str, object]) -> tuple[int, Object]:
                async with session.request(method, BASE + target, json=body) as response:
                    answer = _object(await response.read())
                    if answer is None or (response.status >= 400 and "code" not in answer):
                        raise self._no_broker(response.status)
                    return response.status, answer

            await talk(ask)

    async def _save(self, method: str, target: str, file: IO[bytes], told: Told) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SLOWEST)
        async with self._session(timeout) as session, session.request(method, BASE + target) as response:
            if response.status != 200:
                self._read(response.status, await response.read())
            async for chunk in response.content.iter_any():
                file.write(chunk)
                told(len(chunk), response.content_length)

    async def _follow(self, target: str, query: Mapping[str, str], show: Callable[[Object], None]) -> None:
        headers = {"Accept": "text/event-stream"}
        async with (
            self._session(aiohttp.ClientTimeout(total=None)) as session,
            session.get(BASE + target, params=query, headers=headers) as response,
        ):
            if response.status != 200:
                self._read(response.status, await response.read())
            async for line in response.content:
                if line.startswith(b"data:"):
                    show(json.loads(line.removeprefix(b"data:")))
        raise Failed("The broker has stopped, so there is nothing more to follow.")

    @asynccontextmanager
    async def _session(self, timeout: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.UnixConnector(path=str(self._path))
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                yield session
        except aiohttp.ClientConnectorError as exc:
            raise self._unreachable(exc.os_error) from None
        except TimeoutError:
            raise Failed(
                f"The broker at {self._path} has not answered within {PATIENCE:.0f} s; see its log."
            ) from None
        except (aiohttp.ClientError, ValueError):
            raise Failed(f"The broker at {self._path} broke off its answer; see its log.") from None

    def _unreachable(self, error: OSError) -> Failed:
        if isinstance(error, ABSENT):
            return NoBroker(f"No broker answers at {self._path}; is it running? (`broker serve`)")
        if isinstance(error, PermissionError):
            return Failed(
                f"You may not open the admin socket {self._path}; run this as the broker's user or as root,"
                " or set server.admin_group to a group of yours."
            )
        return Failed(f"The admin socket {self._path} cannot be reached: {error.strerror or error}.")

    def _read(self, status: int, text: bytes) -> Object:
        answer = _object(text)
        if status < 400 and answer is not None:
            return answer
        if answer is not None and isinstance(answer.get("detail"), str):
            raise (NotStarted if answer.get("code") == "not_started" else Failed)(sentence(answer))
        raise self._no_broker(status)

    def _no_broker(self, status: int) -> Failed:
        return Failed(f"What answers at {self._path} does not talk like a broker (status {status}).")


def _given(query: Mapping[str, object | None] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (query or {}).items() if value is not None}


def _object(text: bytes) -> Object | None:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def sentence(problem: Mapping[str, Any]) -> str:
    """What the problem document (RFC 9457) says; our own bugs are found again by the request's id."""
    if problem.get("code") == "internal":
        return f"{problem['detail']} (request id {problem.get('request_id')})"
    return str(problem["detail"])
