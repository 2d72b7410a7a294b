"""`install-link --from-kit` names the page where the app is installed: Kit's own, or the sandbox's that plays it."""

import re
from pathlib import Path

import aiohttp

from tests.house import OPERATOR, House
from tests.process import new_process


async def test_page_of_the_sandbox_leads_to_this_broker(house: House) -> None:
    """Nobody is sent to the real Kit while a sandbox plays it."""
    [kit] = [one for one in await providers(house) if one["name"] == "kit"]
    page = str(kit["install_page"])

    async with aiohttp.ClientSession() as session:
        async with session.get(page) as answer:
            [link] = re.findall(r'href="(/kit/apps/717/start)"', await answer.text())
        async with session.get(house.sandbox.base_url + link, allow_redirects=False) as answer:
            leads_to = answer.headers["Location"]

    assert page.startswith(f"{house.sandbox.base_url}/kit/apps/717/install")
    assert leads_to.startswith((f"{house.public}/install/kit?redirect=", f"{house.public}/plugin/authorize?"))


async def providers(house: House) -> list[dict[str, object]]:
    return await house.broker.overview.providers(OPERATOR, request_id="test")


async def test_page_without_a_sandbox_is_at_kit(tmp_path: Path) -> None:
    """With the app's id from the configuration."""
    async with new_process(tmp_path / "run") as process:
        text = process.config.read_text()
        process.config.write_text(text.replace("[providers.kit]", "[providers.kit]\napp_id = 4711"))
        await process.start()

        found = await process.run("install-link", "kit", "--from-kit")

    assert (0, "https://app.kit.com/apps/4711/install?k_app_id=k_4711\n", "") == found
