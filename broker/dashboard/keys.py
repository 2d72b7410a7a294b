"""What the page of the keys shows: each key, how much is sealed with it, and what to do about that. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from broker.dashboard.figures import Tone, Words, words
from broker.keyring import Purpose

PURPOSES: Mapping[Purpose, str] = {Purpose.DATA: "seals tokens", Purpose.INDEX: "makes keyed hashes"}
STATES: Mapping[str, tuple[str, Tone]] = {
    "active": ("active", "good"),
    "old": ("older", "wait"),
    "retired": ("dropped", "calm"),
    "forgotten": ("forgotten", "calm"),
}


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key of the ring; never the key itself."""

    kid: str
    purpose: str
    word: str
    tone: Tone
    records: int
    where: Mapping[str, int]
    master: str
    created_at: str
    todo: Words | None


def key_rows(keys: Iterable[Mapping[str, Any]]) -> list[KeyRow]:
    """Of keys as `GET /keys` shows them."""
    return [_row(key) for key in keys]


def _row(key: Mapping[str, Any]) -> KeyRow:
    word, tone = STATES[key["state"]]
    todo = _todo(key)
    return KeyRow(
        kid=key["kid"],
        purpose=PURPOSES[Purpose(key["purpose"])],
        word=word,
        tone=tone,
        records=key["records"],
        where=key["where"],
        master=key["master"],
        created_at=key["created_at"],
        todo=None if todo is None else words(todo, None),
    )


def _todo(key: Mapping[str, Any]) -> str | None:
    if key["state"] != "old":
        return None
    return "`broker keys rewrap`" if key["records"] else f"`broker keys drop {key['kid']}`"
