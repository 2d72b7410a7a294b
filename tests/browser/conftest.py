"""A real Chromium, and pages that complain."""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Request, async_playwright

KIT = "https://app.kit.com/"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing leaves this machine: Kit is asked for, which is noted, and not found.
    "--host-resolver-rules=MAP app.kit.com ~NOTFOUND",
]


@dataclass(slots=True)
class Watched:
    """A page, and everything about it that should not be."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Console errors, blocked resources, crashes."""
    strangers: list[str] = field(default_factory=list)
    """Requests to other hosts than this machine's and Kit's."""
    at_kit: list[str] = field(default_factory=list)

    def noted(self, request: Request) -> None:
        if request.url.startswith(KIT):
            self.at_kit.append(request.url)
        elif not request.url.startswith(("http://127.0.0.1:", "data:")):
            self.strangers.append(request.url)


NewPage = Callable[..., Awaitable[Watched]]


@pytest.fixture(name="chromium")
async def _chromium() -> AsyncIterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        reason = "Chromium is missing; type: sudo apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture(name="new_page")
async def _new_page(chromium: Browser) -> AsyncIterator[NewPage]:
    contexts: list[BrowserContext] = []

    async def new_page(*, width: int = 1200, height: int = 800, dark: bool = False) -> Watched:
        context = await chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        watched = Watched(await context.new_page())
        watched.page.on("console", lambda message: _heard(watched, message.type, message.text))
        watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        watched.page.on("request", lambda request: watched.noted(request))  # noqa: PLW0108 - playwright writes to the owner of a bound method
        return watched

    yield new_page
    for context in contexts:
        await context.close()


def _heard(watched: Watched, kind: str, text: str) -> None:
    # Chromium reports the status of the page itself as an error; 4xx pages are meant.
    if kind == "error" and "Failed to load resource" not in text:
        watched.complaints.append(text)
