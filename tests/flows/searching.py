"""Where a secret may have been left, and the search for it."""

import hashlib
import re
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.process import Process

SANDBOX_TOKEN = re.compile(rb"sbx-[a-z]{3,9}-[a-z]+-[A-Za-z0-9_-]{16,}")
"""Whatever the sandbox makes up: codes, access and refresh tokens."""
VERIFIER_LENGTH = 64


@dataclass(slots=True)
class Haul:
    """What was used, and what was answered."""

    known: set[str]
    challenges: set[str] = field(default_factory=set)
    """PKCE: what nobody may find the verifier of."""
    answers: dict[str, bytes] = field(default_factory=dict)

    def keep(self, name: str, head: object, body: bytes) -> None:
        self.answers[f"{name} #{len(self.answers)}"] = str(head).encode() + b"\r\n" + body


def issued(process: Process) -> set[str]:
    """Every token that the sandbox ever issued; they lie in clear in its database."""
    with closing(sqlite3.connect(process.folder / "sandbox.db")) as connection:
        tables = ("access_tokens", "refresh_tokens")
        return {value for name in tables for (value,) in connection.execute(f"SELECT value FROM {name}")}


def files(process: Process) -> dict[str, bytes]:
    """What outlives a request: what was printed, and all that lies in the broker's folder."""
    return {**{path.name: path.read_bytes() for path in process.output}, **stored(process.folder)}


def stored(folder: Path) -> dict[str, bytes]:
    """Store, WAL, audit, spool; not the master key, which is one."""
    paths = (path for path in (folder / "var").rglob("*") if path.is_file())
    return {path.name: path.read_bytes() for path in paths if path.name != "master.key"}


def kernel(process: Process) -> dict[str, bytes]:
    """What everybody on the machine may read of the process."""
    assert process.running is not None
    folder = Path("/proc") / str(process.running.pid)
    return {name: (folder / name).read_bytes() for name in ("cmdline", "environ")}


def hits(haul: Haul, searched: dict[str, bytes]) -> list[str]:
    """Where which secret was found; the secret itself is cut short."""
    found = {
        f"{place}: {secret[:12]}…"
        for place, content in searched.items()
        for secret in haul.known
        if secret.encode() in content
    }
    for place, content in searched.items():
        found |= {f"{place}: {token[:8].decode()}…" for token in SANDBOX_TOKEN.findall(content)}
        found |= {f"{place}: a verifier" for _ in verifiers(content, haul.challenges)}
    return sorted(found)


def verifiers(content: bytes, challenges: set[str]) -> Iterator[bytes]:
    """Verifiers never leave the broker but for the provider, so they are known by their hash alone."""
    for run in re.findall(rb"[A-Za-z0-9_-]{%d,}" % VERIFIER_LENGTH, content):
        for start in range(len(run) - VERIFIER_LENGTH + 1):
            verifier = run[start : start + VERIFIER_LENGTH]
            if challenge_of(verifier.decode()) in challenges:
                yield verifier


def challenge_of(verifier: str) -> str:
    """S256 (RFC 7636, 4.2)."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
