"""Keys are replaced again and again under load: no request fails, no renewal is lost, and every old key is dropped."""

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli import broker as command_line
from broker.cli.command import CommandContext
from broker.sandbox.faults import Mode
from tests.proof.stand import Stand, open_stand
from tests.until import moment

pytestmark = pytest.mark.slow

ACCOUNTS = tuple(f"kit-{number:02}" for number in range(24))
CLIENTS = 8
LIFE = 3.0
"""Seconds; of every token, so that each is renewed over and over meanwhile."""
BETWEEN = 1.0
SETTLED_WITHIN = 60.0
MEANT = {("GET", 200), ("POST", 200), ("POST", 429)}
"""A second forced renewal within a minute is refused, and that is no failure."""


async def _client(
    stand: Stand, chance: random.Random, met: Counter[tuple[str, int]], over: asyncio.Event
) -> None:
    """Asks for tokens; one request in ten demands a renewal, one in ten says that the token was refused."""
    while not over.is_set():
        name, dice = chance.choice(ACCOUNTS), chance.random()
        if dice < 0.1:
            answer = await stand.ask("POST", f"/token/{name}/refresh")
            met["POST", answer.status] += 1
            continue
        answer = await stand.ask("GET", f"/token/{name}")
        met["GET", answer.status] += 1
        if dice > 0.9 and answer.status == 200:
            rejected = {"rejected_generation": answer.json["generation"]}
            met["POST", (await stand.ask("POST", f"/token/{name}/refresh", rejected)).status] += 1


async def _typed(stand: Stand, *words: str) -> str:
    """What `broker keys` prints, asking the broker over its admin socket."""
    context = CommandContext(config=str(stand.process.config), environ={})
    result = await asyncio.to_thread(CliRunner().invoke, command_line, ["keys", *words], obj=context)
    assert 0 == result.exit_code, (words, result.stderr)
    return result.stdout


async def _replace_keys(stand: Stand) -> None:
    """As an operator types it: new, rewrap, drop."""
    keys = json.loads(await _typed(stand, "list", "--json"))["keys"]
    [old] = [key["kid"] for key in keys if (key["purpose"], key["state"]) == ("data", "active")]
    await _typed(stand, "new")
    await _typed(stand, "rewrap")
    await _typed(stand, "drop", old, "--yes")
    await asyncio.sleep(BETWEEN)


@pytest.mark.parametrize(
    ("mode", "keys"),
    [
        pytest.param(Mode.STRICT, 4),
        pytest.param(Mode.STRICT, 15, marks=pytest.mark.proof),
        pytest.param(Mode.ON_USE, 15, marks=pytest.mark.proof),
    ],
)
async def test_keys_are_replaced_under_load(tmp_path: Path, mode: Mode, keys: int) -> None:
    """Eight clients ask and force renewals of tokens that live three seconds, through so many new keys."""
    chance, met, over = random.Random(7), Counter[tuple[str, int]](), asyncio.Event()
    async with open_stand(tmp_path / "run", mode, *ACCOUNTS, life=LIFE) as stand:
        before = stand.renewals()
        clients = [asyncio.create_task(_client(stand, chance, met, over)) for _ in range(CLIENTS)]

        for _ in range(keys):
            await _replace_keys(stand)
        over.set()
        await asyncio.gather(*clients)

        # A renewal of the background's may be under way just now; what is lost stays so.
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_WITHIN):
                while stand.uncommitted():
                    await moment()

        renewals = stand.renewals() - before
        failures = sum(count for outcome, count in met.items() if outcome not in MEANT)
        listed = await _typed(stand, "list", "--json")
        print(
            f"{mode}: {sum(met.values())} requests of {CLIENTS} clients, {renewals} renewals, {keys} keys replaced,"
            f" {failures} failures"
        )
        assert 0 == failures, met
        assert renewals > keys // 3 * len(ACCOUNTS)
        assert keys == listed.count('"retired"')
        assert (set(), {}, 0) == (stand.uncommitted(), stand.dead(), stand.overlaps())
