"""A receiver of webhooks on a real socket, which answers as it is told and keeps what it was sent."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from tests.ports import free_port

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ANSWER = "canary-in-an-answer"


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    headers: CIMultiDict[str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass(slots=True)
class Receiver:
    """Answers 200, or the next of `answers`; holds everything while `gate` is closed."""

    port: int
    received: list[Received] = field(default_factory=list)
    answers: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    refused: set[str] = field(default_factory=set)
    """Accounts whose events get a 500."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    elsewhere: int = 0
    """Requests that came where redirects lead."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def config(self) -> str:
        return f'[alerts]\nwebhook_url = "{self.url}"\nwebhook_secret = "{SECRET}"\n'

    @property
    def told(self) -> list[tuple[str, str | None]]:
        """Event and account of all that came, in order."""
        return [(one.event["event"], one.event["account"]) for one in self.received]

    def answer(self, status: int, **headers: str) -> None:
        """Answer the next request like this."""
        self.answers.append((status, {name.replace("_", "-"): value for name, value in headers.items()}))

    async def take(self, request: web.Request) -> web.Response:
        received = Received(CIMultiDict(request.headers), await request.read())
        self.received.append(received)
        await self.gate.wait()
        if received.event["account"] in self.refused:
            return web.Response(status=500, text=ANSWER)
        status, headers = self.answers.popleft() if self.answers else (200, {})
        return web.Response(status=status, headers=headers, text=ANSWER)

    async def stray(self, request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()


@asynccontextmanager
async def open_receiver() -> AsyncIterator[Receiver]:
    """A receiver whose gate is open."""
    receiver = Receiver(free_port())
    receiver.gate.set()
    application = web.Application()
    application.add_routes([web.post("/hook", receiver.take), web.route("*", "/elsewhere", receiver.stray)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", receiver.port).start()
    try:
        yield receiver
    finally:
        receiver.gate.set()
        await runner.cleanup()
