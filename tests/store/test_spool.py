"""The rescue spool: what the store would not take lies in a file of its own until it does."""

import os
import stat
from dataclasses import replace
from pathlib import Path

from broker.model import InstallOutcome, PendingGrant, PendingInstall, Ref
from broker.store.retained import grants_spool, renewals_spool
from tests.store.rows import successor

ENCRYPTED = replace(successor(Ref("acme", 3, 7)), sealed_access=None, unusable=True, next_at=None)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every field, also by another process with the same folders."""
    path = renewals_spool([tmp_path / "spool"]).write(ENCRYPTED)

    assert [(path, ENCRYPTED)] == renewals_spool([tmp_path / "spool"]).read()


def test_grants_of_installs_lie_beside_renewals(tmp_path: Path) -> None:
    """Each spool reads its own, whole, with how the install ended."""
    install = PendingInstall(
        *("state", "kit", "id", "browser", None, "acme", None, None, None, False, None, "uid:0", None),
        *("http://127.0.0.1/callback/kit", 1.0, 2.0, 1.5, InstallOutcome.IDENTITY_PENDING),
    )
    grant = PendingGrant(install, "access", "refresh", "Bearer", "public", 1.0, 2.0, 50.0)
    renewals, grants = renewals_spool([tmp_path]), grants_spool([tmp_path])

    renewed, held = renewals.write(ENCRYPTED), grants.write(grant)

    assert ([(renewed, ENCRYPTED)], [(held, grant)]) == (renewals.read(), grants.read())


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Folder 0700, file 0600, and nothing unfinished stays behind."""
    path = renewals_spool([tmp_path / "spool"]).write(ENCRYPTED)

    assert path is not None
    assert (0o700, 0o600) == (
        stat.S_IMODE(path.parent.stat().st_mode),
        stat.S_IMODE(path.stat().st_mode),
    )
    assert [path] == list(path.parent.iterdir())


def test_second_folder_takes_what_the_first_does_not(tmp_path: Path) -> None:
    """A folder that cannot be made, say: beside a broken store there is the runtime directory."""
    (tmp_path / "file").write_text("")
    spool = renewals_spool([tmp_path / "file" / "spool", tmp_path / "runtime"])

    path = spool.write(ENCRYPTED)

    assert path is not None
    assert tmp_path / "runtime" == path.parent
    assert [(path, ENCRYPTED)] == spool.read()


def test_nowhere_to_write_is_no_error(tmp_path: Path) -> None:
    """The token set is in memory still, and is tried again."""
    (tmp_path / "file").write_text("")

    assert renewals_spool([tmp_path / "file" / "spool"]).write(ENCRYPTED) is None
    assert renewals_spool([]).write(ENCRYPTED) is None


def test_files_that_are_not_whole_are_left_alone(tmp_path: Path) -> None:
    """Cut, foreign, of another shape, unfinished: they neither stop the start nor vanish."""
    spool = renewals_spool([tmp_path])
    path = spool.write(ENCRYPTED)
    assert path is not None
    whole = path.read_bytes()
    others = {
        "cut.tokens": whole[:-5],
        "empty.tokens": b"",
        "list.tokens": b"[]",
        "other.tokens": b'{"parent": {"name": "acme"}}',
        "binary.tokens": b"\xff\x00",
        "unfinished.part": whole,
        "number.tokens": whole.replace(b'"generation": 7', b'"generation": "7"'),
        "missing.tokens": whole.replace(b'"expires_at": ', b'"expires_at": null, "x": '),
        "huge.tokens": b"[" * 2_000_000,
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)

    assert [(path, ENCRYPTED)] == spool.read()
    assert {path.name, *others} == {file.name for file in tmp_path.iterdir()}


def test_what_was_committed_is_removed_once(tmp_path: Path) -> None:
    """Removing it again, after a crash in between, harms nothing."""
    spool = renewals_spool([tmp_path])
    kept, gone = spool.write(ENCRYPTED), spool.write(successor())
    assert kept is not None
    assert gone is not None

    spool.remove(gone)
    spool.remove(gone)

    assert [(kept, ENCRYPTED)] == spool.read()


def test_what_is_no_file_is_passed_by(tmp_path: Path) -> None:
    """A FIFO would make the start wait for ever; a link may lead anywhere."""
    spool = renewals_spool([tmp_path])
    path = spool.write(ENCRYPTED)
    assert path is not None
    os.mkfifo(tmp_path / "fifo.tokens")
    (tmp_path / "link.tokens").symlink_to(path)
    (tmp_path / "folder.tokens").mkdir()

    assert [(path, ENCRYPTED)] == spool.read()
    assert 4 == len(spool)
    assert 3 == spool.records().count("")
