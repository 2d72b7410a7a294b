"""The master key from a file, a credential or a command; made for an empty store, and never over a full one."""

import asyncio
import stat
import sys
from pathlib import Path

import pytest

from broker.config.settings import CommandKey, FileKey
from broker.encryption.keyring import Master, Place, Purpose, new_master_text
from broker.errors import StartRefused
from broker.keys import open_ring, read_master
from broker.model import Secret
from broker.store import Stores
from tests.fakes.clock import FakeClock
from tests.store.conftest import _stores as stores_fixture
from tests.store.rows import connect

PLACE = Place("accounts", "acme", 1, 1, "access_token")
stores = stores_fixture
CLOCK = FakeClock()


def command(text: str) -> CommandKey:
    return CommandKey((sys.executable, "-c", text))


async def test_missing_key_is_made_for_an_empty_store(stores: Stores, tmp_path: Path) -> None:
    """0600, and the same one opens it again."""
    source = FileKey(tmp_path / "keys" / "master.key")

    first = await open_ring(stores.keys, source, CLOCK)
    again = await open_ring(stores.keys, source, CLOCK)

    assert Secret("s") == again.keyring.decrypt(PLACE, first.keyring.encrypt(PLACE, Secret("s")))
    assert 0o600 == stat.S_IMODE(source.path.stat().st_mode)
    assert 2 == len(await stores.keys.keys())


async def test_credential_is_never_made(stores: Stores, tmp_path: Path) -> None:
    """systemd puts it there, or nobody does."""
    with pytest.raises(StartRefused, match="LoadCredential"):
        await open_ring(stores.keys, FileKey(tmp_path / "none", created=False), CLOCK)

    assert not (tmp_path / "none").exists()


async def test_missing_key_over_a_full_store_is_refused(stores: Stores, tmp_path: Path) -> None:
    """A new one would open nothing."""
    await connect(stores)

    with pytest.raises(StartRefused, match="put the key back"):
        await open_ring(stores.keys, FileKey(tmp_path / "master.key"), CLOCK)

    assert not (tmp_path / "master.key").exists()


async def test_wrong_key_is_named(stores: Stores, tmp_path: Path) -> None:
    """Both masters by their ids, and the store is untouched."""
    await open_ring(stores.keys, FileKey(tmp_path / "master.key"), CLOCK)
    before = await stores.keys.keys()
    (tmp_path / "master.key").write_text(new_master_text())

    with pytest.raises(StartRefused, match=r"was wrapped by master \w{8}, the one given is \w{8}"):
        await open_ring(stores.keys, FileKey(tmp_path / "master.key"), CLOCK)

    assert before == await stores.keys.keys()


async def test_store_without_its_keys_is_refused(stores: Stores, tmp_path: Path) -> None:
    """Records and no keys: restore it."""
    await connect(stores)
    (tmp_path / "master.key").write_text(new_master_text())
    (tmp_path / "master.key").chmod(0o600)

    with pytest.raises(StartRefused, match="no keys"):
        await open_ring(stores.keys, FileKey(tmp_path / "master.key"), CLOCK)


async def test_key_from_a_command(stores: Stores) -> None:
    """What it prints is the key."""
    ring = await open_ring(stores.keys, command(f"print({'ab' * 32!r})"), CLOCK)

    assert Secret("s") == ring.keyring.decrypt(PLACE, ring.keyring.encrypt(PLACE, Secret("s")))


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (command("raise SystemExit(3)"), "ended with 3"),
        (command("print('short')"), "44 characters of base64"),
        (CommandKey(("/nowhere/unwrap",)), "failed"),
    ],
)
async def test_command_that_fails_is_told(stores: Stores, source: CommandKey, hint: str) -> None:
    """Without what it printed."""
    with pytest.raises(StartRefused, match=hint):
        await open_ring(stores.keys, source, CLOCK)


async def test_command_that_hangs_is_ended() -> None:
    """After its time, with its process."""
    with pytest.raises(StartRefused, match=r"has not ended within 0.1 s"):
        await read_master(command("import time; time.sleep(60)"), key="keys.master", timeout=0.1)

    assert [] == list(asyncio.all_tasks() - {asyncio.current_task()})


def key_file(path: Path) -> FileKey:
    path.write_text(new_master_text())
    path.chmod(0o600)
    return FileKey(path)


async def test_master_is_replaced(stores: Stores, tmp_path: Path) -> None:
    """With both the store opens and every key is wrapped anew; from then on the new one alone opens it."""
    old, new = key_file(tmp_path / "old.key"), key_file(tmp_path / "new.key")
    first = await open_ring(stores.keys, old, CLOCK)
    record = first.keyring.encrypt(PLACE, Secret("s"))
    await first.add_key()

    both = await open_ring(stores.keys, new, CLOCK, previous=old)
    alone = await open_ring(stores.keys, new, CLOCK)

    expected = (await read_master(new, key="keys.master")).id
    assert {expected} == {key.master_id for key in await stores.keys.keys()}
    assert Secret("s") == both.keyring.decrypt(PLACE, record) == alone.keyring.decrypt(PLACE, record)
    with pytest.raises(StartRefused, match="does not open this store"):
        await open_ring(stores.keys, old, CLOCK)


async def test_replacement_is_one_transaction(stores: Stores, tmp_path: Path) -> None:
    """Whoever comes second with the same pair finds it done; nothing is wrapped by half."""
    old, new = key_file(tmp_path / "old.key"), key_file(tmp_path / "new.key")
    await open_ring(stores.keys, old, CLOCK)

    await asyncio.gather(*[open_ring(stores.keys, new, CLOCK, previous=old) for _ in range(5)])

    assert 1 == len({key.master_id for key in await stores.keys.keys()})
    assert (await open_ring(stores.keys, new, CLOCK)).keyring.active


async def test_both_masters_wrong_names_all_three(stores: Stores, tmp_path: Path) -> None:
    """The store's, keys.master and keys.previous."""
    names = ("right", "one", "two")
    right, one, two = (key_file(tmp_path / f"{name}.key") for name in names)
    ids = [(await read_master(source, key="keys.master")).id for source in (right, one, two)]
    await open_ring(stores.keys, right, CLOCK)

    with pytest.raises(StartRefused) as refused:
        await open_ring(stores.keys, one, CLOCK, previous=two)

    said = str(refused.value)
    assert f"wrapped by master {ids[0]}, keys.master is {ids[1]} and keys.previous is {ids[2]}" in said


async def test_previous_that_is_gone_is_needed_no_more(stores: Stores, tmp_path: Path) -> None:
    """Left in the file after the replacement it stops nothing; before it, it does."""
    old, new = key_file(tmp_path / "old.key"), key_file(tmp_path / "new.key")
    await open_ring(stores.keys, old, CLOCK)
    with pytest.raises(StartRefused, match=r"keys.previous: .*missing"):
        await open_ring(stores.keys, new, CLOCK, previous=FileKey(tmp_path / "gone.key"))
    await open_ring(stores.keys, new, CLOCK, previous=old)

    ring = await open_ring(stores.keys, new, CLOCK, previous=FileKey(tmp_path / "gone.key"))

    assert ring.keyring.active
    assert not (tmp_path / "gone.key").exists()


async def test_damaged_key_is_told_from_a_wrong_master(stores: Stores, tmp_path: Path) -> None:
    """It was wrapped by this master and does not open: which key, and what to do."""
    source = key_file(tmp_path / "master.key")
    ring = await open_ring(stores.keys, source, CLOCK)
    kid = ring.keyring.active
    await stores.database.write(
        lambda one: one.execute("UPDATE keys SET wrapped = $2 WHERE kid = $1", kid, "x" * 80)
    )

    with pytest.raises(StartRefused, match=f"key {kid} was wrapped by the given master key .* damaged"):
        await open_ring(stores.keys, source, CLOCK)


async def test_retired_key_that_does_not_open_stops_nothing(stores: Stores, tmp_path: Path) -> None:
    """Nothing in the store needs it."""
    source = key_file(tmp_path / "master.key")
    ring = await open_ring(stores.keys, source, CLOCK)
    retired = ring.keyring.active
    new = await ring.add_key()
    await stores.keys.retire_key(retired, 1.0)
    strange = Master(b"z" * 32).wrap(b"k" * 32, kid=retired, purpose=Purpose.DATA, created_at=0.0)
    await stores.database.write(
        lambda one: one.execute(
            "UPDATE keys SET wrapped = $2, master_id = $3 WHERE kid = $1",
            retired,
            strange.wrapped,
            strange.master_id,
        )
    )

    again = await open_ring(stores.keys, source, CLOCK)

    assert (new.kid, False) == (again.keyring.active, again.keyring.holds(retired))


async def test_half_made_master_key_is_made_again(stores: Stores, tmp_path: Path) -> None:
    """A crash while it was being written leaves nothing that a later start takes for a key."""
    (tmp_path / "master.key.part").write_text("half")

    ring = await open_ring(stores.keys, FileKey(tmp_path / "master.key"), CLOCK)

    assert ring.keyring.active
    assert ["master.key"] == [path.name for path in tmp_path.glob("master*")]
