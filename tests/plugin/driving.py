"""A client of the plugin server as tests drive it, and the person at its browser."""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tests.house import Answer, House, open_house

CONFIG = """
[plugin]
access_ttl = "48h"
refresh_ttl = "365d"
[plugin.clients.kit]
name = "Kit"
client_id = "kit-client"
client_secret = ["kit secret+%/:", "the-new-secret"]
redirect_uris = ["https://app.kit.com/apps/install", "https://app.kit.com/apps"]
refresh_without_secret = true
[plugin.clients.other]
name = "Other <b>app</b>"
client_id = "other:client"
client_secret = "other-secret"
redirect_uris = ["https://app.example.com/scoped?keep=1"]
scopes = ["read:products", "write:products"]
"""
INSTALL, APPS = "https://app.kit.com/apps/install", "https://app.kit.com/apps"
SECRET, NEW_SECRET = "kit secret+%/:", "the-new-secret"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
KIT = {"client_id": "kit-client", "client_secret": SECRET}
OTHER = {"client_id": "other:client", "client_secret": "other-secret"}


@dataclass(frozen=True, slots=True)
class Step:
    """One answer to a browser."""

    status: int
    headers: CIMultiDict[str]
    text: str
    url: str

    @property
    def location(self) -> str:
        return self.headers.get("Location", "")

    @property
    def told(self) -> dict[str, str]:
        """The query of where the browser is sent."""
        query = parse_qs(urlsplit(self.location).query, keep_blank_values=True)
        return {name: values[0] for name, values in query.items()}

    @property
    def form(self) -> dict[str, str]:
        """Its hidden fields."""
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', self.text))


@dataclass
class Person:
    """A browser with cookies that follows nothing by itself."""

    house: House
    session: aiohttp.ClientSession = field(
        default_factory=lambda: aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
    )

    async def open(self, url: str, method: str = "GET", **more: Any) -> Step:
        async with self.session.request(
            method, URL(url, encoded=True), allow_redirects=False, **more
        ) as answer:
            return Step(answer.status, CIMultiDict(answer.headers), await answer.text(), str(answer.real_url))

    async def authorize(self, raw: str | None = None, **changes: str | None) -> Step:
        """The client sends the person; a change to None leaves a parameter out."""
        asked = {"client_id": "kit-client", "response_type": "code", "redirect_uri": INSTALL, **changes}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        return await self.open(f"{self.house.public}/plugin/authorize?{query if raw is None else raw}")

    async def question(self, login_as: str = "user-42", **changes: str | None) -> Step:
        """The consent page, after the sign-in where there is one."""
        step = await self.authorize(**changes)
        if "login_challenge" not in step.told:
            return step
        signed = await self.open(
            step.location,
            "POST",
            data={"login_challenge": step.told["login_challenge"], "login_as": login_as},
        )
        back = await self.open(signed.location)
        return await self.open(f"{self.house.public}{back.location}")

    async def decide(self, question: Step, decision: str = "allow", **more: Any) -> Step:
        typed = more.pop("typed", {})
        form = {**question.form, **typed, "decision": decision}
        return await self.open(f"{self.house.public}/plugin/authorize", "POST", data=form, **more)

    async def code(self, login_as: str = "user-42", **changes: str | None) -> str:
        return (await self.decide(await self.question(login_as, **changes))).told["code"]

    async def close(self) -> None:
        await self.session.close()


@dataclass
class Client:
    """Kit's machines, or another client's."""

    house: House

    async def post(
        self,
        path: str,
        parameters: dict[str, Any] | bytes,
        *,
        body: str = "json",
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        types = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
        if isinstance(parameters, bytes):
            data = parameters
        else:
            data = (json.dumps(parameters) if body == "json" else urlencode(parameters)).encode()
        sent = {"Content-Type": types[content_type or body], **(headers or {})}
        async with self.house.session.post(self.house.public + path, data=data, headers=sent) as response:
            return Answer(response.status, CIMultiDict(response.headers), await response.read())

    async def redeem(self, code: str, path: str = "/plugin/token", **changes: Any) -> Answer:
        asked = {**KIT, "grant_type": "authorization_code", "code": code, "redirect_uri": APPS, **changes}
        return await self.post(path, {name: value for name, value in asked.items() if value is not None})

    async def renew(self, token: str, path: str = "/plugin/refresh", **changes: Any) -> Answer:
        asked = {
            "client_id": "kit-client",
            "grant_type": "refresh_token",
            "refresh_token": token,
            **changes,
        }
        return await self.post(path, {name: value for name, value in asked.items() if value is not None})

    async def revoke(self, token: str, **changes: Any) -> Answer:
        asked = {**KIT, "token": token, **changes}
        return await self.post(
            "/plugin/revoke", {name: value for name, value in asked.items() if value is not None}
        )

    async def introspect(self, token: str) -> Any:
        answer = await self.house.ask("POST", "/plugin/introspect", data={"token": token})
        assert answer.status == 200, answer.body
        return answer.json

    async def is_active(self, token: str) -> bool:
        return bool((await self.introspect(token))["active"])


def basic(client_id: str, secret: str) -> dict[str, str]:
    """RFC 6749 2.3.1."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


@dataclass
class Stand:
    """A house with two clients, a person, and a clock."""

    house: House
    person: Person
    client: Client

    async def tokens(self, login_as: str = "user-42", **changes: str | None) -> dict[str, Any]:
        """A fresh grant's answer."""
        answer = await self.client.redeem(await self.person.code(login_as, **changes))
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json
        return found

    async def events(self) -> list[tuple[str, str | None, str | None]]:
        """Kind, subject and reason of what happened to plugins."""
        found = await self.house.broker.context.stores.events.last_events(1000)
        return [
            (event.kind, event.subject, event.reason) for event in found if event.kind.startswith("plugin")
        ]

    def audited(self) -> list[dict[str, Any]]:
        path = self.house.settings.audit.path
        assert path is not None
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if line["action"].startswith("plugin")]


@asynccontextmanager
async def open_stand(folder: Path, *, login: bool = True) -> AsyncIterator[Stand]:
    """`login` False: there is no app that signs people in, and no sandbox either."""
    async with open_house(folder, extra=CONFIG) as house:
        if not login:
            text = (house.folder / "config.toml").read_text()
            (house.folder / "config.toml").write_text(text.replace("enabled = true", "enabled = false"))
            await house.restart()
        house.key = await house.caller("*", permissions=("plugin", "accounts"), name="app")
        person = Person(house)
        yield Stand(house, person, Client(house))
        await person.close()
