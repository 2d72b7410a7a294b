"""A creator installs the app at Kit: the plugin's question first, then Kit's own, then back at Kit."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.browser.conftest import NewPage
from tests.browser.steps import heading, kit_return, press
from tests.house import House, open_house

pytestmark = pytest.mark.browser
SIZES = {"desk": (1200, 800), "phone": (360, 740)}
WITHOUT_LOGIN = """
[plugin.clients.kit]
name = "Kit"
client_id = "kit-client"
client_secret = "kit-secret"
redirect_uris = ["{back}"]
scopes = ["read:products", "write:products"]
"""
QUESTION = "Allow Kit to act for you here?"


async def install_at_kit(house: House, page: Page) -> None:
    """Install was clicked, and the company's app signs the person in."""
    await page.goto(f"{house.sandbox.base_url}/kit/apps/717/install")
    await page.get_by_text("Install", exact=True).click()
    await page.wait_for_url("**/company/login**")
    await page.locator("input[name=login_as]").fill("user-42")
    await press(page, "Sign in")


async def ask_directly(house: House, page: Page) -> None:
    """A client whose people type connect codes asks."""
    back = f"{house.sandbox.base_url}/kit/apps"
    await page.goto(
        f"{house.public}/plugin/authorize?client_id=kit-client&response_type=code&redirect_uri={back}"
    )


async def type_code(house: House, page: Page, code: str | None = None) -> None:
    if code is None:
        answer = await house.post("/plugin/connect-codes", {"subject": "user-9"})
        code = str(answer.json["connect_code"])
    await page.get_by_label("Connect code").fill(code)


async def without_login(house: House) -> None:
    """From now on there is no app that signs people in."""
    house.extra = WITHOUT_LOGIN.format(back=f"{house.sandbox.base_url}/kit/apps")
    house.write_config()
    text = (house.folder / "config.toml").read_text()
    (house.folder / "config.toml").write_text(text.replace("enabled = true", "enabled = false"))
    await house.restart()
    house.key = await house.caller(permissions=("plugin", "install", "accounts"), name="app")


async def test_whole_install(house: House, new_page: NewPage) -> None:
    """Kit's store, one sign-in, our question, Kit's question, and back at exactly Kit's address."""
    watched = await new_page()
    page = watched.page
    await install_at_kit(house, page)

    assert QUESTION == await heading(page)
    assert "user-42" in await page.inner_text("main")
    await press(page, "Allow")
    assert "sandbox-kit would like to use your Kit account" == await heading(page)
    async with page.expect_navigation(url=kit_return(house)):
        await page.get_by_role("button", name="Allow").click()

    [grant] = await house.broker.context.stores.plugin.grants(
        subject="user-42", now=house.clock.now(), after="", limit=9
    )
    assert [kit_return(house)] == watched.at_kit
    assert ("user-42", "kit-29") == ((await house.account("kit-29")).subject, grant.account)


async def test_no_to_the_plugin_ends_at_kit(house: House, new_page: NewPage) -> None:
    """Kit hears it, and nothing is connected."""
    page = (await new_page()).page
    await install_at_kit(house, page)

    await press(page, "Deny")

    assert "access_denied" in await page.inner_text("main")
    assert page.url.startswith(f"{house.sandbox.base_url}/kit/apps/install")


async def test_question_survives_a_reload_and_the_way_back(house: House, new_page: NewPage) -> None:
    """Nothing is spent by looking; after the answer it is over."""
    page = (await new_page()).page
    await install_at_kit(house, page)

    await page.reload()
    assert QUESTION == await heading(page)
    asked = page.url
    await press(page, "Allow")
    await page.goto(asked)

    assert "This question is over" == await heading(page)


async def test_connect_code_by_keyboard(house: House, new_page: NewPage) -> None:
    """Typed wrongly, told so, typed rightly, Enter: the client has its code."""
    await without_login(house)
    page = (await new_page()).page
    await ask_directly(house, page)

    await type_code(house, page, "0000-0000-0000")
    async with page.expect_navigation():
        await page.keyboard.press("Enter")
    told = await page.get_by_role("alert").inner_text()
    await type_code(house, page)
    async with page.expect_navigation():
        await page.keyboard.press("Enter")

    assert told.startswith("This connect code is not valid")
    assert page.url.startswith(f"{house.sandbox.base_url}/kit/apps?code=")


async def test_empty_connect_code_is_held_back_but_no_is_not(house: House, new_page: NewPage) -> None:
    """The browser itself asks for it before Allow, and Deny needs none."""
    await without_login(house)
    page = (await new_page()).page
    await ask_directly(house, page)

    await page.get_by_role("button", name="Allow").click()
    assert QUESTION == await heading(page)
    await press(page, "Deny")

    assert "error=access_denied" in page.url


async def test_question_cannot_be_framed(house: House, new_page: NewPage) -> None:
    """A page of another site that frames it shows nothing of it."""
    page = (await new_page()).page
    await install_at_kit(house, page)
    asked = page.url
    other = await page.context.new_page()

    async with other.expect_event("framenavigated", lambda frame: frame.url.startswith("chrome-error:")):
        await other.set_content(f'<iframe src="{asked}"></iframe>')

    assert [] == [one for one in other.frames if await one.query_selector("#plugin-consent")]


async def question(house: House, page: Page) -> None:
    await ask_directly(house, page)


async def wrong_code(house: House, page: Page) -> None:
    await ask_directly(house, page)
    await type_code(house, page, "0000-0000-0000")
    await press(page, "Allow")


async def over(house: House, page: Page) -> None:
    await page.goto(f"{house.public}/plugin/authorize?consent={'x' * 43}")


async def unknown_client(house: House, page: Page) -> None:
    await page.goto(f"{house.public}/plugin/authorize?client_id=nobody")


async def unknown_address(house: House, page: Page) -> None:
    await page.goto(f"{house.public}/plugin/authorize?client_id=kit-client&redirect_uri=https://evil.example")


PAGES: tuple[Callable[[House, Page], Awaitable[None]], ...] = (
    question,
    wrong_code,
    over,
    unknown_client,
    unknown_address,
)


@pytest.mark.parametrize(("size", "dark"), [("desk", False), ("phone", True)])
async def test_pages_fit(new_page: NewPage, tmp_path: Path, size: str, dark: bool) -> None:
    """None scrolls sideways, lacks its style or is refused a resource; pictures are taken for who wants to look."""
    width, height = SIZES[size]
    watched = await new_page(width=width, height=height, dark=dark)
    page, odd = watched.page, []

    async with open_house(tmp_path / "another house") as house:
        await install_at_kit(house, page)
        await page.screenshot(path=tmp_path / "signed_in.png")
        await without_login(house)
        for visit in PAGES:
            await visit(house, page)
            await page.screenshot(path=tmp_path / f"{visit.__name__}.png")
            if await page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
                odd.append(f"{visit.__name__} scrolls sideways")
            if await page.evaluate("getComputedStyle(document.body).margin") != "0px":
                odd.append(f"{visit.__name__} has no style")

    assert [] == odd
