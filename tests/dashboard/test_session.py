"""Who gets in: one link, one use, one minute; then twelve hours in that browser."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from broker.dashboard.session import Sessions
from broker.encryption.keyring import Keyring
from broker.model import Secret
from tests.dashboard.conftest import Visitor
from tests.house import OPERATOR, House

PAGES = [
    "/",
    "/dashboard/accounts",
    "/dashboard/accounts/acme",
    "/dashboard/providers",
    "/dashboard/callers",
    "/dashboard/keys",
]
PAGES += ["/dashboard/activity", "/dashboard/live"]


@pytest.mark.parametrize("path", PAGES)
async def test_nobody_sees_anything_without_a_link(visitor: Visitor, path: str) -> None:
    """Every page says how to get in, and nothing else."""
    answer = await visitor.get(path)

    assert 403 == answer.status
    assert b"broker dashboard" in answer.body
    assert b"acme" not in answer.body


async def test_service_key_is_no_way_in(visitor: Visitor) -> None:
    """Services have their API."""
    answer = await visitor.house.get("/dashboard/accounts")

    assert 403 == answer.status


async def test_link_opens_once(visitor: Visitor) -> None:
    """The second use is told that it was used, and changes nothing for the first."""
    link = await visitor.link()

    first = await visitor.get(link)
    second = await visitor.get(link)

    assert 303 == first.status
    assert re.fullmatch("/~[0-9a-f]{32}/", first.headers["Location"])
    assert 403 == second.status
    assert 200 == (await visitor.get(first.headers["Location"])).status


async def test_link_opens_for_a_minute(visitor: Visitor) -> None:
    """Then it is as if it had never been."""
    link = await visitor.link()
    visitor.house.clock.advance(61)

    answer = await visitor.get(link)

    assert 403 == answer.status
    assert "Set-Cookie" not in answer.headers


async def test_session_ends_after_twelve_hours(operator: Visitor) -> None:
    """By our clock, whatever the browser keeps."""
    operator.house.clock.advance(12 * 3600 - 1)
    before = await operator.get("/")
    operator.house.clock.advance(2)

    assert (200, 403) == (before.status, (await operator.get("/")).status)


async def test_session_survives_a_restart(operator: Visitor) -> None:
    """It lies in the store, so any replica knows it."""
    await operator.house.restart()

    assert 200 == (await operator.get("/")).status


async def test_cookie_is_for_this_site_and_no_script(visitor: Visitor) -> None:
    """HttpOnly and SameSite=Strict; named after the port, for a path that no other server can know."""
    answer = await visitor.get(await visitor.link())

    cookie, base = answer.headers["Set-Cookie"], answer.headers["Location"].removesuffix("/")
    assert cookie.startswith(f"broker_dashboard_{visitor.house.internal_port}=")
    assert {"HttpOnly", "SameSite=Strict", f"Path={base}"} <= set(cookie.split("; "))


@pytest.mark.parametrize("cut", [slice(0, -2), slice(2, None), slice(0, 0)])
async def test_changed_cookie_is_nobody(operator: Visitor, cut: slice) -> None:
    """One letter too few, or none at all."""
    [cookie] = list(operator.session.cookie_jar)
    operator.session.cookie_jar.clear()

    assert [200, 403] == [
        await asked(operator, f"{cookie.key}={it}") for it in (cookie.value, cookie.value[cut])
    ]


async def test_signing_out_forgets(operator: Visitor) -> None:
    """The browser is nobody's again."""
    answer = await operator.do("/dashboard/sign-out")

    assert b"signed out" in answer.body
    assert 403 == (await operator.get("/")).status


async def asked(visitor: Visitor, cookie: str, path: str = "/") -> int:
    """The status of a page for whoever has this cookie, wherever it is from."""
    url, headers = visitor.house.internal + path, {"Cookie": cookie}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status


def cookie_of(visitor: Visitor) -> str:
    [cookie] = list(visitor.session.cookie_jar)
    return f"{cookie.key}={cookie.value}"


@pytest.fixture(name="colleague")
async def _colleague(house: House) -> AsyncIterator[Visitor]:
    """Another browser of the same operator."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        visitor = Visitor(house, session)
        await visitor.sign_in()
        yield visitor


async def test_other_ports_of_the_host_are_not_sent_the_cookie(operator: Visitor) -> None:
    """Cookies know no ports (RFC 6265, 8.5), so whoever listens on another one would have the session."""
    jar, base = operator.session.cookie_jar, operator.base
    paths = ("/", "/dashboard/accounts", f"/~{'0' * 32}/", f"{base}x/", "/~/")

    sent = [path for path in paths if jar.filter_cookies(URL(f"http://127.0.0.1:9{path}"))]

    assert [] == sent
    assert jar.filter_cookies(URL(f"{operator.house.internal}{base}/dashboard/accounts"))


async def test_every_link_of_a_page_stays_below_the_path_of_the_session(operator: Visitor) -> None:
    """Links, forms and redirects; but for the files, which everybody may have."""
    link, seen, to_see = re.compile(r'(?:href|action|src)="([^"#]+)'), set[str](), {f"{operator.base}/"}
    while to_see:
        path = to_see.pop()
        seen.add(path)
        async with operator.session.get(operator.house.internal + path) as response:
            assert 200 == response.status, path
            found = link.findall(await response.text()) if response.content_type == "text/html" else []
        assert [] == [one for one in found if not one.startswith((operator.base + "/", "/static/"))], path
        pages = {
            one.replace("&amp;", "&") for one in found if "/accounts/" not in one or one.endswith("/acme")
        }
        to_see |= {one for one in pages if not re.search("sign-out|resume|static", one)} - seen
    done = await operator.session.post(
        f"{operator.house.internal}{operator.base}/dashboard/providers/kit/resume",
        data={"form": await operator.form_token()},
        allow_redirects=False,
    )

    assert len(seen) > 7
    assert f"{operator.base}/dashboard/providers" == done.headers["Location"]


async def test_copy_of_the_cookie_opens_nothing_after_signing_out(
    operator: Visitor, colleague: Visitor
) -> None:
    """In that browser alone."""
    copy = cookie_of(operator)
    before = [await asked(operator, copy, path) for path in PAGES[:-1]]

    await operator.post("/dashboard/sign-out")

    assert {200} == {*before}
    assert {403} == {await asked(operator, copy, path) for path in PAGES}
    assert 200 == (await colleague.get("/")).status


async def test_operator_signs_out_everywhere(operator: Visitor, colleague: Visitor) -> None:
    """Every browser in which that operator is, and nobody else's."""
    sessions = operator.house.broker.sessions
    other = web.Response()
    await sessions.sign_in(await sessions.new_link(replace(OPERATOR, name="uid:7")), other)
    form = {"form": await operator.form_token(), "everywhere": "1"}

    answer = await operator.session.post(
        f"{operator.house.internal}{operator.base}/dashboard/sign-out", data=form
    )

    assert "You are signed out." in await answer.text()
    assert [403, 403] == [(await one.get("/")).status for one in (operator, colleague)]
    assert ["uid:7"] == [one.actor.name for one in await sessions.sessions()]


async def test_sessions_are_listed_and_ended_from_outside(operator: Visitor, colleague: Visitor) -> None:
    """The newest first, by another process too; one or all of them."""
    sessions = operator.house.broker.sessions
    listed = await sessions.sessions()

    one = await sessions.end(listed[0].id)
    after_one = sorted([(await visitor.get("/")).status for visitor in (operator, colleague)])
    rest = await sessions.end()
    after_all = [(await visitor.get("/")).status for visitor in (operator, colleague)]

    assert [OPERATOR.name] * 2 == [session.actor.name for session in listed]
    assert (1, [200, 403], 1, [403, 403]) == (one, after_one, rest, after_all)
    assert [] == await sessions.sessions()


async def test_session_that_another_replica_ended_is_over(operator: Visitor) -> None:
    """What this process remembers does not count while the store answers."""
    base = operator.house.broker.context
    elsewhere = Sessions(base, operator.house.internal)
    before = (await operator.get("/")).status
    await elsewhere.end()

    assert (200, 403) == (before, (await operator.get("/")).status)


async def test_nothing_in_the_store_opens_the_dashboard(operator: Visitor) -> None:
    """What lies there is a hash, and neither that nor anything made with the keys is a cookie."""
    base, name = operator.house.broker.context, cookie_of(operator).partition("=")[0]
    [stored] = await base.stores.installs.logins("dashboard session")
    ring: Keyring = base.keyring
    made = [
        stored.challenge_hash,
        stored.payload,
        ring.derive("dashboard session", b"").hex(),
        ring.derive("dashboard session", stored.challenge_hash.encode()).hex(),
        ring.fingerprint("dashboard session", stored.challenge_hash),
    ]

    assert cookie_of(operator).partition("=")[2] not in str(stored)
    assert {403} == {await asked(operator, f"{name}={value}") for value in made}


@pytest.mark.parametrize(
    ("url", "name", "path"),
    [
        ("https://broker.example", "__Host-broker_dashboard_443", "/"),
        ("https://broker.example:8443", "__Host-broker_dashboard_8443", "/"),
        ("http://127.0.0.1", "broker_dashboard_80", "/~"),
        ("http://[::1]:9000", "broker_dashboard_9000", "/~"),
    ],
)
async def test_cookie_is_named_after_the_address(house: House, url: str, name: str, path: str) -> None:
    """`__Host-` where there is TLS; brokers on other ports have cookies of their own."""
    base, response = house.broker.context, web.Response()
    sessions = Sessions(base, url)

    below = await sessions.sign_in(await sessions.new_link(OPERATOR), response)
    nobody = await sessions.sign_in(Secret("unknown"), web.Response())

    [cookie] = response.cookies.values()
    assert (name, url.startswith("https")) == (cookie.key, bool(cookie["secure"]))
    assert cookie["path"].startswith(path)
    assert (below or "/", None) == (cookie["path"], nobody)
