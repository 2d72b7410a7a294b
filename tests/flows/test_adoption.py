"""R13: a copied store serves what lives, renews nothing, and says so, until an operator adopts it."""

import shutil
from pathlib import Path

from broker.model import EventKind
from tests.house import OPERATOR, House, open_house

LIFE = 172800


async def _copied(house: House, to: Path) -> None:
    """Copy the whole folder of a stopped broker, as a backup or a staging clone would be."""
    await house.close()
    shutil.copytree(house.folder, to)
    house.folder = to
    house.write_config()
    await house.open()


async def test_copy_renews_nothing_until_adopted(house: House, tmp_path: Path) -> None:
    """Living tokens go out; an expired one is refused with the reason; after adoption it is renewed."""
    await house.connect()
    await _copied(house, tmp_path / "clone")

    living = await house.get("/token/acme")
    house.clock.advance(LIFE)
    refused = await house.get("/token/acme")
    ready = (await house.get("/readyz")).json
    doubtful = await house.broker.rooms.adoption.adopt(OPERATOR, request_id="test")
    renewed = await house.get("/token/acme")

    assert 200 == living.status
    assert (503, "storage_unavailable") == (refused.status, refused.json["code"])
    assert "degraded" == ready["status"]
    assert ["acme"] == doubtful
    assert (200, 2) == (renewed.status, renewed.json["generation"])
    assert 1 == await house.refreshes()


async def test_adopted_copy_is_no_copy_any_more(house: House, tmp_path: Path) -> None:
    """After adoption and a restart the store is owned."""
    await house.connect()
    await _copied(house, tmp_path / "clone")
    await house.broker.rooms.adoption.adopt(OPERATOR, request_id="test")

    await house.restart()

    assert not house.broker.tokens.permit.copied_store


async def test_restart_is_no_copy(house: House) -> None:
    """The same store at the same place goes on renewing, however often it restarts."""
    await house.connect()
    for _ in range(4):
        await house.restart()
    house.clock.advance(LIFE)

    assert 200 == (await house.get("/token/acme")).status


async def test_old_backup_put_back_is_a_copy(house: House, tmp_path: Path) -> None:
    """The database of yesterday in the place of today's: its incarnation is no longer listed."""
    await house.connect()
    await house.close()
    shutil.copy2(house.folder / "var" / "broker.db", tmp_path / "backup.db")
    await house.open()
    await house.restart()
    await house.restart()
    await house.close()
    # Written into the same file, so that even the inode is the same.
    (house.folder / "var" / "broker.db").write_bytes((tmp_path / "backup.db").read_bytes())
    await house.open()

    assert house.broker.tokens.permit.copied_store


async def test_copy_is_told_once(house: House, tmp_path: Path) -> None:
    """Degraded and recovered are events, one each."""
    await house.connect()
    await _copied(house, tmp_path / "clone")
    await house.broker.rooms.adoption.adopt(OPERATOR, request_id="test")
    await house.broker.alerts.standing.flush()

    events = await house.broker.base.stores.events.last_events(10)

    told = [event.kind for event in events if event.reason == "copied_store"]
    assert [EventKind.BROKER_DEGRADED, EventKind.BROKER_RECOVERED] == told


async def test_lost_sidecar_is_a_copy(tmp_path: Path) -> None:
    """Without the file beside it a store with accounts does not know whether it is alone."""
    async with open_house(tmp_path / "house") as house:
        await house.connect()
        await house.close()
        (house.folder / "var" / "broker.db.incarnation").unlink()
        await house.open()

        assert house.broker.tokens.permit.copied_store
