"""The table and the plot of a run."""

from collections.abc import Container, Mapping, Sequence
from html import escape

from tests.bench.load import spread
from tests.bench.rows import ROWS, Row

Results = Mapping[str, Mapping[str, Sequence[float]]]
"""By row, then by tree: a value for each round."""
WIDTH, LEFT, LINE, TOP = 900, 520, 24, 50
FULL = 2.0
"""What the plot's right edge stands for: twice what is to be reached."""


def table(results: Results, trees: Sequence[str]) -> str:
    """Markdown: median and spread of every row, for each tree."""
    heads = [f"{tree}, median (spread)" for tree in trees]
    lines = [f"| measure | {' | '.join(heads)} | reach | |", f"|---|{'---|' * len(trees)}---|---|"]
    return "\n".join(lines) + "\n" + rows(results, trees, [row.key for row in ROWS])


def rows(results: Results, trees: Sequence[str], keys: Container[str]) -> str:
    """Those rows of the table."""
    return "".join(_line(row, results.get(row.key, {}), trees) for row in ROWS if row.key in keys)


def _line(row: Row, found: Mapping[str, Sequence[float]], trees: Sequence[str]) -> str:
    cells = [_cell(row, found.get(tree, ())) for tree in trees]
    return f"| {row.what} | {' | '.join(cells)} | {row.reach} | {_verdict(row, found.get(trees[0], ()))} |\n"


def _cell(row: Row, values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    least, median, most = spread(list(values))
    unit = row.unit and f" {row.unit}"
    return f"{median:.3g}{unit} ({least:.3g} to {most:.3g})" if median < 1000 else f"{median:,.0f}{unit}"


def _verdict(row: Row, values: Sequence[float]) -> str:
    if not values:
        return ""
    reached = row.is_reached(spread(list(values))[1])
    return "" if reached is None else "reached" if reached else "missed"


def plot(results: Results, tree: str) -> str:
    """An SVG: how far each figure is from what is to be reached; right of the line is better."""
    bounded = [row for row in ROWS if row.reach and results.get(row.key, {}).get(tree)]
    height = TOP + LINE * len(bounded) + 20
    middle = LEFT + (WIDTH - LEFT) / FULL
    bars = [_bar(number, row, results[row.key][tree]) for number, row in enumerate(bounded)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif"'
            ' font-size="13">',
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            f'<text x="{LEFT}" y="20">median and spread of the rounds; right of the line is reached</text>',
            *bars,
            f'<line x1="{middle}" y1="{TOP - 18}" x2="{middle}" y2="{height - 14}" stroke="#333"/>',
            "</svg>\n",
        ]
    )


def _bar(number: int, row: Row, values: Sequence[float]) -> str:
    least, median, most = sorted(_place(row, value) for value in spread(list(values)))
    y = TOP + LINE * number
    colour = "#2a7d4f" if median >= LEFT + (WIDTH - LEFT) / FULL else "#b3402a"
    return (
        f'<text x="8" y="{y + 4}">{escape(row.what)}</text>'
        f'<line x1="{least:.1f}" y1="{y}" x2="{most:.1f}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
        f'<circle cx="{median:.1f}" cy="{y}" r="5" fill="{colour}"><title>{row.reach} {row.unit}</title></circle>'
    )


def _place(row: Row, value: float) -> float:
    bound = row.least if row.least is not None else row.most
    assert bound is not None
    better = value / bound if row.least is not None else bound / max(value, bound / FULL)
    return LEFT + (WIDTH - LEFT) * min(max(better, 0.0), FULL) / FULL
