"""Listeners apart: what answers on one is unknown on the other; headers, cookies and client addresses of each."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from tests.flows.driving import raw
from tests.house import House, open_house
from tests.process import new_process

EVERYWHERE = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "token-broker",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
HSTS = "max-age=31536000"
FILLED = {
    "account": "acme",
    "provider": "kit",
    "name": "acme",
    "action": "freeze",
    "kid": 16 * "0",
    "grant": 16 * "0",
    "path": "orders/7",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer without what differs from one to the next."""

    status: int
    headers: dict[str, str]
    body: str


async def ask(house: House, base: str, method: str, path: str, *, key: str = "") -> Seen:
    headers = {"X-Request-Id": "the-same-each-time"} | ({"Authorization": f"Bearer {key}"} if key else {})
    async with house.session.request(method, base + path, headers=headers, allow_redirects=False) as answer:
        kept = {name: value for name, value in answer.headers.items() if name != "Date"}
        # A stream has no end to wait for.
        body = "" if answer.content_type == "text/event-stream" else await answer.text()
        return Seen(answer.status, kept, body)


def routes(application: web.Application) -> set[tuple[str, str]]:
    """Every method and path, its blanks filled in; PATCH stands for any method."""
    return {
        (
            route.method.replace("*", "PATCH"),
            re.sub(r"\{(\w+)\}", lambda blank: FILLED[blank[1]], route.resource.canonical),
        )
        for route in application.router.routes()
        if route.resource is not None
    }


async def test_nothing_internal_answers_on_public(house: House) -> None:
    """Each route of services and operators is as unknown there as any other word, with a valid key too."""
    await house.connect()
    listeners = house.broker.listeners
    foreign = (routes(listeners.internal) | routes(listeners.admin)) - routes(listeners.public)

    different = [
        (method, path)
        for method, path in sorted(foreign)
        for key in ("", house.key)
        if await ask(house, house.public, method, path, key=key)
        != await ask(house, house.public, method, "/no-such-word")
    ]

    assert len(foreign) > 20
    assert [] == different


@pytest.mark.parametrize("known", [True, False])
async def test_nothing_public_answers_on_internal(house: House, known: bool) -> None:
    """404 for a caller and 401 for anybody else, as for any other word."""
    listeners, key = house.broker.listeners, house.key if known else ""
    foreign = (routes(listeners.public) | routes(listeners.admin)) - routes(listeners.internal)

    async def seen_at(method: str, path: str) -> Seen:
        # Slowly enough that nobody is taken for somebody who tries keys.
        house.clock.advance(5.0)
        return await ask(house, house.internal, method, path, key=key)

    unknown = {method: await seen_at(method, "/no-such-word") for method, _ in foreign}

    different = [
        (method, path) for method, path in sorted(foreign) if await seen_at(method, path) != unknown[method]
    ]

    assert len(foreign) > 10
    assert {404 if known else 401} == {seen.status for seen in unknown.values()}
    assert [] == different


async def test_browsers_share_no_route_with_anybody(house: House) -> None:
    """The walks above leave out what two listeners share, so it is said here what that is."""
    listeners = house.broker.listeners
    public = {(method, path) for method, path in routes(listeners.public) if not path.startswith("/static/")}

    shared = public & (routes(listeners.internal) | routes(listeners.admin))
    assert {"/openapi.json", "/docs", "/healthz"} == {path for _, path in shared}
    assert {method for method, _ in shared} <= {"GET", "HEAD"}
    assert {"/token", "/authorize-request", "/accounts", "/events", "/installs", "/plugin"} == {
        "/" + path.split("/")[1] for _, path in routes(listeners.internal) & routes(listeners.admin)
    }


@pytest.fixture(name="https")
async def _https(tmp_path: Path) -> AsyncIterator[House]:
    """A house that browsers reach over https, through a proxy that ends TLS."""
    async with open_house(tmp_path / "house") as house:
        await reconfigure(
            house, f'public_url = "{house.public}"', 'public_url = "https://broker.example.com"'
        )
        yield house


async def reconfigure(house: House, old: str, new: str) -> None:
    """Change a line of the configuration, and start anew."""
    config = house.folder / "config.toml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    await house.restart()


async def public_answers(house: House) -> dict[str, Seen]:
    """One answer of every kind that the public listener gives."""
    ticket = (await house.post("/installs", {"provider": "kit", "account": "acme"})).json["install_url"]
    asked = {
        *routes(house.broker.listeners.public),
        ("GET", "/no-such-word"),
        ("POST", "/install/kit"),
        ("HEAD", "/install/kit"),
        ("OPTIONS", "/callback/kit"),
        ("GET", "/install/kit?redirect=https://app.kit.com/apps/717"),
        ("GET", "/install/kit?" + ticket.partition("?")[2]),
    }
    return {f"{one} {path[:24]}": await ask(house, house.public, one, path) for one, path in sorted(asked)}


async def test_every_public_answer_is_safe(https: House) -> None:
    """Pages, redirects, files, refusals: nothing framed, nothing sniffed, nothing told, https only, no inline code."""
    answers = await public_answers(https)

    assert {200, 302, 400, 404, 405} <= {seen.status for seen in answers.values()}
    for name, seen in answers.items():
        assert (seen.headers.items() & EVERYWHERE.items()) == EVERYWHERE.items(), name
        assert seen.headers["Strict-Transport-Security"] == HSTS, name
        policy = seen.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy, name
        assert "frame-ancestors 'none'" in policy, name
        assert "unsafe" not in policy, name
        assert "no-store" in seen.headers["Cache-Control"] or "/static/" in name, name


async def test_what_is_not_http_is_answered_as_safely(https: House) -> None:
    """The one constant answer has the headers of its listener."""
    answer = (await raw(https.public_port, b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")).decode()

    missing = [
        f"{name}: {value}" for name, value in EVERYWHERE.items() if f"\r\n{name}: {value}\r\n" not in answer
    ]
    assert [] == missing
    assert f"\r\nStrict-Transport-Security: {HSTS}\r\n" in answer


async def test_plain_http_promises_no_https(house: House) -> None:
    """On loopback there is none."""
    answers = await public_answers(house)

    assert [] == [name for name, seen in answers.items() if "Strict-Transport-Security" in seen.headers]


async def test_every_internal_answer_is_safe(house: House) -> None:
    """Services need few headers; a browser that is led there gets nothing out of it."""
    await house.connect()
    asked = [*routes(house.broker.listeners.internal), ("GET", "/no-such-word"), ("PUT", "/token/acme")]

    answers = {
        f"{method} {path} {bool(key)}": await ask(house, house.internal, method, path, key=key)
        for method, path in sorted(asked, reverse=True)
        for key in ("", house.key)
    }

    assert {200, 204, 401, 404, 405} <= {seen.status for seen in answers.values()}
    for name, seen in answers.items():
        assert (seen.headers.items() & EVERYWHERE.items()) == EVERYWHERE.items(), name
        assert "no-store" in seen.headers["Cache-Control"] or "/static/" in name, name
        assert "default-src 'none'" in seen.headers["Content-Security-Policy"], name
        assert "frame-ancestors 'none'" in seen.headers["Content-Security-Policy"], name


async def cookies(house: House) -> list[str]:
    """The cookies of an install that begins at Kit, for a browser at the public address."""
    host = {"Host": urlsplit(house.broker.context.settings.server.public_url).netloc}
    path = "/install/kit?redirect=https://app.kit.com/apps/717"
    async with house.session.get(house.public + path, headers=host, allow_redirects=False) as answer:
        return answer.headers.getall("Set-Cookie")


async def test_cookies_are_bound_to_the_host_on_https(https: House) -> None:
    """`__Host-`, Secure, HttpOnly, SameSite=Lax, for the whole host and no other."""
    seen = await cookies(https)

    assert len(seen) == 2
    for cookie in seen:
        assert cookie.startswith(("__Host-broker_browser=", "__Host-broker_flow_"))
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie


async def test_cookies_on_loopback_are_plain(house: House) -> None:
    """A browser drops `__Host-` and Secure on http."""
    browser, kept = await cookies(house)

    assert browser.startswith("broker_browser=")
    assert kept.startswith("broker_flow_")
    assert "Secure" not in browser + kept


def audited(house: House) -> Iterator[str | None]:
    for line in (house.folder / "var" / "audit.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["action"] == "token":
            yield record.get("client")


@pytest.mark.parametrize(
    ("trusted", "client"), [("", "127.0.0.1"), ('"127.0.0.0/8"', "198.51.100.1"), ('"10.0.0.1"', "127.0.0.1")]
)
async def test_audit_has_the_address_that_trusted_proxies_vouch_for(
    house: House, trusted: str, client: str
) -> None:
    """Of what was handed out and of what was denied; nobody else's word is taken."""
    await reconfigure(house, "[server]", f"[server]\ntrusted_proxies = [{trusted}]")
    await house.connect()
    other = await house.caller("other-*", name="other")

    for key in (house.key, other):
        await house.get("/token/acme", key=key, **{"X-Forwarded-For": "1.2.3.4, 198.51.100.1"})

    assert [client, client] == list(audited(house))


@pytest.mark.parametrize(("forwarded", "status"), [("198.51.100.1", 200), ("198.51.100.2", 401)])
async def test_metrics_are_for_the_client_not_for_its_proxy(
    house: House, forwarded: str, status: int
) -> None:
    """`metrics_from` means who asks; otherwise a trusted proxy would open them to everybody behind it."""
    await reconfigure(
        house,
        "[server]",
        '[server]\ntrusted_proxies = ["127.0.0.1"]\nmetrics_from = ["198.51.100.1"]',
    )

    answer = await house.get("/metrics", key="x", **{"X-Forwarded-For": forwarded})

    assert status == answer.status


async def test_scheme_and_host_come_from_public_url_alone(house: House) -> None:
    """What a proxy, or somebody who poses as one, says about them changes no address and no cookie."""
    await reconfigure(house, "[server]", '[server]\ntrusted_proxies = ["127.0.0.1"]')
    lies = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "198.51.100.1",
        "Forwarded": "for=198.51.100.1;host=evil.example;proto=https",
    }

    made = await house.ask("POST", "/installs", headers=lies, json={"provider": "kit", "account": "acme"})
    async with house.session.get(made.json["install_url"], headers=lies, allow_redirects=False) as answer:
        moved = answer.headers["Location"]
    async with house.session.get(moved, headers=lies, allow_redirects=False) as answer:
        location, cookie = answer.headers["Location"], answer.headers["Set-Cookie"]

    assert made.json["install_url"].startswith(house.public + "/install/kit?")
    assert moved.startswith(house.public + "/install/kit?")
    assert "evil.example" not in location
    assert cookie.startswith("broker_browser=")


async def test_log_line_has_the_client(tmp_path: Path) -> None:
    """Of the real process: the address that the trusted proxy vouches for."""
    async with new_process(tmp_path / "run", extra='[log]\nformat = "json"') as process:
        text = process.config.read_text()
        process.config.write_text(text.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.1"]'))
        await process.start()
        headers = {"X-Forwarded-For": "198.51.100.1"}
        async with aiohttp.ClientSession() as session:
            await (await session.get(process.internal + "/healthz", headers=headers)).read()
            await (await session.get(process.internal + "/healthz")).read()
        await process.stop()

        assert ["198.51.100.1", "127.0.0.1"] == [
            line["client"] for line in process.events("request.answered")
        ]
