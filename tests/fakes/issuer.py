"""An issuer of JWTs: publishes its keys on a real socket, and counts who asks."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.callers.signing import Signer
from tests.ports import free_port

NAME = "https://issuer.example"


class Issuer:
    """Its set of keys, and what it may do wrong."""

    def __init__(self, keys: Sequence[Signer]) -> None:
        self.keys = list(keys)
        self.port = free_port()
        self.fetches = 0
        self.status = 200
        self.body: bytes | None = None
        """In place of the set."""
        self.location: str | None = None
        self.open = asyncio.Event()
        """While it is not set, nobody is answered."""
        self.open.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"

    def publish(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": list(keys)}).encode()

    async def answer(self, _: web.Request) -> web.StreamResponse:
        self.fetches += 1
        await self.open.wait()
        if self.location is not None:
            return web.Response(status=302, headers={"Location": self.location})
        body = self.body if self.body is not None else self._set()
        return web.Response(status=self.status, body=body, content_type="application/json")

    async def elsewhere(self, _: web.Request) -> web.StreamResponse:
        """Where a redirect would lead: a good set, which must not be taken."""
        return web.Response(body=self._set(), content_type="application/json")

    def _set(self) -> bytes:
        return json.dumps({"keys": [key.jwk for key in self.keys]}).encode()


@asynccontextmanager
async def open_issuer(*keys: Signer) -> AsyncIterator[Issuer]:
    issuer = Issuer(keys)
    application = web.Application()
    application.add_routes([web.get("/jwks", issuer.answer), web.get("/elsewhere", issuer.elsewhere)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", issuer.port).start()
    try:
        yield issuer
    finally:
        issuer.open.set()
        await runner.cleanup()
