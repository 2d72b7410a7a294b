"""The documentation as data: README.md, CONTRIBUTING.md and the pages in docs/, with their tables and code blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SHELL = ("", "bash", "sh", "console")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block, without the indentation that a list gives it."""

    page: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the text below it, up to the next heading of its rank or a higher one."""

    page: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the cells of its head, and those of each row."""

    page: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def paths() -> list[Path]:
    """Return the files that make up the documentation; a page in docs/ comes before the README."""
    return [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in paths()}
DOCS = {name: text for name, text in PAGES.items() if name != "CONTRIBUTING.md"}


def blocks_of(page: str) -> list[Block]:
    """Return the code blocks of a page in their order."""
    return [
        Block(page, language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE))
        for indent, language, text in FENCE.findall(PAGES[page])
    ]


def all_blocks(*languages: str) -> list[Block]:
    """Return the code blocks of all pages that are in one of the languages."""
    return [block for page in DOCS for block in blocks_of(page) if block.language in languages]


def block_with(text: str, *languages: str) -> str:
    """Return the first code block that contains a text, from docs/ if a page there has it."""
    return next(block.text for block in all_blocks(*languages) if text in block.text)


def prose(page: str) -> str:
    """Return the text of a page without its code blocks."""
    return FENCE.sub("", PAGES[page])


def code_spans(page: str) -> list[str]:
    """Return what a page has in backquotes, outside its code blocks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def headings(page: str) -> list[tuple[int, str]]:
    """Return the rank and the title of each heading of a page."""
    return [(len(rank), title) for rank, title in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    found: list[str] = []
    for _, title in headings(page):
        name = re.sub(r"[^\w -]", "", re.sub(r"\]\([^)]*\)", "]", title).lower()).replace(" ", "-")
        found.append(f"{name}-{count}" if (count := found.count(name)) else name)
    return set(found)


def sections() -> Iterator[Section]:
    """Yield the sections of all pages, those in docs/ first."""
    for page, text in PAGES.items():
        # A line of a code block that begins with # is no heading, so blocks are masked while splitting.
        masked = FENCE.sub(lambda found: re.sub(r"^#", "\0", found[0], flags=re.MULTILINE), text)
        heads = list(re.finditer(r"^(#+) (.+)\n", masked, re.MULTILINE))
        for number, head in enumerate(heads):
            later = (one.start() for one in heads[number + 1 :] if len(one[1]) <= len(head[1]))
            yield Section(page, head[2], text[head.end() : next(later, len(text))])


def section(title: str) -> str:
    """Return the text below a heading, from docs/ if a page there has it."""
    return next(one.text for one in sections() if one.title == title)


def tables_in(page: str, text: str) -> Iterator[Table]:
    """Yield the tables of a text."""
    for found in re.findall(r"(?:^ *\|.*\|$\n?)+", FENCE.sub("", text), re.MULTILINE):
        head, rule, *rows = [cells(line) for line in found.splitlines()]
        assert set("".join(rule)) <= set("-:"), f"{page}: a table without a head: {found}"
        yield Table(page, head, tuple(rows))


def cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1]))


def tables(kind: str) -> list[Table]:
    """Return the tables of all pages whose first column has this name."""
    return [
        table
        for page, text in PAGES.items()
        for table in tables_in(page, text)
        if table.head[0].strip("`") == kind
    ]


def names(*found: Table) -> set[str]:
    """Return what the first column of some tables names."""
    return {row[0].strip("`") for table in found for row in table.rows}


def explanations(kind: str, name: str) -> Iterator[tuple[str, ...]]:
    """Yield what the pages say of a name: the cells of its row in a table of this kind, or a section of its own."""
    for table in tables(kind):
        yield from (row[1:] for row in table.rows if row[0].strip("`") == name)
    for one in sections():
        if one.title.strip("`") == name:
            yield (one.text,)
