"""Files of the broker's own: no link is followed, nothing waits, and root gives away only what it made."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import StartRefused
from broker.files import new_file, open_own, read_own, replacing, write_own
from broker.store.backup import restore
from broker.store.sqlite import refuse_links, take_lock
from tests.store.test_backup import closed_with

NOBODY = 65534


def _symlink(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def _dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("not-there"))


def _fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path, victim: Path) -> None:
    path.mkdir()


def _hard_link(path: Path, victim: Path) -> None:
    os.link(victim, path)


TRAPS = (_symlink, _dangling, _fifo, _folder, _hard_link)


@pytest.fixture(name="victim")
def _victim(tmp_path: Path) -> Path:
    """A file of root's outside the service's folder."""
    victim = tmp_path / "victim"
    victim.write_text("root's")
    victim.chmod(0o600)
    return victim


@pytest.fixture(name="folder")
def _service(tmp_path: Path) -> Path:
    """A folder of the service's user, in which root works."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    folder = tmp_path / "var"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    return folder


def _is_untouched(victim: Path) -> bool:
    found = victim.stat()
    return (found.st_uid, victim.read_text()) == (0, "root's") and not victim.with_name("not-there").exists()


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize(
    "touch",
    [
        lambda path: open_own(path, os.O_RDONLY),
        lambda path: open_own(path, os.O_CREAT | os.O_RDWR),
        read_own,
    ],
    ids=["read", "create", "content"],
)
def test_what_is_no_file_of_ours_is_not_opened(
    folder: Path, victim: Path, trap: Callable[[Path, Path], None], touch: Callable[[Path], object]
) -> None:
    """At once, with a word about the file, and what it leads to stays as it was."""
    trap(folder / "name", victim)

    with pytest.raises(OSError, match="it is no regular file with a single name; move it away"):
        touch(folder / "name")

    assert _is_untouched(victim)


@pytest.mark.parametrize("trap", [trap for trap in TRAPS if trap is not _folder])
@pytest.mark.parametrize("name", ["name", "name.part"])
def test_a_link_is_replaced_and_not_followed(
    folder: Path, victim: Path, trap: Callable[[Path, Path], None], name: str
) -> None:
    """Also one in the place of the unfinished file."""
    trap(folder / name, victim)

    write_own(folder / "name", b"ours")

    assert b"ours" == read_own(folder / "name")
    assert (NOBODY, 0o600) == ((found := (folder / "name").stat()).st_uid, found.st_mode & 0o777)
    assert _is_untouched(victim)


def test_unfinished_file_leaves_the_old_one(folder: Path) -> None:
    """And nothing beside it; so does a new one that was not finished, or whose name was taken meanwhile."""
    write_own(folder / "name", b"old")

    with pytest.raises(ZeroDivisionError), replacing(folder / "name") as file:
        file.write(b"half")
        raise ZeroDivisionError
    with pytest.raises(FileExistsError), new_file(folder / "new") as (_, file):
        file.write(b"mine")
        (folder / "new").write_text("theirs")

    assert {"name": b"old", "new": b"theirs"} == {one.name: one.read_bytes() for one in folder.iterdir()}


@pytest.mark.parametrize("trap", TRAPS)
def test_lock_is_no_way_out_of_the_folder(
    folder: Path, victim: Path, trap: Callable[[Path, Path], None]
) -> None:
    """A sentence instead; a lock that root makes is the service's."""
    trap(folder / "broker.db.lock", victim)

    with pytest.raises(StartRefused, match=r"the lock .*broker\.db\.lock cannot be opened: it is no regular"):
        take_lock(folder / "broker.db")
    os.close(take_lock(folder / "other.db"))

    assert _is_untouched(victim)
    assert NOBODY == (folder / "other.db.lock").stat().st_uid


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_root_opens_no_store_through_links(folder: Path, victim: Path, end: str) -> None:
    """SQLite would follow them; in a folder of one's own they are one's own matter."""
    (folder / f"broker.db{end}").symlink_to(victim)

    with pytest.raises(StartRefused, match="cannot be opened as root"):
        refuse_links(folder / "broker.db")
    os.chown(folder, 0, 0)
    refuse_links(folder / "broker.db")


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize(
    "name", ["broker.db.restoring", "broker.db.part", "broker.db-wal", "broker.db-shm", "broker.db-journal"]
)
async def test_restoring_as_root_touches_nothing_outside(
    folder: Path, victim: Path, tmp_path: Path, trap: Callable[[Path, Path], None], name: str
) -> None:
    """Whatever waits at the names that it uses: the store is restored for the service, or the trap is named."""
    source = tmp_path / "source" / "broker.db"
    await closed_with(source, "acme")
    trap(folder / name, victim)

    try:
        restore(source, folder / "broker.db", force=True, at=1_800_000_000.0)
    except OSError as exc:
        assert name in str(exc)
    else:
        assert NOBODY == (folder / "broker.db").stat().st_uid

    assert _is_untouched(victim)
