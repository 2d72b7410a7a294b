"""R6 when the store fails: token sets stay in memory and in the rescue spool until they are durable."""

import asyncio
import secrets
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from broker.context import Context
from broker.encryption.keyring import DecryptionFailed
from broker.encryption.tokens import LATE
from broker.errors import StorageUnavailable
from broker.model import Event, Incident, Ref, Spare, Successor
from broker.store.renewals import CommitOutcome, Committed, EpochMoved, GenerationMoved
from broker.store.spool import Spool
from broker.tokens.schedule import Step, Timings, Watch

log = structlog.get_logger()


class RetainedCommits:
    """The only copies of token sets that a provider issued and the store has not taken yet."""

    def __init__(self, context: Context, *, spool: Spool[Successor], timings: Timings, watch: Watch) -> None:
        self._store, self._encryption, self._clock = (
            context.stores.accounts,
            context.encryption,
            context.clock,
        )
        self._health, self._metrics = context.health, context.metrics
        self._spool, self._timings, self._watch = spool, timings, watch
        self._tasks: dict[Ref, asyncio.Task[None]] = {}
        self._held: dict[Ref, Successor] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def records(self) -> list[str]:
        """What is sealed here and may lie nowhere else."""
        held = self._held.values()
        return [one for each in held for one in (each.sealed_access, each.sealed_refresh) if one]

    async def keep(self, successor: Successor, events: list[Event]) -> None:
        """Take charge of a set the store refused: spool it now, commit it when the store is back."""
        path = await asyncio.to_thread(self._spool.write, successor)
        self._watch(Step.SPOOLED)
        # Before anything is logged: the log may lie on the same full disk and raise.
        self._retry(successor, events, path)
        log.error("commit.retained", account=successor.parent.name, spooled=path is not None)

    async def recover(self) -> None:
        """R10: store what an earlier boot left in the spool; what the store refuses waits, and delays nobody."""
        await asyncio.gather(*(self._recover(path, successor) for path, successor in self._spool.read()))

    async def settled(self) -> None:
        """Wait until nothing is retained."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def forget(self, name: str) -> None:
        """Drop what is retained of an account that was purged, its files too."""
        tasks = [task for parent, task in self._tasks.items() if parent.name == name]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._spool.remove_those, lambda successor: successor.parent.name == name)

    async def abandon(self) -> None:
        """Stop retrying: the process ends, the spool remains."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _recover(self, path: Path, successor: Successor) -> None:
        whole = self._readable(successor)
        try:
            if whole is None:
                self._leave_alone(path, successor.parent.name)
            elif await self._is_stored(whole, [], path):
                log.warning("commit.recovered_from_spool", account=successor.parent.name)
            else:
                self._retry(whole, [], path)
        except Exception as exc:
            # Times, say, that no column takes: nothing but the tokens is sealed.
            log.error("spool.file_not_stored", file=str(path), exc_info=exc)
            self._leave_alone(path, successor.parent.name)

    def _readable(self, successor: Successor) -> Successor | None:
        """What can be decrypted of it; None where that cannot replace what the store holds, which may still work."""
        refresh = None
        try:
            refresh = self._encryption.refresh_token(successor)
            self._encryption.access_token(successor)
        except DecryptionFailed:
            # A refresh token alone is enough: it brings the next access token.
            return replace(successor, sealed_access=None, next_at=self._clock.now()) if refresh else None
        return successor

    def _leave_alone(self, path: Path, name: str) -> None:
        log.error("spool.file_damaged", file=str(path), account=name)
        self._health.raise_problem(
            "spool_damaged",
            f"a token set in the spool is damaged and was left alone: {path}; the tokens of {name} in the store"
            " go on. Look at the disk, then move the file away",
        )

    def _retry(self, successor: Successor, events: list[Event], path: Path | None) -> None:
        task = asyncio.create_task(self._commit(successor, events, path), name="retained commit")
        self._tasks[successor.parent] = task
        self._held[successor.parent] = successor
        task.add_done_callback(lambda _: self._done(successor.parent))
        self._metrics.retained_commits.set(len(self._tasks))
        self._health.raise_problem(
            Incident.COMMIT_RETAINED,
            "a renewed token cannot be stored; free disk space, and do not kill the broker",
        )

    def _done(self, parent: Ref) -> None:
        self._tasks.pop(parent, None)
        self._held.pop(parent, None)
        self._metrics.retained_commits.set(len(self._tasks))
        if not self._tasks:
            self._health.clear(Incident.COMMIT_RETAINED)

    async def _commit(self, successor: Successor, events: list[Event], path: Path | None) -> None:
        wait = self._timings.retain_first
        while not await self._is_stored(successor, events, path):
            await self._clock.sleep(wait)
            wait = min(2 * wait, self._timings.retain_most)
            if path is None:
                path = await asyncio.to_thread(self._spool.write, successor)
        log.info("commit.stored_late", account=successor.parent.name)

    async def _is_stored(self, successor: Successor, events: list[Event], path: Path | None) -> bool:
        """Try once, and forget the file where it went well."""
        try:
            await self._store_once(successor, events)
        except StorageUnavailable:
            return False
        if path is not None:
            await asyncio.to_thread(self._spool.remove, path)
        return True

    async def _store_once(self, successor: Successor, events: list[Event]) -> None:
        outcome: CommitOutcome = await self._store.commit(successor, events)
        match outcome:
            case Committed():
                return
            case GenerationMoved():
                await self._keep_as_spare(successor)
            case EpochMoved():
                log.warning("commit.superseded", account=successor.parent.name)

    async def _keep_as_spare(self, successor: Successor) -> None:
        # The same set may have been committed by the attempt that seemed to fail: then it is current already.
        current = await self._store.get(successor.parent.name)
        if current is None or successor.sealed_refresh is None:
            return
        # Compared in clear: the one or the other may have been sealed anew since. What cannot be decrypted is another.
        with suppress(DecryptionFailed):
            if self._encryption.refresh_token(successor) == self._encryption.refresh_token(current):
                return
        await self._store.add_spare(
            Spare(
                id=f"{LATE}{secrets.token_hex(8)}",
                account=successor.parent.name,
                epoch=successor.parent.epoch,
                generation=successor.parent.generation,
                sealed=successor.sealed_refresh,
                received_at=successor.refreshed_at,
            )
        )
