"""Rules of the suite itself: no guesses of time, and slow tests are named in CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
HERE = "tests/test_suite.py"
CONTRIBUTING = (TESTS.parent / "CONTRIBUTING.md").read_text()
LEAST = 10.0
"""Seconds that a time-out around something awaited has at least: the machine may be busy."""
WAITS = {"timeout", "wait_for", "wait", "join", "result", "communicate", "run", "settimeout", "ClientTimeout"}
"""Functions that wait for something, whose time-out is then read; those of the clients besides."""
CLIENTS = {"httpx", "requests"}
NAMES = WAITS | {"sleep", "time", "monotonic", "perf_counter", "process_time"}
WORTH = re.compile(r"timeout|total=|wait_for|sleep|perf_counter|monotonic|process_time|loop(\(\))?\.time")
"""What stands in a module that is worth parsing: the words that the two checks look for."""

REAL_TIME = {
    "tests/until.py": "the one place that waits between two looks",
    "tests/fakes/clock.py": "settle() gives sockets a moment",
    "tests/lifetimes/rest.py": "the same for generated lives",
    "tests/test_clock.py": "the system's clock is what is tested",
    "tests/tokens/test_flight.py": "renewals in a line begin a real pause apart",
    "tests/hostile/test_limits.py": "a client that sends slowly",
    "tests/flows/test_client_outages.py": "tokens live for real seconds beside a program at work",
    "tests/fuzz/harness.py": "the proof generates input for so many seconds",
    "tests/audit/test_full_disk.py": "the proof keeps the disk full for a minute",
    "tests/systemd/machine.py": "tells how long systemd took",
    "tests/systemd/test_machine.py": "tells how long a stop took",
    "tests/systemd/inside.py": "callers who ask at intervals while the broker restarts",
    "tests/bench/": "measures",
    "tests/proof/": "faults at random moments, and figures that are printed",
}
"""Files that may sleep and read the machine's clock, and why."""
SHORT_WAITS = {
    "tests/tokens/test_service.py": "a caller who hangs up",
    "tests/client/test_caching.py": "a program that ends before its answer comes",
    "tests/fakes/test_upstream.py": "an answer that does not come",
}
"""Files with a short time-out that is meant to end, and why."""


def excepted(path: str, names: dict[str, str]) -> bool:
    return any(path == name or (name.endswith("/") and path.startswith(name)) for name in names)


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    """The calls of functions that are named like one which waits."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            module = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if node.func.attr in NAMES or module in CLIENTS:
                yield node


def sleeps(tree: ast.Module) -> Iterator[str]:
    """Lines that let real time pass, or ask how much has passed; `sleep(0)` is one turn of the loop."""
    for node in calls(tree):
        name = ast.unparse(node.func)
        slept = name in ("asyncio.sleep", "time.sleep") and ast.unparse(node.args[0]) != "0"
        if slept or re.fullmatch(r"time\.(perf_counter|monotonic|process_time)|.*loop(\(\))?\.time", name):
            yield f"{node.lineno}: {ast.unparse(node)}"


def short_waits(tree: ast.Module) -> Iterator[str]:
    """Lines that give up on something awaited after less than ten seconds."""
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    constants = {ast.unparse(node.targets[0]): node.value for node in assigned}
    for node in calls(tree):
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        if last not in WAITS and name.partition(".")[0] not in CLIENTS:
            continue
        given = [one.value for one in node.keywords if one.arg in ("timeout", "total")]
        given += (
            node.args[:1]
            if last in ("timeout", "settimeout")
            else node.args[1:2]
            if last == "wait_for"
            else []
        )
        for value in given:
            seconds = constants.get(ast.unparse(value), value)
            if (
                isinstance(seconds, ast.Constant)
                and isinstance(seconds.value, int | float)
                and seconds.value < LEAST
            ):
                yield f"{node.lineno}: {ast.unparse(node)}"


@cache
def modules() -> list[tuple[str, ast.Module]]:
    """Those that may wait or ask for the time."""
    texts = {
        path.relative_to(TESTS.parent).as_posix(): path.read_text() for path in sorted(TESTS.rglob("*.py"))
    }
    return [(path, ast.parse(text)) for path, text in texts.items() if WORTH.search(text)]


def is_slow(node: ast.AST) -> bool:
    """Whether `pytest.mark.slow` is somewhere in it."""
    return any(
        isinstance(one, ast.Attribute) and one.attr == "slow" and ast.unparse(one) == "pytest.mark.slow"
        for one in ast.walk(node)
    )


def slow_tests(tree: ast.Module) -> list[str]:
    """The tests of a module that a decorator makes slow, whole or with some parameters."""
    functions = [one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        one.name
        for one in functions
        if one.name.startswith("test_") and any(is_slow(by) for by in one.decorator_list)
    ]


def test_every_slow_test_is_named_with_a_reason() -> None:
    """CONTRIBUTING.md names the file of each mark, the test where only that one is slow, and nothing else."""
    [_, chapter] = CONTRIBUTING.split("\n## Slow groups\n")
    cells = [line.split(" | ")[0] for line in chapter.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`([\w/.]+)`", " ".join(cells)))
    places = {name for name in named if name.startswith("tests/")}
    marking = [path for path in TESTS.rglob("*.py") if "pytest.mark.slow" in path.read_text()]
    trees = {path.relative_to(TESTS.parent).as_posix(): ast.parse(path.read_text()) for path in marking}
    marked = {path: slow_tests(tree) for path, tree in trees.items() if path != HERE and is_slow(tree)}

    assert [] == [path for path in marked if not path.startswith(tuple(places))]
    assert [] == [place for place in places if not any(path.startswith(place) for path in marked)]
    assert {name for names in marked.values() for name in names} == named - places - {"postgres"}


def test_nobody_guesses_how_long_something_takes() -> None:
    """No sleep, no clock of the machine and no short time-out but where it is meant."""
    asleep = [
        f"{path}:{line}" for path, tree in modules() if not excepted(path, REAL_TIME) for line in sleeps(tree)
    ]
    short = [
        f"{path}:{line}"
        for path, tree in modules()
        if not excepted(path, SHORT_WAITS)
        for line in short_waits(tree)
    ]

    assert [] == asleep, "wait for what happens: tests/until.py"
    assert [] == short, "a busy machine takes longer"


def test_no_exception_is_left_over() -> None:
    """Each exception is needed."""
    for names, found in ((REAL_TIME, sleeps), (SHORT_WAITS, short_waits)):
        used = {path for path, tree in modules() for _ in found(tree)}
        assert [] == [name for name in names if not any(excepted(path, {name: ""}) for path in used)]


@pytest.mark.parametrize(
    "source",
    [
        "await asyncio.sleep(0.1)",
        "time.sleep(PAUSE)",
        "assert time.perf_counter() - began < 1",
        "asyncio.get_running_loop().time()",
    ],
)
def test_planted_sleep_is_caught(source: str) -> None:
    """The check itself can fail."""
    assert [] != list(sleeps(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "async with asyncio.timeout(5): pass",
        "await asyncio.wait_for(task, 2)",
        "await asyncio.wait([task], timeout=0.5)",
        "WITHIN = 9.5\nasync with asyncio.timeout(WITHIN): pass",
        "aiohttp.ClientTimeout(total=3)",
        "httpx.get(url, timeout=1)",
        "process.wait(timeout=1)",
    ],
)
def test_planted_short_wait_is_caught(source: str) -> None:
    """The check itself can fail."""
    assert [] != list(short_waits(ast.parse(source)))
