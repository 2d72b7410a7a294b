"""The master key from a file, a credential or a command; made for an empty store, and never over a full one."""

import stat
import sys
from pathlib import Path

import pytest

from broker.config.settings import CommandKey, FileKey
from broker.errors import StartRefused
from broker.keyring import Place, new_master_text
from broker.keys.opening import open_ring
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

    assert Secret("s") == again.keyring.open(PLACE, first.keyring.seal(PLACE, Secret("s")))
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

    assert Secret("s") == ring.keyring.open(PLACE, ring.keyring.seal(PLACE, Secret("s")))


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
