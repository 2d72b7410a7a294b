"""`POST /exports`: frozen first, then out; never an uncertain grant, never while a renewal is under way."""

import asyncio
import json
from typing import Any

import aiohttp

from broker.model import Reason
from broker.sandbox.issued import fingerprint
from tests.audit.unwritable import unwritable
from tests.commanding import commands_at
from tests.house import OPERATOR, House


async def exported(house: House, *globs: str) -> tuple[int, list[dict[str, Any]]]:
    """The status and the lines of the answer."""
    async with commands_at(house):
        connector = aiohttp.UnixConnector(path=str(house.settings.server.admin_socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://broker/exports", json={"accounts": list(globs)}) as response,
        ):
            return response.status, [json.loads(line) for line in (await response.read()).splitlines()]


async def test_exported_account_is_frozen_and_its_token_is_the_living_one(house: House) -> None:
    """What leaves is what the provider takes, in the form that an import takes."""
    await house.connect()

    status, [total, line] = await exported(house)
    [grant] = (await house.judge())["grants"]

    assert (200, {"total": 1}) == (status, total)
    assert {"name", "provider", "refresh_token", "scope"} == set(line["grant"])
    assert grant["current_refresh_token_sha256"] == fingerprint(line["grant"]["refresh_token"])
    assert Reason.EXPORTED is (await house.account()).frozen


async def test_frozen_account_hands_out_its_living_token_and_is_never_renewed(house: House) -> None:
    """Neither a caller nor the background may use the token that another system has now."""
    await house.connect()
    await exported(house)

    living = await house.get("/token/acme")
    house.clock.advance(172800)
    dead = await house.get("/token/acme")

    assert (200, 409, "frozen") == (living.status, dead.status, dead.json["code"])
    assert 0 == await house.refreshes()


async def test_running_renewal_is_awaited(house: House) -> None:
    """What leaves is its successor, not the token that it spends."""
    account = await house.connect()
    house.sandbox.faults.set("kit", latency=0.2)
    house.broker.tokens.flights.begin(account.ref)

    exporting = asyncio.create_task(exported(house))
    while not exporting.done():
        await house.clock.settle()
        house.clock.advance(0.1)
    _, [_, line] = await exporting
    [grant] = (await house.judge())["grants"]

    assert grant["current_refresh_token_sha256"] == fingerprint(line["grant"]["refresh_token"])
    assert 2 == (await house.account()).generation


async def test_uncertain_account_is_left_out(house: House) -> None:
    """Nobody knows which of its tokens lives, so it is neither frozen nor handed over."""
    account = await house.connect()
    house.sandbox.faults.set("kit", drop="after", times=1)
    await house.broker.tokens.flights.join(account.ref)

    _, [_, line] = await exported(house)

    assert "acme" == line["left_out"]
    assert "unknown outcome" in line["why"]
    assert None is (await house.account()).frozen


async def test_lease_of_another_process_is_respected(house: House) -> None:
    """An intent in the row means that somebody is about to spend the token."""
    account = await house.connect()
    await house.broker.context.stores.database.write(
        lambda transaction: transaction.execute(
            """UPDATE accounts SET intent_id = 'x', intent_generation = 1, intent_at = 1, lease_owner = 'other',
                      lease_until = 9e9 WHERE name = $1""",
            account.name,
        )
    )

    _, [_, line] = await exported(house)

    assert "a renewal of it is under way" in line["why"]
    assert None is (await house.account()).frozen


async def test_globs_choose_and_removed_ones_are_no_accounts(house: House) -> None:
    """Only what was asked for is frozen."""
    for number, name in enumerate(("acme", "kit-1", "kit-2"), 30):
        await house.connect("kit", name, account=f"{number}")
    await house.ask("DELETE", "/accounts/kit-2")

    _, lines = await exported(house, "kit-*", "nothing")

    assert [{"total": 1}, "kit-1"] == [lines[0], lines[1]["grant"]["name"]]
    assert None is (await house.account("acme")).frozen


async def test_export_again_gives_the_same(house: House) -> None:
    """Who loses the file types it once more: nothing has been renewed since."""
    await house.connect()

    first = await exported(house)
    second = await exported(house)

    assert first == second


async def test_dead_account_is_left_out(house: House) -> None:
    """There is nothing to hand over."""
    account = await house.connect()
    await house.broker.context.stores.accounts.settle(
        account.ref,
        trouble=account.trouble,
        keep_intent=False,
        dead=Reason.REVOKED_OR_EXPIRED,
        next_at=None,
        at=1.0,
        events=[],
    )

    _, [_, line] = await exported(house)

    assert "needs re-authorization" in line["why"]


async def test_export_is_audited_by_account(house: House) -> None:
    """The names, and never a token."""
    await house.connect()

    _, [_, line] = await exported(house, "ac*")
    audit = (house.folder / "var" / "audit.jsonl").read_text()

    assert 2 == audit.count('"action":"accounts.export"')
    assert '"action":"accounts.export","account":"acme"' in audit
    assert line["grant"]["refresh_token"] not in audit


async def test_without_audit_nothing_leaves(house: House) -> None:
    """An export is a change: refused at once, and nothing is frozen."""
    await house.connect()

    with unwritable(house.folder / "var" / "audit.jsonl"):
        status, [problem] = await exported(house)

    assert (503, "audit_unavailable") == (status, problem["code"])
    assert None is (await house.account()).frozen


async def test_services_cannot_export(house: House) -> None:
    """The route is the admin socket's alone, whatever a caller may do."""
    every = await house.caller(
        permissions=("token", "refresh", "install", "accounts", "manage", "plugin", "admin"), name="every"
    )

    answer = await house.post("/exports", {}, key=every)

    assert answer.status in (404, 405)
    assert OPERATOR.name not in answer.body.decode()
