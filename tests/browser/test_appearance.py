"""How the pages look: every one of them, on a desk and on a phone, by day and by night."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Page, ViewportSize

from tests.browser.conftest import NewPage
from tests.browser.steps import allow, kit_return, link, press, sign_in
from tests.house import House

pytestmark = pytest.mark.browser
SIZES: dict[str, ViewportSize] = {
    "desk": {"width": 1200, "height": 800},
    "phone": {"width": 360, "height": 740},
}
LOOKS = (("desk", False), ("phone", True))
"""Both sizes, by day and by night; layout and colours have nothing to do with each other."""
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
    await page.goto(f"{house.public}/install/kit?redirect={kit_return(house)}")


async def not_signed_in(house: House, page: Page) -> None:
    await page.goto(f"{house.public}/install/kit?redirect={kit_return(house)}")
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


async def test_pages_fit(house: House, new_page: NewPage, tmp_path: Path) -> None:
    """None scrolls sideways, lacks its style or is refused a resource; pictures are taken for who wants to look."""
    page, odd = (await new_page()).page, []

    for visit in PAGES:
        await visit(house, page)
        for size, dark in LOOKS:
            await page.set_viewport_size(SIZES[size])
            await page.emulate_media(color_scheme="dark" if dark else "light")
            name = f"{visit.__name__}, {size}, {'dark' if dark else 'light'}"
            await page.screenshot(path=tmp_path / f"{name}.png")
            if await page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
                odd.append(f"{name} scrolls sideways")
            if await page.evaluate("getComputedStyle(document.body).margin") != "0px":
                odd.append(f"{name} has no style")

    assert [] == odd
