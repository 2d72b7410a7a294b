"""Brings lines to the verifier: from files, or from wherever somebody sends them. Reads what they say of accounts."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from broker.audit.chain import KeyOf, Macs, parse_line
from broker.audit.files import AuditFile, last_lines
from broker.audit.verify import Place, Verifier

READ_BACK = 4 * 1024 * 1024
ACCOUNTS_READ = 500
ADOPTED = b'"action":"adopt"'
HANDED_OUT = re.compile(
    rb'"at":"([^"]+)",.*"action":"token","account":"([^"]+)",.*"request_id":"(?:[^"\\]|\\.)*","generation":(\d+)'
)


class LineFeed:
    """Cuts blocks of one file, or of a stream, into lines."""

    def __init__(self, verifier: Verifier, file: str = "") -> None:
        self._verifier, self._file = verifier, file
        self._number, self._rest = 0, b""

    def feed(self, block: bytes) -> None:
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            self._number += 1
            self._verifier.feed(Place(self._file, self._number), line)

    def end(self) -> None:
        """There is no more; what lacks its newline is a line too."""
        if self._rest:
            self.feed(b"\n")


async def read_files(verifier: Verifier, files: Sequence[AuditFile]) -> None:
    """Every line of the files, a block at a time, so that tokens are served between; raises OSError."""
    for file in files:
        feed, blocks = LineFeed(verifier, file.name), file.blocks()
        while await asyncio.to_thread(_feed_next, feed, blocks):
            pass
        feed.end()


async def read_stream(verifier: Verifier, blocks: AsyncIterator[bytes]) -> None:
    """Every line of a stream."""
    feed = LineFeed(verifier)
    async for block in blocks:
        await asyncio.to_thread(feed.feed, block)
    feed.end()


def _feed_next(feed: LineFeed, blocks: Iterator[bytes]) -> bool:
    block = next(blocks, None)
    if block is not None:
        feed.feed(block)
    return block is not None


def last_generations(files: Sequence[Path], key_of: KeyOf, *, after: str) -> Mapping[str, int]:
    """Return the generation of which the audit last handed out a token, of the accounts that it named last.

    Only lines that verify count, and only those later than `after` and than the last adoption. `files`: newest first.
    Raises OSError.
    """
    found: dict[str, int] = {}
    left = READ_BACK
    for path in files:
        lines = last_lines(path, left)
        for before, line in reversed(list(pairwise([b"", *lines]))):
            told = HANDED_OUT.search(line)
            if ADOPTED in line and _verifies(before, line, key_of):
                return found
            if told is None or told[1].decode() <= after:
                continue
            name, generation = told[2].decode(), int(told[3])
            if found.get(name, 0) < generation and _verifies(before, line, key_of):
                found[name] = generation
            if len(found) == ACCOUNTS_READ:
                return found
        left -= sum(map(len, lines))
        if left <= 0:
            break
    return found


def _verifies(before: bytes, line: bytes, key_of: KeyOf) -> bool:
    first, second = parse_line(before), parse_line(line)
    if first is None or second is None or first.head.chain != second.head.chain:
        return False
    return Macs(key_of(second.head.chain)).of(first.head.mac, second.text) == second.head.mac
