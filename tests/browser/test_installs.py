"""A person connects an account: clicks, refusals, another browser, the keyboard alone."""

import pytest
from playwright.async_api import Page

from broker.model import Status
from tests.browser.conftest import NewPage
from tests.browser.steps import allow, heading, kit_return, link, press, sign_in
from tests.house import House

pytestmark = pytest.mark.browser


async def tab_to(page: Page, label: str) -> None:
    """Press Tab until the element with that text has the focus; Enter is the caller's."""
    for _ in range(12):
        focused = await page.evaluate("document.activeElement.innerText")
        if (focused or "").strip() == label:
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not reach {label!r}")


async def enter(page: Page) -> None:
    async with page.expect_navigation():
        await page.keyboard.press("Enter")


async def test_announced_link_connects(house: House, new_page: NewPage) -> None:
    """The short way: link, Allow, Connected."""
    page = (await new_page()).page

    await page.goto(await link(house))
    assert "sandbox-kit would like to use your Kit account" == await heading(page)
    await allow(page)

    assert "Connected" == await heading(page)
    assert Status.ACTIVE is (await house.account()).status


async def test_address_of_the_result_holds_no_secret_that_works_twice(
    house: House, new_page: NewPage
) -> None:
    """Reloading the last page shows it again and sends nothing to the provider."""
    page = (await new_page()).page
    await page.goto(await link(house))
    await allow(page)
    before = len((await house.judge())["requests"])

    await page.reload()

    assert "Connected" == await heading(page)
    assert before == len((await house.judge())["requests"])


async def test_install_that_begins_at_kit_ends_at_kit(house: House, new_page: NewPage) -> None:
    """Sign-in at the company's app, consent at Kit, and back to exactly the address that Kit gave."""
    watched = await new_page()
    page = watched.page
    await page.goto(f"{house.public}/install/kit?redirect={kit_return(house)}")
    assert f"{house.sandbox.base_url}/company/login" == page.url.partition("?")[0]

    await page.locator("input[name=login_as]").fill("user-42")
    await press(page, "Sign in")
    async with page.expect_navigation(url=kit_return(house)):
        await page.get_by_role("button", name="Allow").click()

    assert [kit_return(house)] == watched.at_kit
    assert "user-42" == (await house.account("kit-29")).subject


async def test_deny_is_told_kindly(house: House, new_page: NewPage) -> None:
    """You declined access; nothing is connected."""
    page = (await new_page()).page

    await page.goto(await link(house))
    await press(page, "Deny")

    assert "You declined access" == await heading(page)
    assert [] == (await house.get("/accounts")).json["accounts"]


async def test_deny_on_the_way_from_kit_offers_the_way_back(house: House, new_page: NewPage) -> None:
    """The button leads to exactly the address that Kit gave."""
    page = (await new_page()).page

    await sign_in(house, page)
    await press(page, "Deny")

    assert kit_return(house) == await page.get_by_role("link", name="Back to Kit").get_attribute("href")
    assert [] == (await house.get("/accounts")).json["accounts"]


async def test_sign_in_refused(house: House, new_page: NewPage) -> None:
    """Who does not sign in does not reach Kit."""
    page = (await new_page()).page

    await page.goto(f"{house.public}/install/kit?redirect={kit_return(house)}")
    await press(page, "Refuse")

    assert "You are not signed in" == await heading(page)


async def test_used_link(house: House, new_page: NewPage) -> None:
    """A link connects once."""
    page, used = (await new_page()).page, await link(house)
    await page.goto(used)
    await allow(page)

    await page.goto(used)

    assert "This link was used already" == await heading(page)


async def test_expired_link(house: House, new_page: NewPage) -> None:
    """A link is good for an hour."""
    page, expired = (await new_page()).page, await link(house)

    house.clock.advance(3601)
    await page.goto(expired)

    assert "This link has expired" == await heading(page)


async def test_cookies_off(house: House, new_page: NewPage) -> None:
    """A browser that has lost the cookie is told so, and nothing is sent to the provider."""
    page = (await new_page()).page
    await page.goto(await link(house))
    await page.context.clear_cookies()

    await allow(page)

    assert "Cookies are off" == await heading(page)
    assert [] == (await house.judge())["requests"]


async def test_another_browser(house: House, new_page: NewPage) -> None:
    """Consent given in a browser that opened another link does not connect this one."""
    mine, theirs = (await new_page()).page, (await new_page()).page
    await mine.goto(await link(house))
    await theirs.goto(await link(house, "other"))

    await theirs.goto(mine.url)
    await allow(theirs)

    assert "This began in another browser" == await heading(theirs)
    assert [] == (await house.judge())["requests"]


async def test_other_account_than_before(house: House, new_page: NewPage) -> None:
    """The link is for one Kit account; signing in with another changes nothing."""
    before = await house.connect()
    page = (await new_page()).page

    await page.goto(await link(house))
    await page.locator("input[name=account]").fill("31")
    await allow(page)

    assert "This is another account than before" == await heading(page)
    assert before == await house.account()


async def test_kustomer(house: House, new_page: NewPage) -> None:
    """The person says which organization."""
    page = (await new_page()).page

    await page.goto(await link(house, "desk", "kustomer"))
    await page.locator("input[name=org]").fill("globex")
    await allow(page)

    assert "Connected" == await heading(page)
    assert "globex" in [grant["org"] for grant in (await house.judge())["grants"]]


async def test_identity_pending(house: House, new_page: NewPage) -> None:
    """The provider does not say who this is just now: almost done, and the token is there."""
    house.sandbox.faults.set("kit", identity_status=503)
    page = (await new_page()).page

    await page.goto(await link(house))
    await allow(page)

    assert "Almost done" == await heading(page)
    assert 200 == (await house.get("/token/acme")).status


async def test_keyboard_alone_connects(house: House, new_page: NewPage) -> None:
    """Tab and Enter are enough, from sign-in to Kit."""
    watched = await new_page()
    page = watched.page
    await page.goto(f"{house.public}/install/kit?redirect={kit_return(house)}")

    await tab_to(page, "Sign in")
    await enter(page)
    await tab_to(page, "Allow")
    async with page.expect_navigation(url=kit_return(house)):
        await page.keyboard.press("Enter")

    assert [kit_return(house)] == watched.at_kit


async def test_keyboard_alone_denies_and_goes_back(house: House, new_page: NewPage) -> None:
    """No is as easy as yes, and the way back to Kit can be reached."""
    watched = await new_page()
    page = watched.page
    await sign_in(house, page)

    await tab_to(page, "Deny")
    await enter(page)
    await tab_to(page, "Back to Kit")
    async with page.expect_navigation(url=kit_return(house)):
        await page.keyboard.press("Enter")

    assert [kit_return(house)] == watched.at_kit
