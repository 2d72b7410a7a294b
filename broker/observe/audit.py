"""Who asked for what, and what was decided: one JSON line each, written before the answer leaves; fails closed."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from broker.clock import Clock
from broker.errors import AuditUnavailable


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


class AuditSink(Protocol):
    """Where audit lines go."""

    def write(self, lines: bytes) -> None:
        """Append whole lines; raises OSError."""
        ...

    def close(self) -> None: ...


class FileSink:
    """A file of our own, 0600, appended to."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)

    def write(self, lines: bytes) -> None:
        written = os.write(self._handle, lines)
        if written != len(lines):
            raise OSError(f"wrote {written} of {len(lines)} bytes")

    def close(self) -> None:
        os.close(self._handle)


class StreamSink:
    """Standard error, which journald reads."""

    def __init__(self, handle: int = 2) -> None:
        self._handle = handle

    def write(self, lines: bytes) -> None:
        os.write(self._handle, lines)

    def close(self) -> None:
        """Standard error stays open."""


class Audit:
    """Writes records; those of one turn of the event loop share a write."""

    def __init__(
        self, *, sink: AuditSink, clock: Clock, failed: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._sink, self._clock, self._failed = sink, clock, failed
        self._waiting: list[bytes] = []
        self._flush: asyncio.Future[None] | None = None

    async def record(self, record: AuditRecord) -> None:
        """Return once the record is written; raises AuditUnavailable, and then nothing may be handed out."""
        loop = asyncio.get_running_loop()
        self._waiting.append(self._line(record))
        if self._flush is None:
            self._flush = loop.create_future()
            loop.call_soon(self._write)
        await asyncio.shield(self._flush)

    def close(self) -> None:
        self._sink.close()

    def _line(self, record: AuditRecord) -> bytes:
        at = datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds")
        members: dict[str, Any] = {"audit": 1, "at": at.replace("+00:00", "Z")}
        for name in AuditRecord.__slots__:
            if (value := getattr(record, name)) is not None:
                members[name] = value
        return json.dumps(members, separators=(",", ":")).encode() + b"\n"

    def _write(self) -> None:
        lines, self._waiting = b"".join(self._waiting), []
        flush, self._flush = self._flush, None
        if flush is None:
            return
        try:
            self._sink.write(lines)
        except OSError as exc:
            self._failed(True)
            error = AuditUnavailable(f"the audit cannot be written (errno {exc.errno})", retry_after=1)
            flush.set_exception(error)
            flush.exception()
        else:
            self._failed(False)
            flush.set_result(None)
