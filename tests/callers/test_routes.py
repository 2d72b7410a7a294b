"""No route forgets to ask: a walk over every route of every listener, judged by the answers and by the audit."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from broker.http.edge import CALLER, Handler, as_problem, edge, new_application
from broker.http.server import QuietRunner
from broker.model import Caller, Permission
from tests.callers.signing import ed25519, own_claims
from tests.callers.test_jwt import table
from tests.house import House, open_house
from tests.ports import free_port

SIGNER = ed25519()
P = Permission


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked, and the permission that it takes."""

    permission: Permission
    method: str
    path: str
    body: object = None
    accept: str = "*/*"

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.permission}"

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def address(self) -> str:
        return filled(self.path)


def filled(path: str) -> str:
    return path.format(
        account="acme",
        name="kit",
        provider="kit",
        action="freeze",
        path="orders",
        kid=16 * "0",
        grant=16 * "0",
    )


SHARED = (
    Route(P.TOKEN, "GET", "/token/{account}"),
    Route(P.TOKEN, "POST", "/token/{account}/refresh", {"rejected_generation": 99}),
    Route(P.REFRESH, "POST", "/token/{account}/refresh"),
    Route(P.TOKEN, "GET", "/authorize-request/{account}"),
    Route(P.TOKEN, "*", "/authorize-request/{account}/{path}"),
    Route(P.ACCOUNTS, "GET", "/accounts"),
    Route(P.MANAGE, "POST", "/accounts", {"name": "acme", "provider": "kit", "refresh_token": "x"}),
    Route(P.ACCOUNTS, "GET", "/accounts/{account}"),
    Route(P.MANAGE, "POST", "/accounts", {"name": "acme", "provider": "kit", "refresh_token": "sbx-kit-x"}),
    Route(P.MANAGE, "PATCH", "/accounts/{account}", {"label": "x"}),
    Route(P.MANAGE, "POST", "/accounts/{account}/freeze"),
    Route(P.MANAGE, "POST", "/accounts/{account}/unfreeze"),
    Route(P.MANAGE, "POST", "/accounts/{account}/restore"),
    Route(P.MANAGE, "POST", "/accounts/{account}/test"),
    Route(P.MANAGE, "DELETE", "/accounts/{account}"),
    Route(P.ACCOUNTS, "GET", "/events", accept="text/event-stream"),
    Route(P.INSTALL, "POST", "/installs", {"provider": "kit", "account": "acme"}),
    Route(P.PLUGIN, "POST", "/plugin/introspect", {"token": "x"}),
    Route(P.PLUGIN, "POST", "/plugin/connect-codes", {"subject": "user-42"}),
)
INTERNAL = (*SHARED, Route(P.ADMIN, "GET", "/metrics"))
ADMIN = (
    *SHARED,
    Route(P.MANAGE, "POST", "/exports", {"accounts": ["acme"]}),
    Route(P.ADMIN, "GET", "/callers"),
    Route(P.ADMIN, "POST", "/callers", {"name": "x", "accounts": ["*"]}),
    Route(P.ADMIN, "POST", "/callers/{name}/rotate"),
    Route(P.ADMIN, "DELETE", "/callers/{name}"),
    Route(P.ADMIN, "GET", "/providers"),
    Route(P.ADMIN, "POST", "/providers/{name}/resume"),
    Route(P.ACCOUNTS, "GET", "/events"),
    Route(P.ADMIN, "GET", "/check"),
    Route(P.ADMIN, "POST", "/adopt"),
    Route(P.ADMIN, "POST", "/reload"),
    Route(P.ADMIN, "GET", "/audit/verify"),
    Route(P.ADMIN, "POST", "/audit/verify"),
    Route(P.ADMIN, "GET", "/keys"),
    Route(P.ADMIN, "POST", "/keys"),
    Route(P.ADMIN, "POST", "/keys/rewrap"),
    Route(P.ADMIN, "DELETE", "/keys/{kid}"),
    Route(P.ADMIN, "POST", "/backup"),
    Route(P.MANAGE, "POST", "/exports"),
    Route(P.ADMIN, "POST", "/dashboard-links"),
    Route(P.ADMIN, "GET", "/dashboard-sessions"),
    Route(P.ADMIN, "DELETE", "/dashboard-sessions"),
    Route(P.PLUGIN, "GET", "/plugin/grants"),
    Route(P.PLUGIN, "DELETE", "/plugin/grants/{grant}"),
    Route(P.ADMIN, "GET", "/version"),
)
DESCRIPTION = {("GET", "/openapi.json"), ("GET", "/docs")}
OPEN = {("GET", "/healthz"), ("GET", "/readyz")} | DESCRIPTION
BY_LINK = {("GET", "/dashboard/sign-in"), ("GET", "/")}
METADATA = ("GET", "/.well-known/oauth-authorization-server")
PUBLIC = {
    METADATA,
    ("GET", "/healthz"),
    ("GET", "/plugin/authorize"),
    ("POST", "/plugin/authorize"),
    ("POST", "/plugin/token"),
    ("POST", "/plugin/refresh"),
    ("POST", "/plugin/revoke"),
    ("GET", "/install/{provider}"),
    ("GET", "/callback/{provider}"),
    ("GET", "/callback/{provider}/"),
    ("POST", "/callback/{provider}"),
    ("POST", "/callback/{provider}/"),
    ("GET", "/login/complete"),
} | DESCRIPTION


def known(application: web.Application) -> set[tuple[str, str]]:
    """Every route but the files of pages, and HEAD, which has the handler of GET."""
    return {
        (route.method, route.resource.canonical)
        for route in application.router.routes()
        if route.resource is not None and not route.resource.canonical.startswith("/static/")
        if route.method != "HEAD"
    }


def of_dashboard(application: web.Application) -> set[tuple[str, str]]:
    return {one for one in known(application) if one[1] == "/" or one[1].startswith("/dashboard")}


@pytest.fixture(scope="module")
def extra() -> str:
    """For each permission a caller that has all the others, and one that has it alone; and one with none."""
    words = {f"without-{one}": [str(p) for p in P if p is not one] for one in P}
    words |= {f"only-{one}": [str(one)] for one in P} | {"nobody": []}
    return "".join(table(name, SIGNER, permissions=json.dumps(rights)) for name, rights in words.items())


@pytest.fixture
async def house(tmp_path: Path, extra: str) -> AsyncIterator[House]:
    async with open_house(tmp_path / "house", extra=extra) as house:
        await house.connect()
        yield house


def denied(house: House) -> list[str]:
    """Who was denied something, by the audit."""
    lines = (house.folder / "var" / "audit.jsonl").read_text().splitlines()
    return [one["caller"] for one in map(json.loads, lines) if one.get("decision") == "denied"]


async def ask(house: House, base: str, route: Route, caller: str) -> int:
    headers = {
        "Authorization": f"Bearer {SIGNER.sign(own_claims(caller, house.clock.now()))}",
        "Accept": route.accept,
        "X-Caller": caller,
    }
    # PATCH stands for any method.
    method = route.method.replace("*", "PATCH")
    async with house.session.request(
        method, base + route.address, json=route.body, headers=headers
    ) as answer:
        return answer.status


async def test_internal_routes_are_these(house: House) -> None:
    """A new one is put into the table, with its permission."""
    internal = house.broker.listeners.internal

    assert known(internal) - of_dashboard(internal) == OPEN | {route.key for route in INTERNAL}


async def test_dashboard_shows_nothing_without_its_own_login(house: House) -> None:
    """A service's credential with every right is none of it; whoever comes is told how to get a link."""
    shown = {}
    for method, path in of_dashboard(house.broker.listeners.internal):
        url = house.internal + filled(path)
        headers = {"Authorization": f"Bearer {house.key}"}
        async with house.session.request(method, url, headers=headers, allow_redirects=False) as answer:
            body = await answer.text()
            shown[method, path] = answer.status in (401, 403, 400, 303) and "acme" not in body

    assert len(shown) > len(BY_LINK)
    assert {} == {route: right for route, right in shown.items() if not right}


@pytest.mark.parametrize("who", ["nobody", "without"])
async def test_internal_routes_refuse_who_lacks_the_permission(house: House, who: str) -> None:
    """Who has none, and who has all the others; each refusal is in the audit."""
    callers = [who if who == "nobody" else f"without-{route.permission}" for route in INTERNAL]

    statuses = [
        await ask(house, house.internal, route, caller)
        for route, caller in zip(INTERNAL, callers, strict=True)
    ]

    assert [403] * len(INTERNAL) == statuses
    assert callers == denied(house)


async def test_internal_routes_let_in_who_has_that_permission_alone(house: House) -> None:
    """So it is the one that was asked for."""
    statuses = {
        str(route): await ask(house, house.internal, route, f"only-{route.permission}") for route in INTERNAL
    }

    assert {} == {route: status for route, status in statuses.items() if status in (401, 403)}
    assert [] == denied(house)


async def test_declared_permissions_are_those_of_the_walks(house: House) -> None:
    """So what the walks find out holds for the declarations: the first one where a body may ask for less."""
    listeners = house.broker.listeners
    for application, routes in ((listeners.internal, INTERNAL), (listeners.admin, ADMIN)):
        declared = {
            (one.method, one.path): one.permission
            for route in application.router.routes()
            for one in getattr(route.handler, "operations", ())
        }
        walked = {route.key: route.permission for route in routes}

        # It has a login of its own besides.
        assert declared.pop(("GET", "/metrics"), None) is None
        walked.pop(("GET", "/metrics"), None)
        assert walked == {key: permission for key, permission in declared.items() if permission is not None}


@asynccontextmanager
async def weak_admin(house: House) -> AsyncIterator[str]:
    """The very handlers of the admin socket, for callers who are not operators."""

    @web.middleware
    async def weak(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = request.headers["X-Caller"]
        held = house.settings.callers[name].permissions
        request[CALLER] = Caller(name, ("*",), held, credential="test")
        return await handler(request)

    application = new_application(edge(as_problem, listener="admin", is_stopping=lambda: False), weak)
    for route in house.broker.listeners.admin.router.routes():
        if route.resource is not None and route.method != "HEAD":
            application.router.add_route(route.method, route.resource.canonical, route.handler)
    runner, port = QuietRunner(application), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_head_works_where_get_does(house: House) -> None:
    """Except on tokens, and on what is good once; a stream has headers and no end to wait for."""
    once = {"/install/{provider}", "/callback/{provider}", "/callback/{provider}/", "/login/complete"}
    tokens = {"/token/{account}", "/authorize-request/{account}"}
    never = {"/dashboard/sign-in", "/plugin/authorize"} | tokens | once
    listeners = house.broker.listeners
    for application in (listeners.internal, listeners.public, listeners.admin):
        heads = {
            route.resource.canonical
            for route in application.router.routes()
            if route.resource and route.method == "HEAD" and "/static/" not in route.resource.canonical
        }
        assert heads == {path for method, path in known(application) if method == "GET"} - never

    for path in ("/accounts", "/accounts/acme", "/events", "/healthz", "/readyz", "/openapi.json", "/docs"):
        answer = await house.ask("HEAD", path)
        assert (200, b"") == (answer.status, answer.body), path


async def test_admin_routes_are_these(house: House) -> None:
    """A new one is put into the table, with its permission."""
    assert known(house.broker.listeners.admin) == {route.key for route in ADMIN}


@pytest.mark.parametrize("who", ["nobody", "without"])
async def test_admin_routes_ask_the_gate(house: House, who: str) -> None:
    """Though whoever may open the socket has every right today."""
    callers = [who if who == "nobody" else f"without-{route.permission}" for route in ADMIN]

    async with weak_admin(house) as base:
        statuses = [
            await ask(house, base, route, caller) for route, caller in zip(ADMIN, callers, strict=True)
        ]

    assert [403] * len(ADMIN) == statuses
    assert callers == denied(house)


async def test_public_routes_are_these(house: House) -> None:
    """A new one is looked at here; files of pages are the only others."""
    assert known(house.broker.listeners.public) == PUBLIC


async def test_public_routes_give_nothing_to_who_brings_nothing(house: House) -> None:
    """No ticket, no state, no sign-in: a refusal, whatever credential for services comes with it."""
    refused = {}
    for method, path in PUBLIC - {METADATA, ("GET", "/healthz")} - DESCRIPTION:
        url = house.public + path.replace("{provider}", "kustomer")
        headers = {"Authorization": f"Bearer {house.key}"}
        async with house.session.request(method, url, headers=headers) as answer:
            refused[method, path] = 400 <= answer.status < 500

    assert dict.fromkeys(PUBLIC - {METADATA, ("GET", "/healthz")} - DESCRIPTION, True) == refused


async def test_nothing_of_one_listener_answers_on_another(house: House) -> None:
    """Tokens and callers are not to be had in public, callers not on the internal listener."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {house.key}"}) as session:
        statuses = []
        for url in (house.public + "/token/acme", house.public + "/callers", house.internal + "/callers"):
            async with session.get(url) as answer:
                statuses.append(answer.status)

    assert [404, 404, 404] == statuses
