"""A house at three in the morning: most connections are well, one needs its person, one is frozen."""

import asyncio

from broker.sandbox.faults import Mode
from tests.house import OPERATOR, House

HOUR = 3600
WELL = ("globex", "initech", "stark", "umbrella", "wayne")
DEAD, FROZEN, NORTH = "acme", "hooli", "north-shop"


async def set_scene(house: House) -> None:
    """Accounts of several ages, a grant that was revoked at the provider, and callers who ask."""
    for number, name in enumerate((DEAD, FROZEN, *WELL)):
        await house.connect("kit", name, account=str(100 + number))
        house.clock.advance(5 * HOUR)
    await house.connect("kustomer", NORTH, org="north")
    for name in (*WELL, NORTH):
        await house.get(f"/token/{name}")
    await house.broker.tokens.uses.flush()
    await house.broker.accounts.freeze(OPERATOR, FROZEN, request_id="scene")
    await _revoke(house, DEAD)


async def _revoke(house: House, name: str) -> None:
    house.sandbox.faults.set("kit", rotation=Mode.STRICT)
    revoked = {"provider": "kit", "external_id": (await house.account(name)).external_id}
    async with house.session.post(f"{house.sandbox.base_url}/_sandbox/revoke", json=revoked) as done:
        assert done.status == 200, await done.text()
    asking = asyncio.create_task(house.post(f"/token/{name}/refresh"))
    while not asking.done():
        await house.clock.settle()
        house.clock.advance(3)
    await asking
