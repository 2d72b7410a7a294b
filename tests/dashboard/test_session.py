"""Who gets in: one link, one use, one minute; then twelve hours in that browser."""

import pytest

from tests.dashboard.conftest import Visitor

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

    assert (303, "/") == (first.status, first.headers["Location"])
    assert 403 == second.status
    assert 200 == (await visitor.get("/")).status


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
    """It is signed by a key of the store, so any replica knows it."""
    await operator.house.restart()

    assert 200 == (await operator.get("/")).status


async def test_cookie_is_for_this_site_and_no_script(visitor: Visitor) -> None:
    """HttpOnly and SameSite=Strict."""
    answer = await visitor.get(await visitor.link())

    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("broker_dashboard=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))


@pytest.mark.parametrize("cut", [slice(0, -2), slice(2, None), slice(0, 0)])
async def test_changed_cookie_is_nobody(operator: Visitor, cut: slice) -> None:
    """A signature that does not fit."""
    [cookie] = [cookie.value for cookie in operator.session.cookie_jar]
    operator.session.cookie_jar.clear()
    operator.session.cookie_jar.update_cookies({"broker_dashboard": cookie[cut]})

    assert 403 == (await operator.get("/")).status


async def test_signing_out_forgets(operator: Visitor) -> None:
    """The browser is nobody's again."""
    answer = await operator.do("/dashboard/sign-out")

    assert b"signed out" in answer.body
    assert 403 == (await operator.get("/")).status
