"""A person connects an account: clicks, refusals, keyboards, phones."""

from pathlib import Path

import pytest
from playwright.async_api import Page

from broker.model import Status
from tests.browser.conftest import NewPage
from tests.house import House

pytestmark = pytest.mark.browser
KIT_RETURN = "https://app.kit.com/apps/717?success=true"
PHONE = {"width": 360, "height": 740}


async def link(house: House, account: str = "acme", provider: str = "kit") -> str:
    answer = await house.post("/installs", {"provider": provider, "account": account})
    return str(answer.json["install_url"])


async def allow(page: Page) -> None:
    """Click Allow at the provider, and wait for what comes."""
    async with page.expect_navigation():
        await page.get_by_role("button", name="Allow").click()


async def deny(page: Page) -> None:
    async with page.expect_navigation():
        await page.get_by_role("button", name="Deny").click()


async def heading(page: Page) -> str:
    return (await page.get_by_role("heading", level=1).inner_text()).strip()


async def test_link_consent_connected(house: House, new_page: NewPage) -> None:
    """The short way: link, Allow, Connected; nothing blocked, nobody else asked."""
    watched = await new_page()

    await watched.page.goto(await link(house))
    await allow(watched.page)

    assert "Connected" == await heading(watched.page)
    assert Status.ACTIVE is (await house.account()).status
    assert ([], []) == (watched.complaints, watched.strangers)


async def test_install_that_begins_at_kit_ends_at_kit(house: House, new_page: NewPage) -> None:
    """Sign-in at the company's app, consent at Kit, and back to exactly the address that Kit gave."""
    watched = await new_page()
    page = watched.page

    await page.goto(f"{house.public}/install/kit?redirect={KIT_RETURN}")
    assert "/company/login" in page.url
    await page.get_by_role("button").first.click()
    await page.wait_for_url("**/kit/oauth/authorize**")
    async with page.expect_event("requestfailed"):
        await page.get_by_role("button", name="Allow").click()

    assert [KIT_RETURN] == watched.at_kit
    assert (await house.account("kit-29")).subject
    assert ([], []) == (watched.complaints, watched.strangers)


async def test_deny_is_told_kindly(house: House, new_page: NewPage) -> None:
    """You said no; nothing is connected."""
    watched = await new_page()

    await watched.page.goto(await link(house))
    await deny(watched.page)

    assert "You said no" == await heading(watched.page)
    assert [] == (await house.get("/accounts")).json["accounts"]


async def test_used_and_expired_links(house: House, new_page: NewPage) -> None:
    """Each says what it is and what to do."""
    watched = await new_page()
    used, expired = await link(house), await link(house, "other")
    await watched.page.goto(used)
    await allow(watched.page)

    await watched.page.goto(used)
    first = await heading(watched.page)
    house.clock.advance(3700)
    await watched.page.goto(expired)
    second = await heading(watched.page)

    assert ("This link was used already", "This link has expired") == (first, second)


@pytest.mark.parametrize("why", ["cookies", "browser"])
async def test_cookies_off_and_another_browser(house: House, new_page: NewPage, why: str) -> None:
    """Without the cookie, or with another browser's, nothing is sent to the provider."""
    watched = await new_page()
    page = watched.page
    await page.goto(await link(house))
    await page.context.clear_cookies()
    if why == "browser":
        cookie = {"name": "broker_browser", "value": "x" * 43, "url": house.public}
        await page.context.add_cookies([cookie])  # type: ignore[list-item]  # a TypedDict by its members

    await allow(page)

    assert {"cookies": "Cookies are off", "browser": "This began in another browser"}[why] == await heading(
        page
    )
    assert [] == (await house.judge())["requests"]


async def test_other_account_than_before(house: House, new_page: NewPage) -> None:
    """The link is for one Kit account; signing in with another changes nothing."""
    before = await house.connect()
    watched = await new_page()
    page = watched.page

    await page.goto(await link(house))
    await page.locator("input[name=account]").fill("31")
    await allow(page)

    assert "This is another account than before" == await heading(page)
    assert before == await house.account()


async def test_kustomer(house: House, new_page: NewPage) -> None:
    """The person says which organisation."""
    watched = await new_page()

    await watched.page.goto(await link(house, "desk", "kustomer"))
    await watched.page.locator("input[name=org]").fill("globex")
    await allow(watched.page)

    assert "Connected" == await heading(watched.page)
    assert ([], []) == (watched.complaints, watched.strangers)


async def test_identity_pending(house: House, new_page: NewPage) -> None:
    """The provider does not say who this is just now: almost done."""
    house.sandbox.faults.set("kit", identity_status=503)
    watched = await new_page()

    await watched.page.goto(await link(house))
    await allow(watched.page)

    assert "Almost done" == await heading(watched.page)


async def test_keyboard_alone(house: House, new_page: NewPage) -> None:
    """Tab and Enter are enough."""
    watched = await new_page()
    page = watched.page
    await page.goto(await link(house))

    for _ in range(12):
        await page.keyboard.press("Tab")
        if "Allow" in await page.evaluate(
            "document.activeElement.innerText || document.activeElement.value || ''"
        ):
            break
    async with page.expect_navigation():
        await page.keyboard.press("Enter")

    assert "Connected" == await heading(page)


@pytest.mark.parametrize("dark", [False, True])
async def test_pages_fit_a_phone(house: House, new_page: NewPage, tmp_path: Path, dark: bool) -> None:
    """Nothing scrolls sideways, light or dark; pictures are taken for whoever wants to look."""
    watched = await new_page(**PHONE, dark=dark)
    page = watched.page
    wide = []

    async def look(name: str) -> None:
        await page.screenshot(path=tmp_path / f"{name}.png")
        if await page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            wide.append(name)

    await page.goto(await link(house))
    await look("consent")
    await allow(page)
    await look("connected")
    await page.goto(f"{house.public}/install/kit?ticket=unknown")
    await look("unknown")
    await page.goto(f"{house.public}/nowhere")
    await look("nowhere")

    assert [] == wide
    assert ([], []) == (watched.complaints, watched.strangers)
