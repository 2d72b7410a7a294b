"""What was done to lines is found, and the first bad line is named; what cannot be found is said here too."""

import hashlib
import hmac
from collections.abc import Callable

import pytest

from broker.audit.lines import Head
from tests.audit.lines import Book, first_problem, key_of, record, two_starts, verified

Lines = list[bytes]


def changed(lines: Lines) -> Lines:
    return [*lines[:2], lines[2].replace(b'"caller":"b"', b'"caller":"x"'), *lines[3:]]


def changed_place(lines: Lines) -> Lines:
    return [*lines[:2], lines[2].replace(b'"n":2', b'"n":3'), *lines[3:]]


def forged(lines: Lines) -> Lines:
    """Somebody without the key writes a line in its place, by another mac."""
    return [*lines[:2], lines[2][:-35] + b"0" * 32 + b'"}\n', *lines[3:]]


def swapped(lines: Lines) -> Lines:
    return [*lines[:1], lines[2], lines[1], *lines[3:]]


def moved_behind_the_next_start(lines: Lines) -> Lines:
    return [*lines[:4], lines[5], lines[4], *lines[6:]]


DONE_TO: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "changed": (changed, "line 3 was changed"),
    "place changed": (changed_place, "line 3 has lost 1 line before it"),
    "forged": (forged, "line 3 was changed"),
    "torn": (lambda lines: [*lines[:2], lines[2][:40], *lines[3:]], "line 3 is not a line of the audit"),
    "added": (lambda lines: [*lines[:2], b"hello\n", *lines[2:]], "line 3 is not a line of the audit"),
    "removed": (lambda lines: lines[:2] + lines[3:], "line 3 has lost 1 line before it"),
    "two removed": (lambda lines: lines[:1] + lines[3:], "line 2 has lost 2 lines before it"),
    "twice": (lambda lines: lines[:3] + lines[2:], "line 4 is there twice, or in the wrong order"),
    "swapped": (swapped, "line 2 has lost 1 line before it"),
    "end of a start removed": (
        lambda lines: lines[:3] + lines[5:],
        "line 4 has lost 2 lines before it: the end of a start",
    ),
    "moved behind the next start": (
        moved_behind_the_next_start,
        "line 5 has lost 1 line before it: the end of a start",
    ),
    "beginning removed": (lambda lines: lines[1:], "line 1 has lost what was before it"),
    "start's first line removed": (lambda lines: lines[:5] + lines[6:], "line 6 has lost what was before it"),
    "two starts in the wrong order": (
        lambda lines: lines[5:] + lines[:5],
        "line 1 has lost what was before it",
    ),
}


@pytest.mark.parametrize("name", DONE_TO)
def test_first_bad_line_is_named(name: str) -> None:
    """In the row as it was found, and in words."""
    harm, expected = DONE_TO[name]
    book = two_starts()

    found = first_problem(verified(harm(book.lines), book.head))

    assert found is not None
    assert expected == found.partition(": chain")[0]


def test_whole_audit_is_whole() -> None:
    """Every line of both starts, and no complaint."""
    book = two_starts()

    report = verified(book.lines, book.head)

    assert (9, 2, [], []) == (report.lines, report.chains, list(report.problems), list(report.notes))


def test_cut_end_is_found_where_the_broker_knows_its_head() -> None:
    """The line that was written last is in the store and in the running broker."""
    book = two_starts()

    found = first_problem(verified(book.lines[:-2], book.head))

    assert f"2 lines are missing at the end: chain {book.head.chain} went on to line 3" == found


def test_cut_end_is_found_at_the_next_start() -> None:
    """Each start names the head that it follows."""
    book = two_starts()
    del book.lines[-2:]
    book.start(book.head)

    assert "line 8 has lost 2 lines before it: the end of a start" == first_problem(verified(book.lines))


def test_start_that_is_gone_whole_is_missed() -> None:
    """Though what is left is whole in itself."""
    book = two_starts()
    book.start(book.head)

    found = first_problem(verified([*book.lines[:5], *book.lines[9:]], book.head))

    assert found is not None
    assert found.startswith("line 6 has lost what was before it")


def test_everything_gone_is_missed() -> None:
    """The store knows that there was something."""
    book = two_starts()

    found = first_problem(verified([], book.head))

    assert f"4 lines are missing at the end: chain {book.head.chain} went on to line 3" == found


def test_lines_behind_the_stored_head_are_in_order() -> None:
    """A crash leaves an older head in the store; the next start names it, and what the file has."""
    book = Book()
    book.start()
    book.records("a")
    stored = book.head
    book.records("b", "c")
    book.start(stored)

    assert None is first_problem(verified(book.lines, stored))


def test_file_can_be_verified_without_the_one_before() -> None:
    """Its first line holds the mac it follows; that the file before is missing is told all the same."""
    book = two_starts()
    book.begin_file()
    book.records("g")

    report = verified(book.lines[9:], book.head)

    assert ["has lost what was before it"] == [one.what.partition(":")[0] for one in report.problems]
    assert None is first_problem(verified(book.lines[9:], book.head, whole=False))


def test_what_was_deleted_by_age_is_not_missed() -> None:
    """A line of the chain itself says so, and somebody who deletes a file cannot write it."""
    book = two_starts()
    last = book.head
    book.begin_file()
    book.expire("audit-000001-2027-01-15.jsonl", last)

    report = verified(book.lines[9:], book.head)

    assert (None, ["what was before line 1 was deleted by age"]) == (
        first_problem(report),
        list(report.notes),
    )


def test_another_file_deleted_than_was_said_is_missed() -> None:
    """The line names the end of what it deleted."""
    book = two_starts()
    book.begin_file()
    book.expire("audit-000001-2027-01-15.jsonl", Head(book.head.chain, 1, "0" * 32))

    found = first_problem(verified(book.lines[9:], book.head))

    assert found is not None
    assert found.startswith("line 1 has lost what was before it")


def test_journal_is_read_between_other_lines() -> None:
    """What stands around the lines is skipped; a line that was made unreadable is missed."""
    book = two_starts()
    noise = [b'{"event":"broker.started"}\n', *book.lines[:3], b"\xff\xfe\n", *book.lines[3:]]

    clean = verified(noise, book.head, mixed=True)
    harmed = verified([*noise[:2], b"x" + noise[2], *noise[3:]], book.head, mixed=True)

    assert (None, 9) == (first_problem(clean), clean.lines)
    assert "line 4 has lost 1 line before it" == first_problem(harmed)


def test_excerpt_is_verified_as_far_as_it_goes() -> None:
    """Of the first line only its successors are sure; that is said, and everything else is found."""
    book = two_starts()
    excerpt = book.lines[2:8]

    clean = verified(excerpt, whole=False)
    harmed = verified([*excerpt[:4], excerpt[4].replace(b"acme", b"acmf"), *excerpt[5:]], whole=False)

    assert (None, 1) == (first_problem(clean), len(clean.notes))
    assert "line 5 was changed" == first_problem(harmed)


def test_lines_of_two_replicas_may_lie_in_one_journal() -> None:
    """Each goes its own way."""
    one, two = Book(), Book()
    for book, names in ((one, "abc"), (two, "xyz")):
        book.start()
        book.records(*names)
    mingled = [line for pair in zip(one.lines, two.lines, strict=True) for line in pair]

    assert None is first_problem(verified(mingled, one.head, two.head))


@pytest.mark.parametrize("number", range(9))
def test_no_byte_of_a_line_can_change_unnoticed(number: int) -> None:
    """Whatever is flipped, wherever: the audit is not whole any more."""
    book = two_starts()
    line = book.lines[number].rstrip(b"\n")

    unnoticed = [
        place
        for place in range(len(line))
        if not verified(
            [
                *book.lines[:number],
                line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :],
                *book.lines[number + 1 :],
            ],
            book.head,
        ).problems
    ]

    assert [] == unnoticed


def test_line_of_the_format_is_frozen() -> None:
    """Who verifies years later needs the same bytes: HMAC-SHA256 over the mac before and the line, cut to 128 bits."""
    book = Book()
    book.start()
    head = book.head
    book.write(record("a"))

    line = book.lines[1].decode()

    text = (
        f'{{"audit":1,"chain":"{head.chain}","n":1,"at":"2027-01-15T08:00:00.000Z","caller":"a","credential":"key k"'
        ',"action":"token","account":"acme","decision":"allowed","request_id":"r-a","generation":1'
        ',"fingerprint":"ffffffffffffffff"'
    )
    mac = hmac.new(key_of(head.chain), (head.mac + text).encode(), hashlib.sha256).hexdigest()[:32]
    assert f'{text},"mac":"{mac}"}}\n' == line
