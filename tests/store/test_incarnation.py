"""R13 on files: an old copy put back is noticed however it was done, and nothing that is in order is refused."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import StartRefused
from broker.store.incarnation import Incarnation, birth_of, refuse_vanished, witness_of
from broker.store.migrate import migrate
from broker.store.sqlite import SqliteDatabase
from tests.store.rows import connect, plain_stores


class Killed(BaseException):
    """The process ends here."""


class DyingStore:
    """The store's words about itself, until a kill at one of their writes."""

    def __init__(self, store: object, *, before: int | None = None, after: int | None = None) -> None:
        self._store, self._before, self._after, self._count = store, before, after, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def set_meta(self, key: str, value: str) -> None:
        self._count += 1
        if self._count == self._before:
            raise Killed
        await self._store.set_meta(key, value)  # type: ignore[attr-defined]
        if self._count == self._after:
            raise Killed


async def is_copy(
    path: Path,
    outside: Path | None = None,
    *,
    begin: bool = True,
    before: int | None = None,
    after: int | None = None,
) -> bool:
    """Start on the store at `path`, as a broker does, and stop."""
    database = await SqliteDatabase.open(path)
    try:
        await migrate(database)
        stores = plain_stores(database)
        if await stores.keys.has_no_accounts():
            await connect(stores)
        keys = DyingStore(stores.keys, before=before, after=after)
        incarnation = Incarnation(store=keys, path=path, outside=outside)  # type: ignore[arg-type]
        copied = await incarnation.is_copy()
        if begin and not copied:
            await incarnation.begin()
    finally:
        await database.close()
    return copied


async def new_store(tmp_path: Path, outside: Path | None = None) -> tuple[Path, Path]:
    """A store with an account that has started once, and its backup, after which it started again."""
    folder = tmp_path / "var"
    path = folder / "broker.db"
    database = await SqliteDatabase.open(path)
    await migrate(database)
    await Incarnation(store=plain_stores(database).keys, path=path, outside=outside).begin()
    await connect(plain_stores(database))
    await database.close()
    shutil.copytree(folder, tmp_path / "backup", copy_function=shutil.copy2)
    assert not await is_copy(path, outside)
    return path, tmp_path / "backup"


def _folder_anew(old: Path, new: Path) -> None:
    shutil.rmtree(new)
    subprocess.run(["cp", "-a", old, new], check=True)


def _files_anew(old: Path, new: Path) -> None:
    for file in new.iterdir():
        file.unlink()
    subprocess.run(["cp", "-a", f"{old}/.", new], check=True)


def _tar(old: Path, new: Path) -> None:
    archive = old.with_suffix(".tar")
    subprocess.run(["tar", "-C", old, "-cf", archive, "."], check=True)
    subprocess.run(["tar", "-C", new, "-xf", archive], check=True)


def _by_name(old: Path, new: Path) -> None:
    shutil.rmtree(new)
    old.rename(new)


def _in_place(old: Path, new: Path) -> None:
    for file in old.iterdir():
        (new / file.name).write_bytes(file.read_bytes())


def _store_in_place(old: Path, new: Path) -> None:
    (new / "broker.db").write_bytes((old / "broker.db").read_bytes())


def _pages_in_place(old: Path, new: Path) -> None:
    """As `rsync --inplace` and `dd conv=notrunc` write."""
    for file in old.iterdir():
        with (new / file.name).open("r+b") as target:
            target.write(file.read_bytes())
            target.truncate()


def _hard_links(old: Path, new: Path) -> None:
    """As a backup by `rsync --link-dest` or `cp -al` is put back."""
    shutil.rmtree(new)
    shutil.copytree(old, new, copy_function=os.link)


WAYS = (_folder_anew, _files_anew, _tar, _by_name, _in_place, _store_in_place, _pages_in_place, _hard_links)


@pytest.mark.parametrize("put_back", WAYS)
async def test_old_folder_put_back_is_a_copy(tmp_path: Path, put_back: Callable[[Path, Path], None]) -> None:
    """However the old state came there: by new files, whose inodes may be the same, or into those there."""
    path, backup = await new_store(tmp_path)

    put_back(backup, path.parent)

    assert await is_copy(path)


async def test_witness_outside_sees_what_the_files_do_not(tmp_path: Path) -> None:
    """A disk that was rolled back has the same inodes and births; the witness on another one does not agree."""
    outside = tmp_path / "log"
    outside.mkdir()
    path, _ = await new_store(tmp_path, outside)
    [witness] = outside.iterdir()
    before = witness.read_bytes()
    witness.write_text('["another"]')

    rolled_back = await is_copy(path, outside, begin=False)
    witness.unlink()
    missing = await is_copy(path, outside, begin=False)
    witness.write_text("[[[")
    damaged = await is_copy(path, outside, begin=False)
    witness.write_bytes(before)

    assert (True, False, False) == (rolled_back, missing, damaged)
    assert not await is_copy(path, outside)


async def test_each_store_has_a_witness_of_its_own(tmp_path: Path) -> None:
    """One that store.url named before does not contradict the next."""
    outside = tmp_path / "log"
    outside.mkdir()
    one, _ = await new_store(tmp_path / "one", outside)
    other, _ = await new_store(tmp_path / "other", outside)

    assert [False, False, False] == [await is_copy(path, outside) for path in (one, other, one)]


@pytest.mark.parametrize(("before", "after"), [(1, None), (2, None), (None, 2)])
async def test_start_that_was_killed_leaves_an_original(
    tmp_path: Path, before: int | None, after: int | None
) -> None:
    """Before and after each write, twice in a row, with a witness; and the next start is in order."""
    outside = tmp_path / "log"
    outside.mkdir()
    path, _ = await new_store(tmp_path, outside)

    for _ in range(3):
        with pytest.raises(Killed):
            await is_copy(path, outside, before=before, after=after)

    assert [False] * 3 == [await is_copy(path, outside) for _ in range(3)]


async def test_moved_folder_is_the_original(tmp_path: Path) -> None:
    """A rename on the same file system is no copy, nor is a mount at another place."""
    path, _ = await new_store(tmp_path)
    path.parent.rename(tmp_path / "elsewhere")

    assert [False, False] == [await is_copy(tmp_path / "elsewhere" / "broker.db") for _ in range(2)]


async def test_witness_that_cannot_be_written_does_not_contradict_later(tmp_path: Path) -> None:
    """It is taken away, so that the next start with room has nothing old to read."""
    outside = tmp_path / "log"
    outside.mkdir()
    path, _ = await new_store(tmp_path, outside)
    # In the way of every atomic write there.
    [witness] = outside.iterdir()
    unfinished = witness.with_name(witness.name + ".part")
    unfinished.mkdir()

    started = await is_copy(path, outside)
    gone = not witness.exists()
    unfinished.rmdir()

    assert (False, True) == (started, gone)
    assert not await is_copy(path, outside)


async def test_store_of_an_older_program_is_taken(tmp_path: Path) -> None:
    """It wrote inode and incarnation alone, and two into the sidecar; also after the way back and forth."""
    outside = tmp_path / "log"
    outside.mkdir()
    path, _ = await new_store(tmp_path, outside)
    database = await SqliteDatabase.open(path)
    await plain_stores(database).keys.set_meta("incarnation", f"older:{path.stat().st_ino}")
    await database.close()
    sidecar = path.with_name("broker.db.incarnation")
    [now] = [one for one in sidecar.read_text().split('"') if len(one) == 32]
    sidecar.write_text(f'["{now}", "older"]')

    assert [False, False] == [await is_copy(path, outside) for _ in range(2)]


def test_birth_is_the_files_own(tmp_path: Path) -> None:
    """It stays with the inode whatever is written; where there is none, nobody fails."""
    first = tmp_path / "first"
    first.write_text("")
    born = birth_of(first)
    first.write_text("more")

    assert born == birth_of(first)
    assert birth_of(tmp_path / "missing") is None
    assert birth_of(Path("/proc/self/status")) is None


@pytest.mark.parametrize("left", ["sidecar", "witness", "audit"])
@pytest.mark.parametrize("emptied", [False, True])
async def test_vanished_store_is_not_begun_anew(tmp_path: Path, left: str, emptied: bool) -> None:
    """Whichever of its files still tells of it, and also where a file of no bytes took its place."""
    outside = tmp_path / "log"
    outside.mkdir()
    path, _ = await new_store(tmp_path, outside)
    audit = path.with_name("audit.jsonl")
    refuse_vanished(path, outside=outside, others=[audit])
    witnesses = {
        "sidecar": path.with_name("broker.db.incarnation"),
        "witness": witness_of(path, outside),
        "audit": audit,
    }
    for name, file in witnesses.items():
        if name not in ("audit", left) and file is not None:
            file.unlink()
    path.unlink()
    if emptied:
        path.touch()
    others = [audit] if left == "audit" else []

    with pytest.raises(StartRefused, match=rf"{witnesses[left]} tells of one.*broker restore BACKUP"):
        refuse_vanished(path, outside=outside, others=others)
    if left != "audit":
        (witnesses[left] or path).unlink()
    refuse_vanished(path, outside=outside)
