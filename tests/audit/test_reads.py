"""While the audit's records wait, operators go on looking; what changes something is refused at once."""

import pytest

from tests.audit.unwritable import unwritable
from tests.commanding import commands_at
from tests.house import House

LOOKS = (
    ("callers", "list"),
    ("keys", "list"),
    ("providers", "list"),
    ("accounts", "list"),
    ("accounts", "show", "acme"),
    ("plugin", "grants"),
    ("events",),
    ("version", "--json"),
)
CHANGES = (
    ("callers", "add", "other", "--account", "*"),
    ("keys", "new"),
    ("providers", "resume", "kit"),
    ("accounts", "freeze", "acme"),
    ("accounts", "export", "--yes", "somewhere.jsonl"),
)


async def test_looking_goes_on_while_records_wait(house: House) -> None:
    """Just then one wants to see what is going on."""
    await house.connect()

    async with commands_at(house) as commands:
        with unwritable(house.folder / "var" / "audit.jsonl"):
            results = {words: await commands.run(*words) for words in LOOKS}

    assert {} == {words: result.stderr for words, result in results.items() if result.exit_code}
    assert '"running": null' not in results["version", "--json"].stdout


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
async def test_changing_does_not(house: House, words: tuple[str, ...]) -> None:
    """It would go unrecorded."""
    await house.connect()

    async with commands_at(house) as commands:
        with unwritable(house.folder / "var" / "audit.jsonl"):
            result = await commands.run(*words)

    assert (1, "The audit cannot be written just now, so this was not done\n".lower()) == (
        result.exit_code,
        result.stderr.lower(),
    )


async def test_doctor_says_how_many_wait_and_since_when(house: House) -> None:
    """And what to do; it is a problem, so the command fails."""
    async with commands_at(house) as commands:
        with unwritable(house.folder / "var" / "audit.jsonl"):
            await commands.run("callers", "list")
            house.clock.advance(7)
            result = await commands.run("check", "--json")

    assert 1 == result.exit_code
    assert "audit.jsonl cannot be written: 2 records waiting, the oldest for 7 s" in result.stdout
