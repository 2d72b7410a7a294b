"""A restored backup serves what lives, renews nothing, and says whose person is probably needed again."""

import asyncio
from pathlib import Path

from broker.sandbox.faults import Mode
from broker.store.backup import restore
from tests.house import OPERATOR, House
from tests.until import moment

LIFE = 172800
WHO = {"request_id": "test"}


async def _backup(house: House, to: Path) -> Path:
    async with house.broker.backups.backup(OPERATOR, **WHO) as made:
        to.write_bytes(made.read_bytes())
    return to


async def _restored(house: House, backup: Path) -> None:
    """Put yesterday's backup into the stopped broker's place, and start it."""
    await house.close()
    restore(backup, house.folder / "var" / "broker.db", force=True, at=house.clock.now())
    await house.open()


async def _told(house: House) -> list[str]:
    return [f"{one.level}: {one.detail}" for one in await house.broker.adoption.checks()]


async def test_restored_store_serves_and_renews_nothing(house: House, tmp_path: Path) -> None:
    """The person's caller and its key are back too; a forced renewal is refused with the reason."""
    await house.connect()
    backup = await _backup(house, tmp_path / "b.db")
    await house.connect("kit", "later", account="30")

    await _restored(house, backup)
    living, gone = await house.get("/token/acme"), await house.get("/token/later")
    forced = await house.post("/token/acme/refresh")
    await house.restart()
    still = await house.post("/token/acme/refresh")

    assert (200, 404) == (living.status, gone.status)
    assert [(503, "storage_unavailable")] * 2 == [(one.status, one.json["code"]) for one in (forced, still)]
    assert 0 == await house.refreshes()
    assert ["problem: the store is a copy or an old backup: valid tokens are served, nothing is renewed"] == (
        await _told(house)
    )


async def test_adoption_names_whose_renewal_was_due_since_the_backup(house: House, tmp_path: Path) -> None:
    """Not what was not due, not what was frozen; the check tells them until they are renewed."""
    house.sandbox.faults.set("kit", rotation=Mode.STRICT)
    await house.connect("kit", "due")
    await house.connect("kit", "frozen", account="30")
    await house.broker.accounts.freeze(OPERATOR, "frozen", **WHO)
    house.clock.advance(LIFE / 2)
    await house.connect("kit", "young", account="31")
    made_at = house.clock.now()
    backup = await _backup(house, tmp_path / "b.db")
    house.clock.advance(LIFE / 2)
    used_up = await house.post("/token/due/refresh")

    await _restored(house, backup)
    before = await _told(house)
    copied_at = await house.broker.adoption.copied_at()
    doubtful = await house.broker.adoption.adopt(OPERATOR, **WHO)
    after = await _told(house)
    await house.restart()
    again = await _told(house)

    assert 200 == used_up.status
    assert "these may need re-authorization: due" in before[0]
    assert made_at == copied_at
    assert ["due"] == doubtful
    assert ["warning: not renewed since the adoption, and may need re-authorization: due"] == after == again
    assert await house.broker.adoption.copied_at() is None


async def test_account_that_comes_back_is_told_no_more(house: House, tmp_path: Path) -> None:
    """Its refresh token was still good, or its person connected again."""
    await house.connect()
    backup = await _backup(house, tmp_path / "b.db")
    house.clock.advance(LIFE)
    await _restored(house, backup)
    doubtful = await house.broker.adoption.adopt(OPERATOR, **WHO)
    told = len(await _told(house))
    house.clock.advance(1)

    renewed = await house.post("/token/acme/refresh")

    assert (["acme"], 1) == (doubtful, told)
    assert 200 == renewed.status
    assert [] == await _told(house)


async def test_renewal_under_way_at_the_backup_is_doubtful(house: House, tmp_path: Path) -> None:
    """Its refresh token was with the provider just then, however long the access token lives."""
    await house.connect()
    house.sandbox.faults.set("kit", drop="after", times=1)
    asking = asyncio.create_task(house.post("/token/acme/refresh"))
    while not (await house.account()).trouble.ambiguous:
        await moment()
    backup = await _backup(house, tmp_path / "b.db")
    while not asking.done():
        house.clock.advance(5)
        await moment()

    await _restored(house, backup)
    doubtful = await house.broker.adoption.adopt(OPERATOR, **WHO)

    assert ["acme"] == doubtful


async def test_backup_opens_with_its_own_keys(house: House, tmp_path: Path) -> None:
    """Keys that were dropped since come back with it: a backup needs nothing but the master key."""
    await house.connect()
    backup = await _backup(house, tmp_path / "b.db")
    desk, old = house.broker.keys, house.broker.context.keyring.active
    await desk.new(OPERATOR, **WHO)
    await desk.rewrap(OPERATOR, None, **WHO)
    await desk.drop(OPERATOR, old, **WHO)

    await _restored(house, backup)

    assert old == house.broker.context.keyring.active
    assert 200 == (await house.get("/token/acme")).status
