"""The chain of lines: each holds its number and an HMAC over itself and the line before. Pure.

A line is `{"audit":1,"chain":"<16 hex>","n":<number>,…,"mac":"<32 hex>"}`. The mac is HMAC-SHA256, cut to 128 bits
(RFC 2104, 5), over the mac of the line before and the line up to its own `,"mac"`. Each start has a chain and a key
of its own, derived from the index key of the ring.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

KeyOf = Callable[[str], bytes]
"""The key of a chain, by the chain's id."""

LINE = re.compile(
    rb'(\{"audit":1,"chain":"([0-9a-f]{16})","n":(0|[1-9]\d{0,17}),".*),"mac":"([0-9a-f]{32})"\}'
)
MAC_LENGTH = 32
MAC_PLACE = slice(-MAC_LENGTH - 3, -3)
"""Where the mac stands in a line, its newline included."""


@dataclass(frozen=True, slots=True)
class Head:
    """A line by its place and mac: whoever knows it knows all before it."""

    chain: str
    n: int
    mac: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line, taken apart; nothing of it is verified yet."""

    head: Head
    text: bytes
    """What the mac is over, besides the mac before."""


def parse_line(line: bytes) -> Line | None:
    """A line of the audit, None where it is none."""
    found = LINE.fullmatch(line.rstrip(b"\r\n"))
    if found is None:
        return None
    return Line(Head(found[2].decode(), int(found[3]), found[4].decode()), found[1])


class Macs:
    """Computes the macs of one chain."""

    def __init__(self, key: bytes) -> None:
        # Copied for each line: preparing the key costs as much as the line.
        self._keyed = hmac.new(key, digestmod="sha256")

    def of(self, previous: str, text: bytes) -> str:
        mac = self._keyed.copy()
        mac.update(previous.encode() + text)
        return mac.hexdigest()[:MAC_LENGTH]


class Chain:
    """The chain of one start; `head` is its last line that was written."""

    def __init__(self, key_of: KeyOf) -> None:
        chain = secrets.token_hex(8)
        self._macs = Macs(key_of(chain))
        self.head = Head(chain, -1, "")

    def lines(self, bodies: Sequence[str]) -> list[bytes]:
        """The lines that come next. They count only once `advance` says that they are written."""
        chain, n, mac = self.head.chain, self.head.n, self.head.mac
        lines = []
        for body in bodies:
            n += 1
            text = f'{{"audit":1,"chain":"{chain}","n":{n},{body}'.encode()
            mac = self._macs.of(mac, text)
            lines.append(b'%b,"mac":"%b"}\n' % (text, mac.encode()))
        return lines

    def advance(self, written: Sequence[bytes]) -> None:
        """These lines are out."""
        if written:
            mac = written[-1][MAC_PLACE].decode()
            self.head = Head(self.head.chain, self.head.n + len(written), mac)
