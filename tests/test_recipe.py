"""The recipe for moving grants, followed to the letter."""

import json
import re
from pathlib import Path
from typing import Any

from broker.accounts.routes import AccountRoutes
from broker.http.operations import operation_of
from tests.commanding import commands_at
from tests.foreign import issued_elsewhere, write_lines
from tests.house import House
from tests.pages import section

RECIPE = section("From your own table or another broker")


def example_lines() -> list[dict[str, Any]]:
    """The recipe's own lines, with tokens that the sandbox issued still missing."""
    found = re.search(r"```jsonl\n(.*?)```", RECIPE, re.DOTALL)
    assert found
    return [json.loads(line) for line in found[1].strip().splitlines()]


async def test_recipe_moves_its_own_lines(house: House, tmp_path: Path) -> None:
    """What it shows is taken as it stands; the second time nothing is left to do."""
    kit, kustomer = example_lines()
    [of_kit] = issued_elsewhere(house, 1)
    [of_kustomer] = issued_elsewhere(house, 1, provider="kustomer")
    kit["refresh_token"] = of_kit.refresh
    kustomer |= {"refresh_token": of_kustomer.refresh, "access_token": of_kustomer.access.value}
    file = write_lines(tmp_path / "grants.jsonl", [kit, kustomer])

    async with commands_at(house) as commands:
        first = await commands.run("accounts", "import", str(file))
        second = await commands.run("accounts", "import", str(file))

    assert {"acme: imported, active", "zenith: imported, active"} <= set(first.stdout.splitlines())
    assert (0, 0) == (first.exit_code, second.exit_code)
    assert second.stdout.endswith("0 imported, 2 skipped because they exist already.\n")
    assert 1 == await house.refreshes()


def test_recipe_shows_every_member() -> None:
    """Of what an import takes, none is left out and none is made up."""
    shown = set().union(*example_lines())
    selected = set(re.findall(r"'(\w+)', ", RECIPE)) - {"kit"}

    declared = operation_of(AccountRoutes.add, "/accounts")
    assert declared is not None
    assert set(declared.allowed) == shown
    assert {"name", "provider", "refresh_token"} == selected


def test_recipe_stops_the_old_system_first() -> None:
    """Before anything is written out or imported."""
    steps = re.findall(r"^\d\. (.*)", RECIPE, re.MULTILINE)
    [stop] = [number for number, step in enumerate(steps) if "Stop the old system" in step]
    [write] = [number for number, step in enumerate(steps) if step.startswith("Write its grants")]

    assert stop < write < len(steps)
