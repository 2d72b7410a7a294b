"""Operators see and end grants over the real admin socket, in the shapes that the command line's stub speaks."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from broker.cli.command import CommandContext
from broker.cli.output import Failed
from tests.cli.stub import grant
from tests.plugin.driving import Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", name="admin")
async def _admin(stand: Stand) -> AsyncIterator[Stand]:
    """The stand with its admin socket open."""
    runner = web.AppRunner(stand.house.broker.listeners.admin)
    await runner.setup()
    await web.UnixSite(runner, str(stand.house.settings.server.admin_socket)).start()
    yield stand
    await runner.cleanup()


async def ask(stand: Stand, method: str, target: str, **more: Any) -> Any:
    """As the command line does, which has an event loop of its own."""
    context = CommandContext(config=str(stand.house.folder / "config.toml"), environ={})
    return await asyncio.to_thread(context.broker.ask, method, target, **more)


async def test_grant_is_listed_and_ended(admin: Stand) -> None:
    """Its tokens are dead at once; the second time there is none."""
    tokens = await admin.tokens("listed")

    [listed] = (await ask(admin, "GET", "/plugin/grants", query={"subject": "listed"}))["grants"]
    ended = await ask(admin, "DELETE", f"/plugin/grants/{listed['grant']}")
    with pytest.raises(
        Failed, match=f"There is no grant '{listed['grant'][:32]}', or it has ended; `broker plugin grants`"
    ):
        await ask(admin, "DELETE", f"/plugin/grants/{listed['grant']}")

    assert frozenset(grant(1)) == frozenset(listed)
    assert ("kit", "listed", None) == (listed["client"], listed["subject"], listed["account"])
    assert {} == ended
    assert not await admin.client.is_active(tokens["access_token"])


async def test_grants_come_page_by_page(admin: Stand) -> None:
    """Until there is no cursor."""
    for _ in range(3):
        await admin.tokens("paged")
    query = {"subject": "paged", "limit": 2}

    first = await ask(admin, "GET", "/plugin/grants", query=query)
    second = await ask(admin, "GET", "/plugin/grants", query={**query, "cursor": first["next_cursor"]})

    names = {one["grant"] for one in (*first["grants"], *second["grants"])}
    assert (3, None) == (len(names), second["next_cursor"])


async def test_connect_code_is_audited_without_itself(admin: Stand) -> None:
    """Who made it, and for whom."""
    answer = await ask(admin, "POST", "/plugin/connect-codes", body={"subject": "user-42"})

    made = admin.audited()[-1]
    assert ("plugin.connect_code", "subject user-42") == (made["action"], made["detail"])
    assert made["caller"].startswith("uid:")
    assert answer["connect_code"] not in json.dumps(made)
