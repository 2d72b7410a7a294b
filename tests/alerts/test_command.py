"""The command: no shell, JSON on standard input, nothing inherited, an end to everything."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from broker.alerts.hooks import Alert, Command, Failed
from tests.alerts.conftest import happen
from tests.fakes.clock import FakeClock
from tests.house import House, open_house
from tests.until import moment

ALERT = Alert("evt_1", b'{"event":"connected"}')


def python(folder: Path, source: str, *arguments: str) -> Command:
    """A command that runs this source."""
    program = folder / "program.py"
    program.write_text(source)
    return Command((sys.executable, str(program), *arguments), clock=FakeClock())


@asynccontextmanager
async def paging(folder: Path, source: str) -> AsyncIterator[House]:
    """A house whose command is this shell script, named as the file may name it: relative to itself."""
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "page").write_text(f"#!/bin/sh\n{source}\n")
    (folder / "page").chmod(0o755)
    async with open_house(folder, extra='[alerts]\ncommand = ["./page", "$HOME; true"]\n') as house:
        await house.broker.alerts.command.round()
        yield house


async def test_event_comes_on_standard_input_and_arguments_as_they_stand(tmp_path: Path) -> None:
    """No shell looks at them."""
    folder = tmp_path / "house"
    async with paging(folder, f'echo "$1" > {folder}/argument; cat > {folder}/event') as house:
        await house.connect()
        await house.broker.alerts.command.round()

    event = json.loads((folder / "event").read_text())
    assert ("connected", "acme") == (event["event"], event["account"])
    assert "$HOME; true\n" == (folder / "argument").read_text()


async def test_environment_holds_nothing_of_ours(tmp_path: Path) -> None:
    """A path and a language, where ours holds more; and no open file of the broker."""
    source = f"""
import json, os
with open({str(tmp_path / "seen")!r}, "w") as seen:
    json.dump([dict(os.environ), os.listdir("/proc/self/fd")], seen)
"""

    outcome = await python(tmp_path, source).deliver(ALERT)
    environment, files = json.loads((tmp_path / "seen").read_text())

    assert outcome is None
    # Python adds LC_CTYPE itself; 3 and 4 are the program's own two files.
    assert {"LANG", "PATH"} == set(environment) - {"LC_CTYPE"}
    assert "HOME" in os.environ
    assert {"0", "1", "2", "3", "4"} >= set(files)


async def test_failure_says_the_code_and_the_first_of_its_words(tmp_path: Path) -> None:
    """Cut, on one line, whatever it wrote."""
    source = "import sys; sys.stderr.write('no\\tpager\\n' + 'x' * 10_000_000); sys.exit(3)"

    outcome = await python(tmp_path, source).deliver(ALERT)

    assert isinstance(outcome, Failed)
    assert outcome.why.startswith("exit 3: no pager xxx")
    assert len(outcome.why) < 220


async def test_flood_of_output_is_thrown_away(tmp_path: Path) -> None:
    """A hundred megabytes on both, and it ends all the same."""
    source = "import os\nfor _ in range(1600):\n    os.write(1, b'x' * 65536)\n    os.write(2, b'x' * 8192)"

    assert await python(tmp_path, source).deliver(ALERT) is None


async def test_command_that_reads_nothing_is_no_trouble(tmp_path: Path) -> None:
    """Its input is a file, not a pipe that somebody has to empty."""
    outcome = await python(tmp_path, "pass").deliver(Alert("evt_1", b"x" * 1_000_000))

    assert outcome is None


async def test_missing_program_is_a_failure() -> None:
    """Said by its kind, and tried again later as any other."""
    outcome = await Command(("/no/such/program",), clock=FakeClock()).deliver(ALERT)

    assert Failed("cannot be run (FileNotFoundError)") == outcome


async def test_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """At the time limit; nothing of it is left."""
    clock = FakeClock()
    command = Command(("/bin/sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/pid; wait"), clock=clock)
    running = asyncio.create_task(command.deliver(ALERT))
    pid = await _number_in(tmp_path / "pid")

    # The program may have written before the broker has begun to count its time.
    while not running.done():
        clock.advance(31)
        await moment()
    outcome = await running

    assert Failed("ran longer than 30 s and was killed") == outcome
    assert await _is_gone(pid)


async def test_command_is_killed_when_the_broker_stops(tmp_path: Path) -> None:
    """At once, and the alert is told after the restart."""
    folder = tmp_path / "house"
    async with paging(folder, f"echo $$ > {folder}/pid; [ -e {folder}/quick ] || sleep 1000") as house:
        running = asyncio.create_task(house.broker.alerts.run())
        await house.connect()
        house.clock.advance(1)
        pid = await _number_in(folder / "pid")

        await house.broker.alerts.stop(running)
        gone = await _is_gone(pid)
        left = await house.broker.context.stores.alerts.deliveries("command")
        (folder / "quick").touch()
        await house.restart()
        house.clock.advance(60)
        await house.broker.alerts.command.round()
        after = await house.broker.context.stores.alerts.deliveries("command")

    assert gone
    assert (1, 0) == (len(left), len(after))


async def test_failed_command_is_tried_again(tmp_path: Path) -> None:
    """As a webhook is: an alert that nobody got is no alert."""
    folder = tmp_path / "house"
    async with paging(folder, f"echo x >> {folder}/runs; [ -e {folder}/mended ]") as house:
        await happen(house, "acme")
        await house.broker.alerts.command.round()
        (folder / "mended").touch()
        house.clock.advance(5)
        await house.broker.alerts.command.round()
        left = await house.broker.context.stores.alerts.deliveries("command")

    assert ("x\nx\n", []) == ((folder / "runs").read_text(), left)


async def _number_in(path: Path) -> int:
    async with asyncio.timeout(60):
        while not (path.exists() and path.read_text().strip()):
            await moment()
    return int(path.read_text())


async def _is_gone(pid: int) -> bool:
    """Whether the process has ended; killed ones need a moment."""
    with suppress(ProcessLookupError, FileNotFoundError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            await moment()
    return True
