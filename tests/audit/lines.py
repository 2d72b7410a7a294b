"""Chains as the broker writes them, in memory."""

import hashlib
import hmac
from collections.abc import Sequence

from broker.audit.lines import (
    Chain,
    Head,
    continued_body,
    expired_body,
    start_body,
    stop_body,
    token_body,
)
from broker.audit.verify import Place, Report, Verifier
from broker.model import Caller

AT = "2027-01-15T08:00:00.000Z"


def key_of(chain: str) -> bytes:
    return hmac.digest(b"index key", chain.encode(), hashlib.sha256)


def record(name: str) -> str:
    """A token that was handed out to `name`."""
    return token_body(
        Caller(name, (), frozenset(), "key k"),
        "acme",
        AT,
        request_id=f"r-{name}",
        generation=1,
        fingerprint="f" * 16,
        client=None,
    )


class Book:
    """What a sink would hold."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.chain = Chain(key_of)

    @property
    def head(self) -> Head:
        return self.chain.head

    def start(self, *follows: Head) -> None:
        """Begin a new chain."""
        self.chain = Chain(key_of)
        self.write(start_body(AT, "a:1", follows))

    def records(self, *names: str) -> None:
        self.write(*map(record, names))

    def begin_file(self) -> None:
        self.write(continued_body(AT, self.head.mac))

    def expire(self, file: str, last: Head) -> None:
        self.write(expired_body(AT, file, last))

    def stop(self) -> None:
        self.write(stop_body(AT))

    def write(self, *bodies: str) -> None:
        lines = self.chain.lines(bodies)
        self.chain.advance(lines)
        self.lines += lines


def two_starts() -> Book:
    """Lines 1 to 5 are the first start's, 6 to 9 the second's."""
    book = Book()
    book.start()
    book.records("a", "b", "c")
    book.stop()
    book.start(book.head)
    book.records("d", "e", "f")
    return book


def verified(lines: Sequence[bytes], *heads: Head, whole: bool = True, mixed: bool = False) -> Report:
    verifier = Verifier(key_of, whole=whole, mixed=mixed)
    for number, line in enumerate(lines, 1):
        verifier.feed(Place("", number), line.rstrip(b"\n"))
    return verifier.finish(heads)


def first_problem(report: Report) -> str | None:
    """The first bad line in words; None where all is well."""
    if not report.problems:
        return None
    problem = report.problems[0]
    return f"{problem.place} {problem.what}" if problem.place else problem.what
