"""What the tests play with: a clock moved by hand, and an app that talks as the vendors' pages say."""

import asyncio
import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp

from broker.sandbox import Sandbox

BROKER = "http://127.0.0.1:8081"
VERIFIER = "v" * 43
CHALLENGE = urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
CLIENTS = {
    "kit": {"client_id": "sandbox-kit", "client_secret": "sandbox-kit-secret"},
    "kustomer": {"client_id": "sandbox-kustomer", "client_secret": "sandbox-kustomer-secret"},
}
SCOPES = {"kit": "public", "kustomer": "org.permission.customer offline_access"}
RESOURCES = {"kit": "/kit/v4/account", "kustomer": "/kustomer/v1/users/current"}

StartSandbox = Callable[[], Awaitable[Sandbox]]


class HandClock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self._now = 1_800_000_000.0
        self._moved = asyncio.Condition()
        self.sleeping = 0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        until = self._now + seconds
        async with self._moved:
            self.sleeping += 1
            self._moved.notify_all()
            await self._moved.wait_for(lambda: self._now >= until)
            self.sleeping -= 1

    def alarm(self, seconds: float) -> "asyncio.Future[None]":
        return asyncio.ensure_future(self.sleep(seconds))

    async def advance(self, seconds: float) -> None:
        async with self._moved:
            self._now += seconds
            self._moved.notify_all()

    async def someone_sleeps(self, count: int = 1) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self.sleeping >= count)


class Answered:
    """An HTTP answer, read whole."""

    def __init__(self, response: aiohttp.ClientResponse, text: str) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = text

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def sent_to(self) -> dict[str, str]:
        """The query of where the browser is sent."""
        return {
            name: values[0] for name, values in parse_qs(urlsplit(self.headers["Location"]).query).items()
        }


class App:
    """An OAuth client of the sandbox, and the person at its browser."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self.base = base

    async def get(self, path: str, **options: Any) -> Answered:
        async with self._session.get(self.base + path, allow_redirects=False, **options) as response:
            return Answered(response, await response.text())

    async def post(self, path: str, **options: Any) -> Answered:
        async with self._session.post(self.base + path, allow_redirects=False, **options) as response:
            return Answered(response, await response.text())

    def ask(self, provider: str, **changes: str) -> dict[str, str]:
        """The query of a good authorization request."""
        asked = {
            "client_id": CLIENTS[provider]["client_id"],
            "response_type": "code",
            "redirect_uri": f"{BROKER}/callback/{provider}",
            "scope": SCOPES[provider],
            "state": "st/at&e",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }
        return {name: value for name, value in {**asked, **changes}.items() if value}

    async def consent(self, provider: str, decision: str = "allow", **changes: str) -> Answered:
        form = {**self.ask(provider, **changes), "decision": decision}
        return await self.post(f"/{provider}/oauth/authorize", data=form)

    async def code(self, provider: str, **changes: str) -> str:
        return (await self.consent(provider, **changes)).sent_to["code"]

    async def exchange(self, provider: str, code: str, /, **changes: str) -> Answered:
        form = {
            **CLIENTS[provider],
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": f"{BROKER}/callback/{provider}",
            "code_verifier": VERIFIER,
            **changes,
        }
        data = {name: value for name, value in form.items() if value}
        return await self.post(f"/{provider}/oauth/token", data=data)

    async def connect(self, provider: str, **changes: str) -> dict[str, Any]:
        """The token answer of a new grant."""
        answer = await self.exchange(provider, await self.code(provider, **changes))
        tokens: dict[str, Any] = answer.json
        return tokens

    async def refresh(self, provider: str, token: str, **changes: str) -> Answered:
        form = {**CLIENTS[provider], "grant_type": "refresh_token", "refresh_token": token, **changes}
        data = {name: value for name, value in form.items() if value}
        return await self.post(f"/{provider}/oauth/token", data=data)

    async def renewed(self, provider: str, token: str) -> dict[str, Any]:
        """The token answer of a renewal that works."""
        answer = await self.refresh(provider, token)
        assert answer.status == 200, answer.text
        tokens: dict[str, Any] = answer.json
        return tokens

    async def use(self, provider: str, access_token: str) -> Answered:
        return await self.get(RESOURCES[provider], headers={"Authorization": f"Bearer {access_token}"})

    async def works(self, provider: str, access_token: str) -> bool:
        return (await self.use(provider, access_token)).status == 200

    async def record(self) -> Any:
        return (await self.get("/_sandbox/record")).json
