"""Rules of the suite itself: slow tests are named in CONTRIBUTING.md."""

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
HERE = "tests/test_suite.py"
CONTRIBUTING = (TESTS.parent / "CONTRIBUTING.md").read_text()


@cache
def modules() -> list[tuple[str, ast.Module]]:
    found = sorted(TESTS.rglob("*.py"))
    return [(path.relative_to(TESTS.parent).as_posix(), ast.parse(path.read_text())) for path in found]


def is_slow(node: ast.AST) -> bool:
    """Whether `pytest.mark.slow` is somewhere in it."""
    return any(
        isinstance(one, ast.Attribute) and ast.unparse(one) == "pytest.mark.slow" for one in ast.walk(node)
    )


def slow_tests(tree: ast.Module) -> list[str]:
    """The tests of a module whose decorator makes them slow."""
    functions = [one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        one.name
        for one in functions
        if any(ast.unparse(by) == "pytest.mark.slow" for by in one.decorator_list)
    ]


def test_every_slow_test_is_named_with_a_reason() -> None:
    """CONTRIBUTING.md names the file of each mark, the test where only that one is slow, and nothing else."""
    [_, chapter] = CONTRIBUTING.split("\n## Slow groups\n")
    cells = [line.split(" | ")[0] for line in chapter.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`([\w/.]+)`", " ".join(cells)))
    places = {name for name in named if name.startswith("tests/")}
    marked = {path: slow_tests(tree) for path, tree in modules() if path != HERE and is_slow(tree)}

    assert [] == [path for path in marked if not path.startswith(tuple(places))]
    assert [] == [place for place in places if not any(path.startswith(place) for path in marked)]
    assert {name for names in marked.values() for name in names} == named - places - {"postgres"}
