"""A house with two accounts, and an operator's browser."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.house import OPERATOR, Answer, House, open_house

FORM = re.compile(r'name="form" value="([0-9a-f]{64})"')


@dataclass(slots=True)
class Visitor:
    """A browser without scripts: it keeps cookies and follows no redirect by itself."""

    house: House
    session: aiohttp.ClientSession
    base: str = ""
    """Below it lie the pages of this browser; tests name and read their paths without it."""

    async def link(self) -> str:
        """A one-time link, as `broker dashboard` prints it."""
        return await dashboard_link(self.house)

    async def sign_in(self) -> None:
        answer = await self.get(await self.link())
        assert 303 == answer.status
        self.base = answer.headers["Location"].removesuffix("/")

    async def get(self, path: str) -> Answer:
        return await self._ask("GET", path)

    async def post(self, path: str, *, form: str | None = None, **headers: str) -> Answer:
        """Send a form of the page that the path hangs below; by default with that page's own form token."""
        token = await self.form_token() if form is None else form
        return await self._ask("POST", path, data={"form": token}, headers=headers)

    async def do(self, path: str) -> Answer:
        """Send such a form, and go where it leads."""
        return await self.get((await self.post(path)).headers["Location"])

    async def form_token(self) -> str:
        [token, *_] = FORM.findall((await self.get("/")).body.decode())
        return str(token)

    async def _ask(self, method: str, path: str, **more: Any) -> Answer:
        url = path if path.startswith("http") else self.house.internal + self.base + path
        async with self.session.request(method, url, allow_redirects=False, **more) as response:
            headers, body = response.headers.copy(), await response.read()
        if self.base and "Location" in headers:
            headers["Location"] = headers["Location"].removeprefix(self.base)
        return Answer(response.status, headers, body.replace(self.base.encode(), b"") if self.base else body)


async def dashboard_link(house: House) -> str:
    """Made over the admin application, as the command line does."""
    links = house.broker.sessions
    secret = await links.new_link(OPERATOR)
    return f"{house.internal}/dashboard/sign-in?link={secret.reveal()}"


@pytest.fixture(name="house")
async def _house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "run") as house:
        await house.connect("kit", "acme")
        await house.connect("kustomer", "north", org="north")
        yield house


@pytest.fixture(name="visitor")
async def _visitor(house: House) -> AsyncIterator[Visitor]:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield Visitor(house, session)


@pytest.fixture(name="operator")
async def _operator(visitor: Visitor) -> Visitor:
    """A visitor who has signed in."""
    await visitor.sign_in()
    return visitor
