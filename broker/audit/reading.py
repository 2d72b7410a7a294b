"""Brings lines to the verifier: from files, or from wherever somebody sends them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from broker.audit.files import AuditFile
from broker.audit.verify import Place, Verifier


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
