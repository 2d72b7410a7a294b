"""How the pages look: every one of them, on a desk and on a phone, by day and by night."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.browser.conftest import NewPage
from tests.browser.steps import KIT_RETURN, allow, link, press, sign_in
from tests.house import House

pytestmark = pytest.mark.browser
SIZES = {"desk": (1200, 800), "phone": (360, 740)}
LONG = "a-rather-long-account-name." + 9 * "0123456789"


async def consent(house: House, page: Page) -> None:
    await page.goto(await link(house))


async def connected(house: House, page: Page) -> None:
    await page.goto(await link(house))
    await allow(page)


async def connected_under_a_long_name(house: House, page: Page) -> None:
    await page.goto(await link(house, LONG))
    await page.locator("input[name=account]").fill("77")
    await allow(page)


async def another_account(house: House, page: Page) -> None:
    await page.goto(await link(house))
    await page.locator("input[name=account]").fill("31")
    await allow(page)


async def another_name(house: House, page: Page) -> None:
    await page.goto(await link(house, "newcomer"))
    await allow(page)


async def denied(house: House, page: Page) -> None:
    await page.goto(await link(house))
    await press(page, "Deny")


async def denied_on_the_way_from_kit(house: House, page: Page) -> None:
    await sign_in(house, page)
    await press(page, "Deny")


async def company_sign_in(house: House, page: Page) -> None:
    await page.goto(f"{house.public}/install/kit?redirect={KIT_RETURN}")


async def not_signed_in(house: House, page: Page) -> None:
    await page.goto(f"{house.public}/install/kit?redirect={KIT_RETURN}")
    await press(page, "Refuse")


async def kustomer_consent(house: House, page: Page) -> None:
    await page.goto(await link(house, "desk", "kustomer"))


async def kustomer_connected(house: House, page: Page) -> None:
    await page.goto(await link(house, "desk", "kustomer"))
    await allow(page)


async def identity_pending(house: House, page: Page) -> None:
    house.sandbox.faults.set("kit", identity_status=503)
    await page.goto(await link(house, "pending"))
    await allow(page)
    house.sandbox.faults.reset()


async def provider_fails(house: House, page: Page) -> None:
    house.sandbox.faults.set("kit", status=500, times=1)
    await page.goto(await link(house))
    await allow(page)


async def client_is_refused(house: House, page: Page) -> None:
    house.sandbox.faults.set("kit", status=401, body='{"error":"invalid_client"}', times=1)
    await page.goto(await link(house))
    await allow(page)


async def used_link(house: House, page: Page) -> None:
    install_url = await link(house)
    await page.goto(install_url)
    await allow(page)
    await page.goto(install_url)


async def expired_link(house: House, page: Page) -> None:
    install_url = await link(house)
    house.clock.advance(3700)
    await page.goto(install_url)


async def unknown_link(house: House, page: Page) -> None:
    await page.goto(f"{house.public}/install/kit?ticket=unknown")


async def cookies_off(house: House, page: Page) -> None:
    await page.goto(await link(house))
    await page.context.clear_cookies()
    await allow(page)


async def incomplete_address(house: House, page: Page) -> None:
    await page.goto(f"{house.public}/callback/kit")


async def nowhere(house: House, page: Page) -> None:
    await page.goto(f"{house.public}/nowhere")


async def the_sandbox(house: House, page: Page) -> None:
    await page.goto(house.sandbox.base_url)


async def kit_app_store(house: House, page: Page) -> None:
    await page.goto(f"{house.sandbox.base_url}/kit/apps/717/install")


async def kit_refuses(house: House, page: Page) -> None:
    await page.goto(f"{house.sandbox.base_url}/kit/oauth/authorize?client_id=nobody")


PAGES: tuple[Callable[[House, Page], Awaitable[None]], ...] = (
    consent,
    connected,
    connected_under_a_long_name,
    another_account,
    another_name,
    denied,
    denied_on_the_way_from_kit,
    company_sign_in,
    not_signed_in,
    kustomer_consent,
    kustomer_connected,
    identity_pending,
    provider_fails,
    client_is_refused,
    used_link,
    unknown_link,
    cookies_off,
    incomplete_address,
    nowhere,
    the_sandbox,
    kit_app_store,
    kit_refuses,
    expired_link,
)


@pytest.mark.parametrize(
    ("size", "dark"),
    [
        pytest.param("desk", False, id="desk by day"),
        pytest.param("phone", True, id="phone by night"),
        # Layout and colours have nothing to do with each other, so these two find little.
        pytest.param("desk", True, id="desk by night", marks=pytest.mark.proof),
        pytest.param("phone", False, id="phone by day", marks=pytest.mark.proof),
    ],
)
async def test_pages_fit(house: House, new_page: NewPage, tmp_path: Path, size: str, dark: bool) -> None:
    """None scrolls sideways, lacks its style or is refused a resource; pictures are taken for who wants to look."""
    width, height = SIZES[size]
    watched = await new_page(width=width, height=height, dark=dark)
    page, odd = watched.page, []

    for visit in PAGES:
        await visit(house, page)
        await page.screenshot(path=tmp_path / f"{visit.__name__}.png")
        if await page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            odd.append(f"{visit.__name__} scrolls sideways")
        if await page.evaluate("getComputedStyle(document.body).margin") != "0px":
            odd.append(f"{visit.__name__} has no style")

    assert [] == odd
