"""What a person does in an install, step by step."""

from playwright.async_api import Page

from tests.house import House


def kit_return(house: House) -> str:
    """The app's page at Kit, as the sandbox plays it: where an install that begins at Kit ends."""
    return f"{house.sandbox.base_url}/kit/apps/717?success=true"


async def link(house: House, account: str = "acme", provider: str = "kit") -> str:
    """An install link, as a service asks for it."""
    answer = await house.post("/installs", {"provider": provider, "account": account})
    return str(answer.json["install_url"])


async def press(page: Page, button: str) -> None:
    """Click, and wait for what comes."""
    async with page.expect_navigation():
        await page.get_by_role("button", name=button, exact=True).click()


async def allow(page: Page) -> None:
    await press(page, "Allow")


async def sign_in(house: House, page: Page) -> None:
    """Begin at Kit and sign in at the company's app; Kit's consent comes next."""
    await page.goto(f"{house.public}/install/kit?redirect={kit_return(house)}")
    await press(page, "Sign in")


async def heading(page: Page) -> str:
    return (await page.get_by_role("heading", level=1).inner_text()).strip()
