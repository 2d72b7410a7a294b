"""Drives a broker through everything that handles secrets, and notes every one of them."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
from yarl import URL

from broker.sandbox import visitor
from tests.flows.searching import Haul
from tests.process import Process

CANARY = "canary-3f9c1d"
PERMISSIONS = ("token", "refresh", "install", "accounts", "manage", "admin")

MALFORMED = {
    "space before colon": b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer %s\r\n\r\n",
    "bad header line": b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\x00bad\r\n\r\n",
    "folded header": b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n %s\r\n\r\n",
    "bad request line": b"GET /token/%s\r\n\r\n",
    "bad method": b"G\x01T /?code=%s HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad version": b"GET /?code=%s HTTP/9.x\r\nHost: x\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nX: %s\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nX: %s\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "bad chunk": b"POST /installs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\n%s\r\n0\r\n\r\n",
    "header too long": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s" + b"a" * 9000 + b"\r\n\r\n",
    "byte ff": b"GET /token/acme HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff%s\r\nConnection: close\r\n\r\n",
    "two credentials": (
        b"GET /token/acme HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Authorization: Bearer %s\r\nAuthorization: Bearer x\r\n\r\n"
    ),
    "unknown expectation": b"POST /installs HTTP/1.1\r\nHost: x\r\nExpect: %s\r\nContent-Length: 0\r\n\r\n",
    "TLS on a plain port": b"\x16\x03\x01%s\r\n\r\n",
}
HTML = {"Content-Type": "text/html"}
LEAKY: tuple[dict[str, Any], ...] = (
    {"raw": f'{{"access_token": "{CANARY}-a", "refresh_token": "{CANARY}-r", '},
    {"raw": f'["{CANARY}"]'},
    {"status": 500, "body": f"<html>{CANARY}</html>", "headers": HTML},
    {"status": 302, "headers": {"Location": f"http://127.0.0.1:1/?token={CANARY}"}},
    {"status": 403, "body": f"<html>{CANARY}</html>", "headers": {**HTML, "X-Token": CANARY}},
    {
        "status": 400,
        "body": '{"error":"invalid_scope","error_description":"Unknown scope sandbox-kit-secret"}',
    },
    {"status": 400, "body": '{"error":"invalid_grant","error_description":"Revoked."}'},
    {"members": {"expires_in": CANARY, "id_token": CANARY}},
    {"truncate": -1},
    {"drop": "after"},
    # The last two stop the provider: nothing is sent to it after them.
    {
        "status": 401,
        "body": '{"error":"invalid_client","error_description":"Unknown secret sandbox-kit-secret"}',
    },
    {"status": 429, "body": CANARY, "headers": {"Retry-After": "3", "X-Token": CANARY}},
)
"""Answers of every class. A description is shown to operators, without our secret; the rest is kept nowhere."""


@dataclass(slots=True)
class Driver:
    """Drives one process through everything that handles secrets, well and badly."""

    process: Process
    key: str
    haul: Haul = field(default_factory=lambda: Haul({CANARY}))

    async def ask(self, method: str, path: str, body: object = None, *, key: str | None = None) -> bytes:
        """A request to the internal listener; a token may be in the answer only where it is meant to be."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        data = body if isinstance(body, str) else json.dumps(body) if body is not None else None
        async with self.process.session.request(
            method, self.process.internal + path, data=data, headers=headers
        ) as answer:
            content = await answer.read()
            meant = json.loads(content).get("access_token") if b"access_token" in content else None
            kept = content.replace(meant.encode(), b"") if meant else content
            self.haul.keep(f"{method} {path}", answer.headers, kept)
            return content

    async def link(self, account: str, provider: str = "kit") -> str:
        """An install link; its ticket is a secret, and meant to be in this one answer."""
        body = json.dumps({"provider": provider, "account": account})
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.process.session.post(
            f"{self.process.internal}/installs", data=body, headers=headers
        ) as made:
            url = str((await made.json())["install_url"])
        self.haul.known.add(url.partition("ticket=")[2])
        return url

    async def install(self, url: str, account: str = "29", **callback: str) -> None:
        """Walk an install by hand and note every secret of it; `callback` replaces what the provider says."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            consent = await location(browser.get(URL(url, encoded=True), allow_redirects=False))
            query = {name: values[0] for name, values in parse_qs(urlsplit(consent).query).items()}
            self.haul.challenges.add(query["code_challenge"])
            self.haul.known |= {query["state"], *(cookie.value for cookie in browser.cookie_jar)}
            form = {**query, "decision": "allow", "account": account, "org": "acme"}
            back = URL(await location(browser.post(consent, data=form, allow_redirects=False)))
            self.haul.known.add(back.query["code"])
            if callback:
                back = back.with_query({"state": back.query["state"], **callback})
            for _ in range(2):
                async with browser.get(back) as page:
                    self.haul.keep("callback", page.headers, await page.read())

    async def renewals(self) -> None:
        """A renewal of an account of its own for each answer a provider may give."""
        sandbox = self.process.sandbox
        for number, _ in enumerate(LEAKY):
            await visitor.install(await self.link(f"leaky-{number}"), answers={"account": str(100 + number)})
        for number, faults in enumerate(LEAKY):
            sandbox.faults.set("kit", **faults, times=1)
            await self.ask("POST", f"/token/leaky-{number}/refresh")
            assert sandbox.faults.as_json()["kit"]["times"] is None, f"nobody met {faults}"
            await self.ask("GET", f"/accounts/leaky-{number}")

    async def refusals(self) -> None:
        """What callers do wrong."""
        for method, path, body in (
            ("GET", "/token/nobody-here", None),
            ("GET", f"/token/{CANARY}!", None),
            ("GET", f"/token/acme?min_ttl={CANARY}", None),
            ("GET", f"/{CANARY}?token={CANARY}", None),
            ("POST", "/installs", f'{{"provider": "{CANARY}", "x": "{CANARY}"}}'),
            ("POST", "/installs", f'{{"provider": "{CANARY}!"}}'),
            ("POST", "/installs", f'{{"provider": "kit", "return_to": "{CANARY}"}}'),
            ("POST", "/installs", f'{{"refresh_token": "{CANARY}", '),
            ("POST", "/token/acme/refresh", f'{{"rejected_generation": "{CANARY}"}}'),
            ("PATCH", "/accounts/acme", f'{{"token": "{CANARY}"}}'),
            ("POST", "/accounts/acme/refresh", f'["{CANARY}"]'),
        ):
            await self.ask(method, path, body)
        for key in (f"tbk_000000000000_{CANARY.ljust(43, 'x')}", f"eyJhbGciOiJub25lIn0.{CANARY}.x", CANARY):
            await self.ask("GET", "/token/acme", key=key)

    async def strangers(self) -> None:
        """What comes to the public listener from outside, and what is not HTTP on either."""
        public_url = f"http://127.0.0.1:{self.process.public_port}"
        for path in (
            f"/install/kit?ticket={CANARY}",
            f"/callback/kit?code={CANARY}&state={CANARY}",
            f"/callback/kit?error={CANARY}&state={CANARY}",
            f"/login/complete?login_challenge={CANARY}&login_response={CANARY}",
            f"/{CANARY}?code={CANARY}",
        ):
            async with self.process.session.get(public_url + path) as page:
                self.haul.keep(path.partition("?")[0][:10], page.headers, await page.read())
        sent = [
            (name, port, request.replace(b"%s", CANARY.encode()))
            for name, request in MALFORMED.items()
            for port in (self.process.internal_port, self.process.public_port)
        ]
        answers = await asyncio.gather(*(raw(port, request) for _, port, request in sent))
        for (name, _, _), answer in zip(sent, answers, strict=True):
            self.haul.keep(name, "", answer)

    async def look_around(self) -> None:
        """Everything that tells how the broker is doing."""
        for path in ("/metrics", "/accounts", "/accounts/acme", "/healthz", "/readyz", "/token/acme"):
            await self.ask("GET", path)
        for command in ("check", "accounts list --json", "callers list --json", "providers list", "events"):
            code, out, err = await self.process.run(*command.split())
            self.haul.keep(command, code, f"{out}{err}".encode())


async def location(answering: Any) -> str:
    async with answering as answer:
        return str(answer.headers["Location"])


async def new_driver(process: Process) -> Driver:
    """A started broker, and a key that may do everything."""
    await process.start()
    granted = [word for permission in PERMISSIONS for word in ("--permission", permission)]
    code, key, err = await process.run("callers", "add", "ops", "--account", "*", *granted)
    assert 0 == code, err
    process.key = key.strip()
    driver = Driver(process, process.key)
    master = (process.folder / "var" / "master.key").read_text().strip()
    driver.haul.known |= {process.key, master, "sandbox-kit-secret", "sandbox-kustomer-secret"}
    return driver


async def raw(port: int, request: bytes) -> bytes:
    """Send bytes as they are; whatever comes back until the connection is closed over there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()
