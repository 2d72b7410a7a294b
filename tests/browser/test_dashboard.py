"""The dashboard in a real browser: wide and narrow, by day and by night, by keyboard, and live."""

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import NewPage
from tests.browser.test_appearance import SIZES
from tests.dashboard.conftest import dashboard_link
from tests.house import House
from tests.pictures.scene import DEAD, FROZEN, set_scene

pytestmark = pytest.mark.browser
PAGES = ("/", "/accounts", f"/accounts/{DEAD}", "/providers", "/callers", "/keys", "/activity")


async def enter(house: House, page: Page) -> str:
    """The address below which the pages of this browser lie."""
    await page.goto(await dashboard_link(house))
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    return page.url.removesuffix("/")


async def test_every_page_fits(house: House, new_page: NewPage) -> None:
    """None scrolls sideways, lacks its style or is refused a resource, on a desk and on a phone, in light and dark."""
    await set_scene(house)
    odd = []

    for dark, size in enumerate(SIZES.values()):
        page = (await new_page(**size, dark=bool(dark))).page
        base = await enter(house, page)
        for path in PAGES:
            await page.goto(f"{base}{'' if path == '/' else '/dashboard'}{path}")
            if await page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
                odd.append(f"{path} scrolls sideways at {size['width']}")
            if await page.get_by_role("heading", level=1).count() != 1:
                odd.append(f"{path} has no heading of its own")

    assert [] == odd


async def test_what_is_broken_is_first_and_mended_from_there(house: House, new_page: NewPage) -> None:
    """With nothing but the keyboard: to the frozen account, unfreeze it, confirmed."""
    await set_scene(house)
    page = (await new_page()).page
    await enter(house, page)
    names = await page.locator("main li a").all_inner_texts()

    await page.get_by_role("link", name=FROZEN).first.focus()
    await page.keyboard.press("Enter")
    await page.locator("summary", has_text="Unfreeze").focus()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("main h1")).to_contain_text("active")

    assert [DEAD, FROZEN] == names[:2]
    assert (await house.account(FROZEN)).frozen is None


async def test_page_changes_while_one_looks(house: House, new_page: NewPage) -> None:
    """A connection that is made meanwhile appears without a reload."""
    page = (await new_page()).page
    await page.goto(f"{await enter(house, page)}/dashboard/accounts")
    await expect(page.locator("#live")).to_have_text("Live")

    await house.connect("kit", "newcomer")
    house.clock.advance(5)

    await expect(page.get_by_role("link", name="newcomer")).to_be_visible()
