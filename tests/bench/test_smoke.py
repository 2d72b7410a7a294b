"""The harness runs, and its table has every row; the figures themselves are nobody's promise here."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.__main__ import OURS, ROOT, run, write
from tests.bench.measures import MEASURES
from tests.bench.report import Results, plot, table
from tests.bench.rows import ROWS, Row
from tests.bench.stand import SMOKE

HOT = {"hot", "hot_cpu", "hot_us", "bare_us", "one", "one_ms", "nango"}


@pytest.mark.slow
async def test_a_hot_token_is_measured_beside_the_bare_server(tmp_path: Path) -> None:
    """One short round gives every figure of its measure, and all of them are real."""
    told: list[str] = []

    def measured(results: Results, new: Sequence[str]) -> None:
        write(tmp_path, results, [OURS])
        told.extend(new)

    results = await run(tmp_path, {OURS: ROOT}, ["hot"], SMOKE, measured=measured)

    assert set(told) == HOT
    assert json.loads((tmp_path / "figures.json").read_text()) == results
    assert (tmp_path / "table.md").read_text().count("not measured") == len(ROWS) - len(HOT)
    assert {key for key, trees in results.items() if trees} == HOT
    assert results["hot"][OURS][0] > 0
    assert results["one_ms"][OURS][0] > 0


def test_the_table_has_every_row() -> None:
    """Rows that were not measured are there too, and say so."""
    lines = table({"hot": {OURS: [0.7, 0.9, 0.8], "old": [0.5]}}, [OURS, "old"]).splitlines()

    assert [row.what for row in ROWS] == [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]]
    assert "0.8 times (0.7 to 0.9) | 0.5 times (0.5 to 0.5) | ≥ 0.8 | reached |" in lines[2]
    assert lines[3].count("not measured") == 2


def test_what_is_worse_than_its_bound_is_missed() -> None:
    """A bound is a least or a most; a row without one is only told."""
    least, most, told = Row("a", "a", least=2), Row("b", "b", most=2), Row("c", "c")

    assert [True, False] == [least.is_reached(2), least.is_reached(1.9)]
    assert [True, False] == [most.is_reached(2), most.is_reached(2.1)]
    assert told.is_reached(1) is None


def test_the_plot_is_a_picture_of_what_was_measured() -> None:
    """One mark for each bounded row that has figures, better ones further right."""
    results = {"hot": {OURS: [1.2]}, "jwt": {OURS: [0.3]}, "hot_us": {OURS: [80.0]}}

    picture = ElementTree.fromstring(plot(results, OURS))  # noqa: S314 - our own picture
    places = [float(mark.attrib["cx"]) for mark in picture.iter() if mark.tag.endswith("circle")]

    assert len(places) == 2
    assert places[0] > places[1]


def test_every_row_is_some_measures() -> None:
    """No row of the table is without a measure that fills it."""
    source = (Path(__file__).parent / "measures.py").read_text() + (
        Path(__file__).parent / "held.py"
    ).read_text()

    assert [] == [row.key for row in ROWS if row.key.removesuffix("_ms") not in source]
    assert {"hot", "renewals", "large", "held"} <= set(MEASURES)
