"""R13: a copied store serves what lives, renews nothing, and says so, until an operator adopts it."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

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
    doubtful = await house.broker.adoption.adopt(OPERATOR, request_id="test")
    renewed = await house.get("/token/acme")

    assert 200 == living.status
    assert (503, "storage_unavailable") == (refused.status, refused.json["code"])
    assert "degraded" == ready["status"]
    assert ["acme"] == doubtful
    assert (200, 2) == (renewed.status, renewed.json["generation"])
    assert 1 == await house.refreshes()


async def test_adoption_judges_by_the_reloaded_configuration(house: House, tmp_path: Path) -> None:
    """A provider that no longer rotates after a reload leaves no account in doubt: its refresh token is not used up."""
    await house.connect()
    await _copied(house, tmp_path / "clone")
    house.clock.advance(LIFE)
    house.extra = """
[providers.kit]
client_id = "c"
client_secret = "s"
rotation = "none"
"""
    house.write_config()

    house.broker.use(house.settings)

    assert [] == await house.broker.adoption.adopt(OPERATOR, request_id="test")


async def test_adopted_copy_is_no_copy_any_more(house: House, tmp_path: Path) -> None:
    """After adoption and a restart the store is owned."""
    await house.connect()
    await _copied(house, tmp_path / "clone")
    await house.broker.adoption.adopt(OPERATOR, request_id="test")

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
    await house.broker.adoption.adopt(OPERATOR, request_id="test")
    await house.broker.alerts.standing.flush()

    events = await house.broker.context.stores.events.last_events(10)

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


async def _handed_out(house: House) -> Path:
    """Two generations of acme were handed out, and the store was set back to the first: its audit is elsewhere."""
    await house.connect()
    await house.get("/token/acme")
    await house.post("/token/acme/refresh")
    await house.get("/token/acme")
    await house.close()
    with closing(sqlite3.connect(house.folder / "var" / "broker.db")) as store, store:
        store.execute("UPDATE accounts SET generation = 1")
    return house.folder / "log" / "audit.jsonl"


ELSEWHERE = '[audit]\nto = { path = "log/audit.jsonl" }'


async def test_store_behind_its_audit_is_a_copy_until_adopted(tmp_path: Path) -> None:
    """The audit has seen a later generation; after the adoption its older lines count no more."""
    async with open_house(tmp_path / "house", extra=ELSEWHERE) as house:
        await _handed_out(house)
        await house.open()
        noticed = house.broker.tokens.permit.copied_store
        await house.broker.adoption.look_again()
        still = house.broker.tokens.permit.copied_store
        await house.broker.adoption.adopt(OPERATOR, request_id="test")
        await house.restart()

        assert (True, True) == (noticed, still)
        assert not house.broker.tokens.permit.copied_store


def _lost_tail(audit: Path) -> None:
    lines = audit.read_bytes().splitlines(keepends=True)
    audit.write_bytes(b"".join(line for line in lines if b'"generation":2' not in line))


def _edited(audit: Path) -> None:
    audit.write_bytes(audit.read_bytes().replace(b'"generation":2', b'"generation":3'))


def _moved_away(audit: Path) -> None:
    audit.rename(audit.with_name("elsewhere.jsonl"))


def _garbage(audit: Path) -> None:
    audit.write_bytes(b"\xff{" * 100_000 + b'\n"action":"token","account":"acme","generation":9\n')


@pytest.mark.parametrize("harm", [_lost_tail, _edited, _moved_away, _garbage])
async def test_audit_that_proves_nothing_makes_no_copy(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """What is missing, or does not verify, is no witness."""
    async with open_house(tmp_path / "house", extra=ELSEWHERE) as house:
        harm(await _handed_out(house))
        await house.open()

        assert not house.broker.tokens.permit.copied_store


async def test_ended_file_of_the_audit_is_a_witness_too(tmp_path: Path) -> None:
    """The day has changed, so the last lines are in the file before."""
    async with open_house(tmp_path / "house", extra=ELSEWHERE) as house:
        audit = await _handed_out(house)
        audit.rename(audit.with_name("audit-000001-2027-01-15.jsonl"))
        await house.open()

        assert house.broker.tokens.permit.copied_store


async def test_name_that_was_used_again_makes_no_copy(tmp_path: Path) -> None:
    """Purged and connected anew, renamed away and back: generations of a name only rise."""
    async with open_house(tmp_path / "house", extra=ELSEWHERE) as house:
        accounts, who = house.broker.accounts, {"request_id": "test"}
        await house.connect()
        await house.post("/token/acme/refresh")
        await house.get("/token/acme")
        await accounts.change(OPERATOR, "acme", {"name": "later"}, **who)
        await house.connect("kit", "acme", account="31")
        await accounts.remove(OPERATOR, "acme", purge=True, revoke=False, **who)
        await accounts.change(OPERATOR, "later", {"name": "acme"}, **who)
        await house.restart()

        assert not house.broker.tokens.permit.copied_store
