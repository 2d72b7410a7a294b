"""Files of our own: 0600, rotated without breaking the chain, deleted by age, mended after a crash."""

import json
import os
import stat
from pathlib import Path

import pytest

from broker.admin.checks import audit_writable
from broker.audit.sinks import AuditFile, FileSink, files_at, last_head
from broker.audit.verify import Report, Verifier, read_files
from broker.errors import Conflict, StartRefused
from tests.audit.lines import Book, first_problem, key_of
from tests.house import OPERATOR, House

NOW = 1_800_000_000.0
DAY = 86400.0


def opened(path: Path, **more: int) -> FileSink:
    sink = FileSink(path, **more)
    sink.open()
    return sink


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def verified(files: list[AuditFile]) -> Report:
    verifier = Verifier(key_of)
    await read_files(verifier, files)
    return verifier.finish([])


async def own(house: House) -> Report:
    return await house.broker.audit.own_files(OPERATOR, request_id="test")


def ended(house: House) -> list[str]:
    return sorted(path.name for path in (house.folder / "var").glob("audit-*.jsonl"))


def test_file_is_for_its_owner_and_only_grows(tmp_path: Path) -> None:
    """0600, appended to, over restarts."""
    path = tmp_path / "new" / "audit.jsonl"
    for line in (b"one\n", b"two\n"):
        sink = opened(path)
        sink.write([line])
        sink.close()

    assert "one\ntwo\n" == path.read_text()
    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))


async def test_each_day_has_a_file_and_the_chain_goes_on(house: House) -> None:
    """Midnight is UTC's; a start on the same day goes on in the same file."""
    await house.connect()
    for _ in range(3):
        await house.get("/token/acme")
        await house.restart()
        await house.get("/token/acme")
        house.clock.advance(DAY)
    await house.get("/token/acme")

    report = await own(house)

    assert None is first_problem(report)
    assert (4, [1, 2, 3]) == (report.chains, [int(name.split("-")[1]) for name in ended(house)])
    assert "audit-000001-2027-01-16.jsonl" == ended(house)[0]


async def test_file_that_has_grown_large_is_ended(tmp_path: Path) -> None:
    """By size, between two writes."""
    book, sink = Book(), opened(tmp_path / "audit.jsonl", most_bytes=1000)
    book.start()
    for number in range(20):
        if sink.begins_file(NOW) and number:
            book.begin_file()
        book.records(f"c{number}")
        sink.write(book.lines)
        book.lines.clear()
    sink.close()

    files = files_at(tmp_path / "audit.jsonl")

    assert 5 < len(files)
    assert None is first_problem(await verified(files))


async def test_old_files_are_deleted_in_the_background(house: House) -> None:
    """Those that ended longer ago than `keep`; a line of the chain says so, and so nothing is missed."""
    house.extra += '\n[audit]\nto = { path = "var/audit.jsonl" }\nkeep = "2d"'
    house.write_config()
    await house.restart()
    await house.connect()
    for _ in range(5):
        await house.get("/token/acme")
        house.clock.advance(DAY)
        await house.clock.settle()
    await house.get("/token/acme")

    report = await own(house)

    assert ["000003", "000004", "000005"] == [name.split("-")[1] for name in ended(house)]
    assert None is first_problem(report)
    assert ["deleted by age"] == [note[-14:] for note in report.notes]


async def test_deleting_one_file_more_is_noticed(house: House) -> None:
    """Age is no excuse for what age has not deleted."""
    await house.connect()
    for _ in range(3):
        await house.get("/token/acme")
        house.clock.advance(DAY)
    await house.get("/token/acme")
    (house.folder / "var" / ended(house)[0]).unlink()

    found = first_problem(await own(house))

    assert found is not None
    assert found.startswith(f"{ended(house)[0]} line 1 has lost what was before it")


def test_half_a_line_is_cut_at_the_start(tmp_path: Path) -> None:
    """A crash in the middle of a write is nobody's edit; its record was never said to be written."""
    book, path = Book(), tmp_path / "audit.jsonl"
    book.start()
    book.records("a")
    path.write_bytes(b"".join(book.lines) + b'{"audit":1,"cha')
    path.chmod(0o600)

    sink = opened(path)
    found = sink.last()
    sink.close()

    assert (book.head, b"".join(book.lines)) == (found, path.read_bytes())


async def test_file_that_vanishes_is_begun_anew(house: House) -> None:
    """What was written to a deleted file would be lost with it; the loss before that is found."""
    path = house.folder / "var" / "audit.jsonl"
    await house.connect()
    path.unlink()

    answer = await house.get("/token/acme")

    assert 200 == answer.status
    assert ["audit.continued", "token"] == [line["action"] for line in lines_of(path)]
    found = first_problem(await own(house))
    assert found is not None
    assert found.startswith("audit.jsonl line 1 has lost what was before it")


def test_last_line_is_found_in_the_file_before(tmp_path: Path) -> None:
    """Where the newest file is empty: a crash right after a rotation."""
    book = Book()
    book.start()
    (tmp_path / "audit-000001-2027-01-15.jsonl").write_bytes(b"".join(book.lines))
    (tmp_path / "audit.jsonl").touch(0o600)

    sink = opened(tmp_path / "audit.jsonl")
    found = sink.last()
    sink.close()

    assert (book.head, None) == (found, last_head(tmp_path / "audit.jsonl"))


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda path: path.mkdir(), "cannot be written: Is a directory"),
        (lambda path: (path.touch(), path.chmod(0o644)), "chmod 600"),
        (lambda path: path.symlink_to("nowhere"), "no regular file"),
        (lambda path: path.parent.joinpath("blocker").touch(), "cannot be written: File exists"),
    ],
    ids=["folder", "open to others", "link", "below a file"],
)
def test_path_that_cannot_be_is_told_at_the_start(tmp_path: Path, prepare, told: str) -> None:  # type: ignore[no-untyped-def]  # lambdas of whatever they return
    """Waiting would not mend it, and the check says it before the start does."""
    path = tmp_path / "audit.jsonl"
    prepare(path)
    path = tmp_path / "blocker" / "audit.jsonl" if "File exists" in told else path

    assert "problem" == audit_writable(path).level

    with pytest.raises(StartRefused, match=told):
        FileSink(path).open()

    assert not list(tmp_path.glob("audit-*"))


async def test_ended_file_that_is_a_pipe_is_not_waited_for(house: House) -> None:
    """Whoever may write to the folder could hold up root's `broker audit verify`."""
    pipe = house.folder / "var" / "audit-000001-2027-01-15.jsonl"
    os.mkfifo(pipe, 0o600)

    [file, _] = files_at(house.folder / "var" / "audit.jsonl")
    with pytest.raises(OSError, match="no regular file"):
        list(file.blocks())
    with pytest.raises(Conflict, match=f"{pipe.name} cannot be read: it is no regular file"):
        await own(house)


def test_two_brokers_do_not_share_a_file(tmp_path: Path) -> None:
    """Their lines would fall into one another."""
    sink = opened(tmp_path / "audit.jsonl")

    with pytest.raises(StartRefused, match="another broker writes to"):
        FileSink(tmp_path / "audit.jsonl").open()

    sink.close()
    assert b"" == (tmp_path / "audit.jsonl").read_bytes()


def test_device_is_only_written_to(tmp_path: Path) -> None:
    """`/dev/stdout` in a container: nothing is read, locked, moved or cut there."""
    read, write = os.pipe()
    sink = opened(Path(f"/dev/fd/{write}"))

    begins = sink.begins_file(NOW)
    written = sink.write([b"one\n", b"two\n"])
    sink.close()
    os.close(write)

    assert (False, None, (2, None)) == (begins, sink.last(), written)
    assert b"one\ntwo\n" == os.read(read, 100)
    os.close(read)
