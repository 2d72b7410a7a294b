"""Kit as a client of the plugin server: what it sends, and what it stumbles over."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from broker.clock import SystemClock
from broker.config.values import TcpListen
from broker.sandbox import Sandbox
from broker.sandbox.plugin_client import Heard, ask, metadata, token_complaint

GOOD = {
    "access_token": "a",
    "refresh_token": "r",
    "created_at": 1_800_000_000,
    "expires_in": 172800,
    "token_type": "Bearer",
    "scope": "",
}


class Server:
    """A plugin server that answers as told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Any = GOOD
        self.status = 200
        self.headers = {"Cache-Control": "no-store"}
        self.content_type = "application/json"
        self.has_metadata = True
        self.asked: list[tuple[str, str, bytes]] = []
        self.base = ""

    async def post(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.content_type, await request.read()))
        text = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
        return web.Response(
            text=text, status=self.status, headers=self.headers, content_type=self.content_type
        )

    async def metadata(self, _: web.Request) -> web.Response:
        if not self.has_metadata:
            raise web.HTTPNotFound
        return web.json_response({"issuer": self.base}, headers=self.headers)


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.add_routes(
        [
            web.post("/plugin/{what}", server.post),
            web.get("/.well-known/oauth-authorization-server", server.metadata),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture(name="kit")
async def _kit(server: Server, tmp_path: Path) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(
        listen=TcpListen("127.0.0.1", 0),
        database=tmp_path / "sandbox.db",
        clock=SystemClock(),
        broker_public_url=server.base,
    )
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


async def get(kit: Sandbox, path: str) -> tuple[int, str, str]:
    """Status, where it leads, and what it says."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(kit.base_url + path, allow_redirects=False) as answer,
    ):
        return answer.status, answer.headers.get("Location", ""), await answer.text()


async def post(kit: Sandbox, path: str, body: object) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(kit.base_url + path, json=body) as answer:
        return answer.status, await answer.json()


async def come_back(kit: Sandbox, **changes: str) -> tuple[int, str, str]:
    """Install was clicked, the person allowed it, and is back at Kit."""
    _, location, _ = await get(kit, "/kit/apps/717/start")
    query = {"code": "the-code", "state": URL(location).query.get("state", ""), **changes}
    return await get(kit, str(URL("/kit/apps/install").with_query({k: v for k, v in query.items() if v})))


async def test_install_begins_with_the_plugin(kit: Sandbox, server: Server) -> None:
    """As Kit's documents ask, with a state that can be switched off."""
    _, first, _ = await get(kit, "/kit/apps/717/start")
    await post(kit, "/_sandbox/plugin", {"send_state": False, "scope": "read:products"})
    _, second, _ = await get(kit, "/kit/apps/717/start")

    asked = {
        "client_id": "sandbox-kit-plugin",
        "response_type": "code",
        "redirect_uri": f"{kit.base_url}/kit/apps/install",
    }
    assert first.startswith(f"{server.base}/plugin/authorize?")
    assert {**asked, "state": URL(first).query["state"]} == dict(URL(first).query)
    assert {**asked, "scope": "read:products"} == dict(URL(second).query)


async def test_code_is_redeemed_as_in_kits_documents(kit: Sandbox, server: Server) -> None:
    """A JSON body under a form's name, another address than before; then the API half begins."""
    status, location, _ = await come_back(kit)

    [(path, content_type, body)] = server.asked
    assert ("/plugin/token", "application/x-www-form-urlencoded") == (path, content_type)
    assert {
        "client_id": "sandbox-kit-plugin",
        "client_secret": "sandbox-kit-plugin-secret",
        "grant_type": "authorization_code",
        "code": "the-code",
        "redirect_uri": f"{kit.base_url}/kit/apps",
    } == json.loads(body)
    back = f"{kit.base_url}/kit/apps/717?success=true"
    assert (302, f"{server.base}/install/kit?redirect={back}") == (status, location)


@pytest.mark.parametrize(
    "changes", [{"state": "other"}, {"state": ""}, {"code": ""}, {"error": "access_denied"}]
)
async def test_odd_way_back_connects_nothing(kit: Sandbox, server: Server, changes: dict[str, str]) -> None:
    """Nothing is redeemed."""
    status, _, text = await come_back(kit, **changes)

    assert (400, True, []) == (status, "was not installed" in text, server.asked)


async def test_renewal_and_uninstall(kit: Sandbox, server: Server) -> None:
    """Without a secret, and with one and the access token; the body's dress can be changed."""
    await come_back(kit)
    await post(kit, "/_sandbox/plugin", {"body": "form", "content_type": "json"})
    server.answer = {**GOOD, "access_token": "a2", "refresh_token": "r2"}

    lost = await post(kit, "/_sandbox/plugin/1/refresh", {"lose_answer": True})
    renewed = await post(kit, "/_sandbox/plugin/1/refresh", {})
    held = json.loads((await get(kit, "/_sandbox/plugin/1"))[2])
    server.answer = {}
    gone = await post(kit, "/_sandbox/plugin/1/uninstall", {})

    sent = [(path, kind, body) for path, kind, body in server.asked[1:]]
    renewal = b"client_id=sandbox-kit-plugin&grant_type=refresh_token&refresh_token=r"
    ending = b"client_id=sandbox-kit-plugin&client_secret=sandbox-kit-plugin-secret&token=a2"
    assert [("/plugin/refresh", "application/json", renewal)] * 2 == sent[:2]
    assert ("/plugin/revoke", "application/json", ending) == sent[2]
    assert {"access_token": "a2", "refresh_token": "r2"} == held
    assert [(200, {"status": 200, "complaint": None})] * 3 == [lost, renewed, gone]


async def test_record_holds_no_token(kit: Sandbox, server: Server) -> None:
    """Hashes and steps."""
    server.answer = {**GOOD, "access_token": "access-canary", "refresh_token": "refresh-canary"}
    await come_back(kit)

    text = (await get(kit, "/_sandbox/plugin"))[2]

    seen = json.loads(text)
    assert "canary" not in text
    assert ["connected"] == [one["status"] for one in seen["connections"]]
    assert [{"step": "token", "status": 200, "complaint": None}] == seen["steps"]


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"created_at": None}, "created_at is no positive integer"),
        ({"created_at": "1800000000"}, "created_at is no positive integer"),
        ({"expires_in": 172800.0}, "expires_in is no positive integer"),
        ({"expires_in": True}, "expires_in is no positive integer"),
        ({"expires_in": 0}, "expires_in is no positive integer"),
        ({"refresh_token": ""}, "refresh_token is no string"),
        ({"access_token": 5}, "access_token is no string"),
        ({"token_type": "mac"}, "token_type is not Bearer"),
        ({}, None),
    ],
)
def test_kit_is_strict_about_members(members: dict[str, Any], complaint: str | None) -> None:
    """Integers as integers, strings as strings."""
    assert complaint == token_complaint(Heard(200, {**GOOD, **members}, None))


@pytest.mark.parametrize("name", ["access_token", "refresh_token", "created_at", "expires_in"])
def test_kit_needs_four_members(name: str) -> None:
    """Each of them."""
    document = {key: value for key, value in GOOD.items() if key != name}

    assert f"missing: {name}" == token_complaint(Heard(200, document, None))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"headers": {}}, "the answer may be cached"),
        ({"content_type": "text/html"}, "the answer is not application/json"),
        ({"answer": "{"}, "the answer is no JSON object"),
        ({"answer": [1]}, "the answer is no JSON object"),
        ({"status": 400, "answer": {"error": "invalid_grant"}}, "status 400: invalid_grant"),
    ],
)
async def test_kit_is_strict_about_answers(
    kit: Sandbox, server: Server, change: dict[str, Any], complaint: str
) -> None:
    """The install ends at a page that says why, and nothing is connected."""
    server.has_metadata = True
    await post(kit, "/_sandbox/plugin", {"enabled": True})
    for name, value in change.items():
        setattr(server, name, value)

    status, _, text = await come_back(kit)

    seen = json.loads((await get(kit, "/_sandbox/plugin"))[2])
    assert (400, True, []) == (status, complaint in text, seen["connections"])
    assert [complaint, complaint] == [one["complaint"] for one in seen["steps"]]


async def test_without_a_server_the_api_half_is_all(kit: Sandbox, server: Server) -> None:
    """No metadata, or switched off: straight to the Authorization URL."""
    server.has_metadata = False
    _, absent, _ = await get(kit, "/kit/apps/717/start")
    server.has_metadata = True
    await post(kit, "/_sandbox/plugin", {"enabled": False})
    _, off, _ = await get(kit, "/kit/apps/717/start")

    link = f"{server.base}/install/kit?redirect={kit.base_url}/kit/apps/717?success=true"
    assert [link, link] == [absent, off]


@pytest.mark.parametrize(
    "body",
    [{"nonsense": 1}, {"body": "xml"}, {"enabled": "yes"}, {"client_id": 5}, {"token_url": False}],
)
async def test_setup_that_is_wrong_changes_nothing(kit: Sandbox, body: dict[str, Any]) -> None:
    """And the answer names the member."""
    status, told = await post(kit, "/_sandbox/plugin", body)

    setup = json.loads((await get(kit, "/_sandbox/plugin"))[2])["setup"]
    assert (400, True) == (status, next(iter(body)) in told["error"])
    assert ("json", "form", None) == (setup["body"], setup["content_type"], setup["enabled"])


async def test_unknown_connection_is_told(kit: Sandbox) -> None:
    """With where they are listed."""
    status, told = await post(kit, "/_sandbox/plugin/7/refresh", {})

    assert (400, True) == (status, "GET /_sandbox/plugin" in told["error"])


async def test_kit_does_not_leave_the_machine() -> None:
    """Whatever stands in its setup."""
    heard = await ask("https://broker.example/plugin/token", {}, body="json", content_type="json")

    assert (0, "https://broker.example/plugin/token is not on this machine") == (
        heard.status,
        heard.complaint,
    )
    assert await metadata("https://broker.example") is None


async def test_nobody_there_is_a_complaint(server: Server) -> None:
    """Not a crash."""
    heard = await ask("http://127.0.0.1:9/plugin/token", {}, body="json", content_type="json")

    assert "no answer (ClientConnectorError)" == heard.complaint
    assert await metadata("http://127.0.0.1:9") is None
