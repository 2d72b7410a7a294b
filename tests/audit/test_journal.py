"""The journal's native socket: one datagram a line; a journal that is gone is noticed, and waited for."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.audit.sinks import JournalSink
from tests.audit.lines import first_problem, two_starts, verified


@pytest.fixture(name="address")
def _address(tmp_path: Path) -> str:
    return str(tmp_path / "journal")


def listening(address: str) -> socket.socket:
    """Somebody at the journal's socket."""
    Path(address).unlink(missing_ok=True)
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(address)
    journal.setblocking(False)
    return journal


@pytest.fixture(name="journal")
def _journal(address: str) -> Iterator[socket.socket]:
    with listening(address) as journal:
        yield journal


def received(journal: socket.socket) -> list[bytes]:
    """The entries that have come."""
    entries = []
    while True:
        try:
            entries.append(journal.recv(65536))
        except BlockingIOError:
            return entries


def messages(entries: list[bytes]) -> list[bytes]:
    """What `journalctl -o cat` prints of entries, by the native protocol."""
    fields = [dict(field.split(b"=", 1) for field in entry.splitlines()) for entry in entries]
    return [entry[b"MESSAGE"] + b"\n" for entry in fields]


def test_each_line_is_an_entry(address: str, journal: socket.socket) -> None:
    """With a field to find it by; what comes out of the journal is verified as it stands."""
    book, sink = two_starts(), JournalSink(address)

    written = sink.write(book.lines[:5])
    entries = received(journal)
    sink.close()

    assert ((5, None), book.lines[:5]) == (written, messages(entries))
    assert all(b"TOKEN_BROKER_AUDIT=1\n" in entry for entry in entries)
    assert None is first_problem(verified(messages(entries)))


def test_journal_that_is_gone_is_noticed_and_come_back_to(address: str) -> None:
    """Also when it goes while we are connected."""
    book, sink = two_starts(), JournalSink(address)
    absent = sink.write(book.lines[:2])
    with listening(address) as journal:
        there = sink.write(book.lines[:2])
        first = received(journal)
    gone = sink.write(book.lines[2:4])
    with listening(address) as journal:
        back = sink.write(book.lines[2:])
        second = received(journal)
    sink.close()

    assert (0, 0, (2, None), (7, None)) == (absent[0], gone[0], there, back)
    assert (FileNotFoundError, ConnectionRefusedError) == (type(absent[1]), type(gone[1]))
    assert book.lines == messages([*first, *second])


def test_journal_that_does_not_read_is_not_waited_for_long(address: str, journal: socket.socket) -> None:
    """Its queue is full: what went in counts, the rest is tried again, in order."""
    book, sink = two_starts(), JournalSink(address, patience=0.01)
    book.records(*(f"c{number}" for number in range(2000)))

    count, error = sink.write(book.lines)
    entries = received(journal)
    rest = sink.write(book.lines[count : count + 2])
    sink.close()

    assert 0 < count < len(book.lines)
    assert isinstance(error, TimeoutError)
    assert (2, None) == rest
    assert book.lines[: count + 2] == messages([*entries, *received(journal)])
