"""`broker backup`, `restore` and `migrate`: files that are right or not there at all."""

import stat
from pathlib import Path

from broker.store.backup import SqliteBackup
from broker.store.migrate import migrate
from broker.store.sqlite import SqliteDatabase
from tests.store.rows import connect, plain_stores

from .conftest import Run
from .stub import NOW, Stub


async def store_with(path: Path, *names: str) -> None:
    """A store with these accounts that nobody has open."""
    database = await SqliteDatabase.open(path)
    await migrate(database)
    for name in names:
        await connect(plain_stores(database), name)
    await database.close()


async def made(folder: Path, *names: str) -> bytes:
    """What the broker's backup of such a store would be."""
    await store_with(folder / "made" / "broker.db", *names)
    async with SqliteBackup(folder / "made" / "broker.db").copy(NOW - 7200) as path:
        return path.read_bytes()


async def test_backup_is_written_whole(run: Run, stub: Stub, tmp_path: Path) -> None:
    """0600, as the command's user, under its name only when it is sound."""
    stub.store = await made(tmp_path, "acme", "globex")
    (tmp_path / "to").mkdir()

    result = await run("backup", str(tmp_path / "to" / "b.db"))

    assert (0, f"{tmp_path}/to/b.db holds 2 accounts.\n") == (result.exit_code, result.stdout)
    assert stub.store == (tmp_path / "to" / "b.db").read_bytes()
    assert 0o600 == stat.S_IMODE((tmp_path / "to" / "b.db").stat().st_mode)
    assert ["b.db"] == [one.name for one in (tmp_path / "to").iterdir()]


async def test_backup_never_overwrites(run: Run, stub: Stub, tmp_path: Path) -> None:
    """Not a file, not a link, not a folder; the broker is not even asked."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    results = [await run("backup", str(tmp_path / name)) for name in ("file", "link", ".")]

    assert [1, 1, 1] == [result.exit_code for result in results]
    assert all("never overwrites" in result.stderr for result in results)
    assert ("precious", []) == ((tmp_path / "file").read_text(), stub.asked)


async def test_backup_keeps_the_newest(run: Run, stub: Stub, tmp_path: Path) -> None:
    """Of its own names only, and only once the new one is whole."""
    stub.store = await made(tmp_path, "acme")
    folder = tmp_path / "to"
    folder.mkdir()
    days = [f"broker-2026-10-0{day}T030000Z.db" for day in range(1, 5)]
    for name in (*days, "broker-mine.db", "broker-2026-10-01T030000Z.db.gz"):
        (folder / name).touch()

    kept = await run("backup", str(folder), "--keep", "2")
    stub.store = stub.store[:1000]
    broken = await run("backup", str(folder), "--keep", "1")

    assert 0 == kept.exit_code
    assert "Deleted 3 older backups." in kept.stdout
    assert 1 == broken.exit_code
    left = {one.name for one in folder.iterdir()}
    assert {days[3], "broker-mine.db", "broker-2026-10-01T030000Z.db.gz"} < left
    assert 4 == len(left)


async def test_broken_backup_is_not_left_behind(run: Run, stub: Stub, tmp_path: Path) -> None:
    """Cut short on its way, or refused: no file of any name."""
    whole = await made(tmp_path, *(f"kit-{number}" for number in range(50)))
    (tmp_path / "to").mkdir()
    stub.store = whole[: len(whole) // 2]

    short = await run("backup", str(tmp_path / "to" / "b.db"))
    nowhere = await run("backup", str(tmp_path / "none" / "b.db"))

    assert [1, 1] == [short.exit_code, nowhere.exit_code]
    assert "The backup cannot be written to" in short.stderr
    assert f"{tmp_path / 'none' / 'b.db'}: No such file or directory.\n" in nowhere.stderr
    assert [] == list((tmp_path / "to").iterdir())


async def test_backup_needs_a_running_broker(run: Run, admin_socket: Path, tmp_path: Path) -> None:
    """Without one the folder may simply be copied."""
    admin_socket.unlink()

    result = await run("backup", str(tmp_path / "b.db"))

    assert (1, True) == (result.exit_code, "No broker runs. Start it" in result.stderr)
    assert not (tmp_path / "b.db").exists()


async def test_restore_says_what_comes_next(run: Run, tmp_path: Path) -> None:
    """How many accounts, how old, which master key, and that nothing is renewed yet."""
    (tmp_path / "b.db").write_bytes(await made(tmp_path, "acme"))

    result = await run("restore", str(tmp_path / "b.db"))

    assert 0 == result.exit_code, result.stderr
    assert f"Restored 1 account, made 2 h ago, into {tmp_path}/var/broker.db.\n" in result.stdout
    assert "renews nothing until `broker adopt`" in result.stdout


async def test_restore_over_a_store_with_accounts_needs_force(run: Run, tmp_path: Path) -> None:
    """And says where the replaced one is kept."""
    (tmp_path / "b.db").write_bytes(await made(tmp_path, "acme"))
    await store_with(tmp_path / "var" / "broker.db", "old")

    refused = await run("restore", str(tmp_path / "b.db"))
    forced = await run("restore", str(tmp_path / "b.db"), "--force")

    assert (1, True) == (refused.exit_code, "Nothing was restored: the store" in refused.stderr)
    assert (0, True) == (forced.exit_code, "The former store is kept as" in forced.stdout)


async def test_migrate_brings_a_store_up_to_date(run: Run, tmp_path: Path) -> None:
    """Where there is one."""
    missing = await run("migrate")
    database = await SqliteDatabase.open(tmp_path / "var" / "broker.db")
    await database.close()

    done = await run("migrate")

    assert (1, True) == (missing.exit_code, "There is no store" in missing.stderr)
    assert (0, True) == (done.exit_code, "/var/broker.db has schema " in done.stdout)
