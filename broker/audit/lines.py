"""The lines of the audit, and the chain that links each line to the one before with a number and an HMAC.

A line is `{"audit":1,"chain":"<16 hex>","n":<number>,…,"mac":"<32 hex>"}`. The mac is HMAC-SHA256, cut to 128 bits
(RFC 2104, 5), over the mac of the line before and the line up to its own `,"mac"`. Each start of the broker has a chain
and a key of its own, which is derived from the index key of the keyring.
"""

import hmac
import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum, auto
from json.encoder import encode_basestring_ascii

from broker.model import Caller
from broker.times import SecondText, to_second

KeyOf = Callable[[str], bytes]
"""Returns the key of a chain, given the chain's id."""

LINE = re.compile(
    rb'(\{"audit":1,"chain":"([0-9a-f]{16})","n":(0|[1-9]\d{0,17}),".*),"mac":"([0-9a-f]{32})"\}'
)
MAC_LENGTH = 32
MAC_PLACE = slice(-MAC_LENGTH - 3, -3)
"""The place of the mac in a line with its newline."""


@dataclass(frozen=True, slots=True)
class Head:
    """The place of a line in its chain, and its mac, which covers every line before it."""

    chain: str
    n: int
    mac: str

    def json(self) -> str:
        """The head as a member of a line."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed line, not yet verified."""

    head: Head
    text: bytes
    """The part that the mac covers, besides the mac of the line before."""


def parse_line(line: bytes) -> Line | None:
    """Parse a line; return None if it is not a line of the audit."""
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
        """Return the mac of a line, given the mac of the line before."""
        mac = self._keyed.copy()
        mac.update(previous.encode() + text)
        return mac.hexdigest()[:MAC_LENGTH]


class Chain:
    """The chain of one start; `head` is its last written line."""

    def __init__(self, key_of: KeyOf) -> None:
        chain = secrets.token_hex(8)
        self._macs = Macs(key_of(chain))
        self.head = Head(chain, -1, "")

    def lines(self, bodies: Sequence[str]) -> list[bytes]:
        """Return the next lines. They become part of the chain when `advance` is called with them."""
        chain, n, mac = self.head.chain, self.head.n, self.head.mac
        lines = []
        for body in bodies:
            n += 1
            text = f'{{"audit":1,"chain":"{chain}","n":{n},{body}'.encode()
            mac = self._macs.of(mac, text)
            lines.append(b'%b,"mac":"%b"}\n' % (text, mac.encode()))
        return lines

    def advance(self, written: Sequence[bytes]) -> None:
        """Note that these lines are written."""
        if written:
            mac = written[-1][MAC_PLACE].decode()
            self.head = Head(self.head.chain, self.head.n + len(written), mac)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One authorization decision, without secrets: only names and fingerprints."""

    caller: Caller
    action: str
    account: str | None
    request_id: str
    detail: str | None = None
    allowed: bool = True


class Stakes(Enum):
    """The treatment of a request whose record cannot be written at the moment."""

    READ = auto()
    """The record may wait in memory for a while, so that valid tokens are still served."""
    CHANGE = auto()
    """The action that it allows must not happen before it is written."""
    DONE = auto()
    """The action has happened, so the record is kept whatever else waits."""


class Times:
    """Formats times as RFC 3339 with milliseconds."""

    def __init__(self) -> None:
        self._seconds = SecondText(to_second)

    def text(self, at: float) -> str:
        """Format epoch seconds."""
        return f"{self._seconds.of(at)}.{int(at % 1 * 1000):03d}Z"


def record_body(record: AuditRecord, at: str) -> str:
    """Return the members of a record's line that follow its number in the chain."""
    # Not with json.dumps, which would take more time than the rest of the line.
    quoted = encode_basestring_ascii
    account = "" if record.account is None else f',"account":{quoted(record.account)}'
    body = (
        f'"at":"{at}","caller":{quoted(record.caller.name)},"credential":{quoted(record.caller.credential)}'
        f',"action":{quoted(record.action)}{account},"decision":"{"allowed" if record.allowed else "denied"}"'
        f',"request_id":{quoted(record.request_id)}'
    )
    if record.detail is not None:
        body += f',"detail":{quoted(record.detail)}'
    if record.caller.address is not None:
        body += f',"client":{quoted(record.caller.address)}'
    return body


def token_body(
    caller: Caller,
    account: str,
    at: str,
    *,
    request_id: str,
    generation: int,
    fingerprint: str,
    client: str | None,
) -> str:
    """Return the same for an access token that is about to be issued, the most frequent record."""
    quoted = encode_basestring_ascii
    body = (
        f'"at":"{at}","caller":{quoted(caller.name)},"credential":{quoted(caller.credential)}'
        f',"action":"token","account":{quoted(account)},"decision":"allowed"'
        f',"request_id":{quoted(request_id)},"generation":{generation},"fingerprint":"{fingerprint}"'
    )
    return body if client is None else f'{body},"client":{quoted(client)}'


def start_body(at: str, replica: str, follows: Sequence[Head]) -> str:
    """Return the body of a chain's first line: the replica, and the heads of earlier chains that it follows."""
    heads = ",".join(head.json() for head in follows)
    return (
        f'"at":"{at}","action":"audit.start","replica":{encode_basestring_ascii(replica)},"follows":[{heads}]'
    )


def continued_body(at: str, previous: str) -> str:
    """Return the body of a file's first line if a chain continues in it, so that it can be verified by itself."""
    return f'"at":"{at}","action":"audit.continued","previous":"{previous}"'


def expired_body(at: str, file: str, last: Head) -> str:
    """Return the body of the line before a file older than `audit.keep` is deleted; `last` is its last line."""
    return f'"at":"{at}","action":"audit.expired","file":{encode_basestring_ascii(file)},"last":{last.json()}'


def stop_body(at: str) -> str:
    """Return the body of a chain's last line after a clean stop."""
    return f'"at":"{at}","action":"audit.stop"'
