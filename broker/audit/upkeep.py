"""The audit's regular work: what failed is tried again, the head goes into the store, old files are deleted."""

import asyncio
import json
from contextlib import suppress
from dataclasses import asdict

import structlog

from broker.audit.chain import Head
from broker.audit.files import AuditFile, FileSink, OldFile, last_head
from broker.audit.record import Stakes, Times, expired_body
from broker.audit.waiting import Audit, Backlog
from broker.clock import Clock
from broker.errors import AuditUnavailable, StorageUnavailable
from broker.store.keys import KeyStore

log = structlog.get_logger()
LOOK_EVERY = 1.0
STORE_EVERY = 15.0
DELETE_EVERY = 3600.0
META = "audit_head"


class Upkeep:
    """Looks after an audit from its start to its end."""

    def __init__(
        self,
        *,
        audit: Audit,
        files: FileSink | None,
        store: KeyStore,
        replica: str,
        clock: Clock,
        keep: float,
    ) -> None:
        self._audit, self._files, self._store, self._clock, self._keep = audit, files, store, clock, keep
        self._meta = f"{META} {replica}"
        self._stored: Head | None = None
        self._settled: Head | None = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Start the chain behind the head that an earlier start left; raises StartRefused."""
        self._stored = self._settled = await self.stored_head()
        await self._audit.begin(self._stored)
        await self._store_head()
        self._task = asyncio.create_task(self._go_round(), name="audit upkeep")

    async def close(self) -> None:
        """Write what waits and store the last head."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._audit.close()
        await self._store_head()

    async def stored_head(self) -> Head | None:
        """The head in the store: what is missing behind it was taken away."""
        text = await self._store.meta(self._meta)
        if text is None:
            return None
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            members = json.loads(text)
            return Head(str(members["chain"]), int(members["n"]), str(members["mac"]))
        # Tokens go on; whether lines are missing at the end cannot be known until the next head is stored.
        log.error("audit.head_damaged", meta=self._meta)
        return None

    @property
    def settled_head(self) -> Head | None:
        """The head of a while ago, which must have come wherever lines are read from."""
        return self._settled

    @property
    def backlog(self) -> Backlog | None:
        """What cannot be written just now; None while all is."""
        return self._audit.backlog

    @property
    def is_writing(self) -> bool:
        """Whether a line is on its way to the disk."""
        return self._audit.is_writing

    async def snapshot(self) -> tuple[list[AuditFile], Head]:
        """The files as they are between two writes, and the head there."""
        files = self._files
        return await self._audit.thread.run(
            lambda: ([] if files is None else files.snapshot(), self._audit.head)
        )

    async def _go_round(self) -> None:
        next_store = next_delete = self._clock.monotonic()
        while True:
            try:
                self._audit.look_after()
                now = self._clock.monotonic()
                if now >= next_store:
                    next_store = now + STORE_EVERY
                    await self._store_head()
                if now >= next_delete:
                    next_delete = now + DELETE_EVERY
                    await self._delete_old()
            except Exception as exc:
                log.error("audit.upkeep_failed", exc_info=exc)
            await self._clock.sleep(LOOK_EVERY)

    async def _store_head(self) -> None:
        head = self._audit.head
        self._settled = self._stored
        if head == self._stored or head.n < 0:
            return
        try:
            await self._store.set_meta(self._meta, json.dumps(asdict(head)))
        except StorageUnavailable:
            return
        self._stored = head

    async def _delete_old(self) -> None:
        """Delete files that ended longer ago than `keep`, each after a line that says so."""
        if self._files is None:
            return
        now = self._clock.now()
        for old in await self._audit.thread.run(self._files.old_files):
            if old.ended_by + self._keep > now:
                return
            try:
                await self._delete(old, now)
            except AuditUnavailable:
                return

    async def _delete(self, old: OldFile, now: float) -> None:
        last = await self._audit.thread.run(lambda: last_head(old.path))
        if last is not None:
            await self._audit.put(expired_body(Times().text(now), old.path.name, last), Stakes.CHANGE)
        await self._audit.thread.run(lambda: old.path.unlink(missing_ok=True))
        log.info("audit.file_deleted", file=old.path.name)
