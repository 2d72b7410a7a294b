"""Callers who ask all the time, and what they were given: evidence against tokens released before they are durable."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp

from tests.proof.stand import Stand

PAUSE = 0.02


@dataclass(slots=True)
class Witness:
    """What callers got for each account: the token of each generation."""

    seen: dict[str, dict[int, str]] = field(default_factory=dict)
    answers: int = 0
    changed: list[str] = field(default_factory=list)
    """Accounts of which one generation was answered with two tokens."""

    def note(self, name: str, generation: int, token: str) -> None:
        self.answers += 1
        if self.seen.setdefault(name, {}).setdefault(generation, token) != token:
            self.changed.append(name)

    def early(self, stand: Stand) -> set[str]:
        """The accounts of which a caller holds a token that is newer than the store's: released too early."""
        rows = stand.rows()
        return {name for name, tokens in self.seen.items() if max(tokens) > rows[name].generation}

    async def ask(self, stand: Stand, name: str) -> int:
        """Ask once and use what comes; the status, 0 where the broker is dead."""
        with suppress(aiohttp.ClientError):
            answer = await stand.ask("GET", f"/token/{name}")
            if answer.status == 200:
                self.note(name, answer.json["generation"], answer.json["access_token"])
                await stand.use(answer.json["access_token"])
            return answer.status
        return 0

    async def _go_on_asking(self, stand: Stand, name: str) -> None:
        while True:
            await self.ask(stand, name)
            await asyncio.sleep(PAUSE)


@asynccontextmanager
async def watching(stand: Stand, witness: Witness) -> AsyncIterator[Witness]:
    """While this lasts, one caller for each account asks and uses, over deaths and restarts."""
    async with asyncio.TaskGroup() as callers:
        tasks = [callers.create_task(witness._go_on_asking(stand, name)) for name in stand.number]
        try:
            yield witness
        finally:
            for task in tasks:
                task.cancel()
