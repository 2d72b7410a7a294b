"""`make bench`: measure everything, of this tree and of another revision beside it, and write table and plot."""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import uvloop

from tests.bench.measures import MEASURES
from tests.bench.report import Results, plot, rows, table
from tests.bench.rows import ROWS
from tests.bench.stand import SMOKE, Sizes, Stand, use_last_core

ROOT = Path(__file__).parents[2]
OURS = "this tree"


async def run(
    folder: Path,
    trees: Mapping[str, Path],
    names: Sequence[str],
    sizes: Sizes,
    *,
    measured: Callable[[Results, Sequence[str]], None],
) -> dict[str, dict[str, list[float]]]:
    """By row and tree, the figures of all rounds; rounds of different trees take turns.

    `measured` is told what there is so far after every measure, and which rows that one filled.
    """
    results: dict[str, dict[str, list[float]]] = {row.key: {} for row in ROWS}
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        before = {key for key, found in results.items() if found}
        async with AsyncExitStack() as closing:
            rounds = {
                label: await closing.enter_async_context(MEASURES[name](Stand(folder, tree, sizes)))
                for label, tree in trees.items()
            }
            for _ in range(sizes.rounds):
                for label, one_round in rounds.items():
                    for key, value in (await one_round()).items():
                        results[key].setdefault(label, []).append(value)
        measured(results, [key for key, found in results.items() if found and key not in before])
    return results


def write(folder: Path, results: Results, trees: Sequence[str]) -> None:
    """Table, plot and figures of what was measured so far."""
    (folder / "figures.json").write_text(json.dumps(results, indent=1))
    (folder / "table.md").write_text(table(results, trees))
    (folder / "plot.svg").write_text(plot(results, trees[0]))


def main() -> None:
    wanted = _arguments()
    folder = ROOT / "var" / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    trees = {OURS: ROOT}
    if wanted.base:
        trees[wanted.base] = _checked_out(wanted.base, folder)
    sizes = SMOKE if wanted.smoke else Sizes(seconds=wanted.seconds, rounds=wanted.rounds, many=wanted.many)
    labels = tuple(trees)

    def measured(results: Results, new: Sequence[str]) -> None:
        write(folder, results, labels)
        print(rows(results, labels, new), end="", flush=True)

    use_last_core()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        results = loop.run(run(folder, trees, wanted.only or tuple(MEASURES), sizes, measured=measured))
    print(f"\n{table(results, labels)}")
    print(f"written to {folder}: table.md, plot.svg, figures.json")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--base", default="", help="a revision to measure beside this tree")
    parser.add_argument("--rounds", type=int, default=Sizes.rounds)
    parser.add_argument("--seconds", type=float, default=Sizes.seconds, help="of each load")
    parser.add_argument("--many", type=int, default=Sizes.many, help="accounts of the large store")
    parser.add_argument("--only", nargs="*", choices=tuple(MEASURES), help="measure these alone")
    parser.add_argument("--smoke", action="store_true", help="only see that everything runs")
    return parser.parse_args()


def _checked_out(revision: str, folder: Path) -> Path:
    """That revision's files, beside this tree's."""
    tree = folder / "base"
    with suppress(FileNotFoundError):
        shutil.rmtree(tree)
    tree.mkdir()
    archive = subprocess.run(
        ["git", "archive", revision, "broker", "tests/bench"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
    return tree


if __name__ == "__main__":
    main()
