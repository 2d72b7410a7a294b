"""A real Chromium, and pages that complain."""

import ctypes
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Page, Request, Response, async_playwright

from tests.house import House, open_house
from tests.missing import missing, needs

KIT = "/kit/apps/717?success=true"
"""The end of an install that begins at Kit, as the sandbox plays it."""
WALK = "test_whole_install"
"""The one test that `make test` runs: a whole installation from Kit's store. The others are slow."""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing leaves this machine. Playwright's own routes do not see where a redirect leads.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@dataclass(slots=True)
class Watched:
    """A page, and everything about it that should not be."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Console errors, blocked or missing resources, crashes."""
    strangers: list[str] = field(default_factory=list)
    """Requests to other hosts than this machine's."""
    at_kit: list[str] = field(default_factory=list)
    _listeners: dict[str, Callable[[Any], None]] = field(init=False)

    def watch(self) -> None:
        for event, listener in self._listeners.items():
            self.page.on(event, listener)  # type: ignore[call-overload]  # one overload for each event

    async def leave(self) -> bool:
        """Whether the page is blank and its person a stranger; it is closed where it is still on its way elsewhere."""
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)
        with suppress(Error):
            await self.page.goto("about:blank")
            await self.page.context.clear_cookies()
            for other in self.page.context.pages:
                if other is not self.page:
                    await other.close()
            return True
        await self.page.context.close()
        return False

    def __post_init__(self) -> None:
        # Lambdas, because playwright writes to the owner of a bound method.
        self._listeners = {
            "request": lambda request: self._asked(request),  # noqa: PLW0108
            "response": lambda response: self._answered(response),  # noqa: PLW0108
            "requestfailed": lambda request: self._failed(request),  # noqa: PLW0108
            "console": lambda message: self._heard(message.type, message.text),
            "pageerror": lambda error: self.complaints.append(str(error)),
        }

    def _asked(self, request: Request) -> None:
        if request.url.endswith(KIT) and "redirect=" not in request.url:
            self.at_kit.append(request.url)
        if not request.url.startswith("http://127.0.0.1:"):
            self.strangers.append(request.url)

    def _answered(self, response: Response) -> None:
        if not response.ok and not response.request.is_navigation_request():
            self.complaints.append(f"{response.status} {response.url}")

    def _failed(self, request: Request) -> None:
        # Aborted: the icon of a page that was left before it had come.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"{request.failure} {request.url}")

    def _heard(self, kind: str, text: str) -> None:
        # Chromium calls the 4xx of a page an error, which is meant; those of resources are noted above.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(text)


NewPage = Callable[..., Awaitable[Watched]]


def pytest_runtest_setup() -> None:
    """Here and not in a fixture, so that pytest tells it in one line for all of them."""
    needs("chromium")
    try:
        ctypes.CDLL("libatomic.so.1")
    except OSError:
        missing("Playwright's driver needs libatomic; type: sudo apt-get install libatomic1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run them all on one event loop, because the one browser belongs to the loop that started it."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            if item.name != WALK:
                item.add_marker(pytest.mark.slow)


@pytest_asyncio.fixture(name="chromium", scope="session", loop_scope="session")
async def _chromium() -> AsyncIterator[Browser]:
    """One browser for each worker: it takes longer to start than most tests take with it."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(name="spare", scope="session", loop_scope="session")
async def _spare() -> list[Page]:
    """Pages that earlier tests have left, blank: a new one is a process, which costs more than a test's clicks."""
    return []


@pytest_asyncio.fixture(name="house", loop_scope="session")
async def _house(tmp_path: Path) -> AsyncIterator[House]:
    """As everywhere, but on the browser's event loop."""
    async with open_house(tmp_path / "house") as house:
        yield house


@pytest_asyncio.fixture(name="new_page", loop_scope="session")
async def _new_page(chromium: Browser, spare: list[Page], house: House) -> AsyncIterator[NewPage]:
    """Opens pages, each in a context of its own; whatever any of them did wrong fails the test at its end.

    They are left before the house is closed.
    """
    opened: list[Watched] = []

    async def new_page(*, width: int = 1200, height: int = 800, dark: bool = False) -> Watched:
        page = spare.pop() if spare else await (await chromium.new_context()).new_page()
        await page.set_viewport_size({"width": width, "height": height})
        await page.emulate_media(color_scheme="dark" if dark else "light")
        watched = Watched(page)
        watched.watch()
        opened.append(watched)
        return watched

    yield new_page
    for watched in opened:
        if await watched.leave():
            spare.append(watched.page)
    assert [] == [complaint for watched in opened for complaint in watched.complaints]
    assert [] == [url for watched in opened for url in watched.strangers]
