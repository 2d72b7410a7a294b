"""A strict reader of the Prometheus text format, version 0.0.4: whatever the format does not allow is an error."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")
TYPES = {"counter", "gauge", "histogram"}
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


class Malformed(ValueError):
    """Not the format."""


@dataclass(slots=True)
class Family:
    """One metric with all its series."""

    name: str
    type: str
    help: str
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)


def parse(text: str) -> dict[str, Family]:
    """The families by their names; raises Malformed."""
    if not text.endswith("\n"):
        raise Malformed("the last line does not end")
    families: dict[str, Family] = {}
    current: Family | None = None
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# HELP "):
            current = _family(line, next(lines, ""))
            if current.name in families:
                raise Malformed(f"{current.name} comes twice")
            families[current.name] = current
        elif current is None:
            raise Malformed(f"a sample before its family: {line!r}")
        else:
            _take(current, line)
    for family in families.values():
        _check(family)
    return families


def _family(help_line: str, type_line: str) -> Family:
    helped = re.fullmatch(rf"# HELP ({NAME}) (.+)", help_line)
    typed = re.fullmatch(rf"# TYPE ({NAME}) (\w+)", type_line)
    if not helped or not typed or helped[1] != typed[1] or typed[2] not in TYPES:
        raise Malformed(f"no HELP and TYPE of one family: {help_line!r}, {type_line!r}")
    return Family(helped[1], typed[2], helped[2])


def _take(family: Family, line: str) -> None:
    found = SAMPLE.fullmatch(line)
    if not found or found[1] not in [family.name + suffix for suffix in SUFFIXES[family.type]]:
        raise Malformed(f"no sample of {family.name}: {line!r}")
    labels = re.findall(LABEL, found[2] or "")
    if len({name for name, _ in labels}) != len(labels):
        raise Malformed(f"a label is repeated: {line!r}")
    key = (found[1].removeprefix(family.name), frozenset(labels))
    if key in family.samples:
        raise Malformed(f"a series comes twice: {line!r}")
    family.samples[key] = float(found[found.lastindex or 0])


def _check(family: Family) -> None:
    if family.type == "counter" and not family.name.endswith("_total"):
        raise Malformed(f"a counter is named _total: {family.name}")
    if family.type != "gauge" and any(value < 0 for value in family.samples.values()):
        raise Malformed(f"below zero: {family.name}")
    if family.type == "histogram":
        for labels in _series(family):
            _check_histogram(family, labels)


def _series(family: Family) -> Iterator[frozenset[tuple[str, str]]]:
    return (labels for suffix, labels in family.samples if suffix == "_count")


def _check_histogram(family: Family, labels: frozenset[tuple[str, str]]) -> None:
    buckets = sorted(
        (float(dict(known)["le"]), value)
        for (suffix, known), value in family.samples.items()
        if suffix == "_bucket" and {pair for pair in known if pair[0] != "le"} == labels
    )
    counts = [value for _, value in buckets]
    if not buckets or buckets[-1][0] != float("inf") or counts != sorted(counts):
        raise Malformed(f"buckets of {family.name} do not add up to +Inf")
    if counts[-1] != family.samples["_count", labels] or ("_sum", labels) not in family.samples:
        raise Malformed(f"count and sum of {family.name} are not those of its buckets")
