"""What one line of the audit says."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum, auto
from json.encoder import encode_basestring_ascii

from broker.audit.chain import Head
from broker.model import Caller
from broker.times import SecondText, to_second


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One decision. No secret, only names and fingerprints."""

    caller: str
    credential: str
    action: str
    account: str | None
    decision: str
    """`allowed` or `denied`."""
    request_id: str
    generation: int | None = None
    fingerprint: str | None = None
    """Keyed hash of the token that was handed out."""
    detail: str | None = None
    client: str | None = None
    """The caller's address."""


class Stakes(Enum):
    """What hangs on a record that cannot be written just now."""

    READ = auto()
    """It may wait in memory for a while, so that living tokens go on."""
    CHANGE = auto()
    """What it allows must not happen before it is written."""
    DONE = auto()
    """It has happened, so the record is kept whatever else waits."""


class Times:
    """Moments as RFC 3339 with milliseconds."""

    def __init__(self) -> None:
        self._seconds = SecondText(to_second)

    def text(self, at: float) -> str:
        return f"{self._seconds.of(at)}.{int(at % 1 * 1000):03d}Z"


def record_body(record: AuditRecord, at: str) -> str:
    """The members of a record's line, without its place in the chain."""
    # Written by hand: json.dumps costs more than the rest of a line together.
    quoted = encode_basestring_ascii
    account = "" if record.account is None else f',"account":{quoted(record.account)}'
    body = (
        f'"at":"{at}","caller":{quoted(record.caller)},"credential":{quoted(record.credential)}'
        f',"action":{quoted(record.action)}{account},"decision":{quoted(record.decision)}'
        f',"request_id":{quoted(record.request_id)}'
    )
    if record.generation is not None:
        body += f',"generation":{record.generation}'
    if record.fingerprint is not None:
        body += f',"fingerprint":{quoted(record.fingerprint)}'
    if record.detail is not None:
        body += f',"detail":{quoted(record.detail)}'
    if record.client is not None:
        body += f',"client":{quoted(record.client)}'
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
    """The same for a token that is about to leave, which is what nearly every line says."""
    quoted = encode_basestring_ascii
    body = (
        f'"at":"{at}","caller":{quoted(caller.name)},"credential":{quoted(caller.credential)}'
        f',"action":"token","account":{quoted(account)},"decision":"allowed"'
        f',"request_id":{quoted(request_id)},"generation":{generation},"fingerprint":"{fingerprint}"'
    )
    return body if client is None else f'{body},"client":{quoted(client)}'


def start_body(at: str, replica: str, follows: Sequence[Head]) -> str:
    """The first line of every chain: whose it is, and the heads it follows."""
    heads = ",".join(_object(asdict(head)) for head in follows)
    return (
        f'"at":"{at}","action":"audit.start","replica":{encode_basestring_ascii(replica)},"follows":[{heads}]'
    )


def continued_body(at: str, previous: str) -> str:
    """The first line of a file that goes on with a chain, so that it can be verified without the file before."""
    return f'"at":"{at}","action":"audit.continued","previous":"{previous}"'


def expired_body(at: str, file: str, last: Head) -> str:
    """A file that was as old as `audit.keep` says is about to be deleted; `last` was its end."""
    return (
        f'"at":"{at}","action":"audit.expired","file":{encode_basestring_ascii(file)}'
        f',"last":{_object(asdict(last))}'
    )


def stop_body(at: str) -> str:
    """The last line of a start that was stopped cleanly."""
    return f'"at":"{at}","action":"audit.stop"'


def _object(members: Mapping[str, str | int]) -> str:
    parts = (
        f'"{name}":{value if isinstance(value, int) else encode_basestring_ascii(value)}'
        for name, value in members.items()
    )
    return "{" + ",".join(parts) + "}"
