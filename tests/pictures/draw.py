"""Draws the pictures of the documentation anew: `python -m tests.pictures.draw`. Needs Chromium."""

import asyncio
import re
import shutil
import tempfile
from io import StringIO
from pathlib import Path

from playwright.async_api import Browser, async_playwright
from rich.console import Console
from rich.text import Text

from tests.dashboard.conftest import dashboard_link
from tests.house import House, open_house
from tests.pictures.scene import DEAD, set_scene
from tests.process import new_process

HERE = Path(__file__).parent
PAGES = {"dashboard.png": "/", "account.png": f"/dashboard/accounts/{DEAD}"}
COMMANDS = (("accounts", "list"), ("providers", "list"), ("check",))
WIDTH = 80
FONTS = re.compile(r"@font-face \{.*?\}|<!--.*?-->", re.DOTALL)


async def draw() -> None:
    """Write every picture beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_house(Path(folder) / "house") as house:
            await set_scene(house)
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
                )
                await photograph(house, browser)
                await browser.close()
        (HERE / "terminal.svg").write_text(await terminal(Path(folder) / "process"))


async def photograph(house: House, browser: Browser) -> None:
    context = await browser.new_context(viewport={"width": 1200, "height": 760})
    page = await context.new_page()
    await page.goto(await dashboard_link(house))
    base = page.url.removesuffix("/")
    for name, path in PAGES.items():
        await page.goto(base + path)
        await page.screenshot(path=HERE / name)
    await context.close()


async def terminal(folder: Path) -> str:
    """What an operator types and sees, as SVG."""
    screen = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    async with new_process(folder) as process:
        await process.start()
        await process.connect("acme")
        await process.connect("north-shop", "kustomer")
        for command in COMMANDS:
            _, said, _ = await process.run(*command)
            screen.print(Text(f"$ broker {' '.join(command)}", style="bold"))
            screen.print(Text(said.replace(str(folder), "/etc/token-broker")))
    # Without the fonts of other hosts, which rich would name.
    return FONTS.sub("", screen.export_svg(title="broker"))


if __name__ == "__main__":
    asyncio.run(draw())
