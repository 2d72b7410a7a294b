"""What the page of the keys shows: each key, how much is sealed with it, and what to do about that. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from broker.dashboard.figures import Words, words
from broker.keyring import KeyState, Purpose
from broker.model import Tone


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
    state = KeyState.stored(key["state"])
    todo = _todo(key)
    return KeyRow(
        kid=key["kid"],
        purpose=Purpose.stored(key["purpose"]).label,
        word=state.label,
        tone=state.tone,
        records=key["records"],
        where=key["where"],
        master=key["master"],
        created_at=key["created_at"],
        todo=None if todo is None else words(todo),
    )


def _todo(key: Mapping[str, Any]) -> str | None:
    if key["state"] != KeyState.OLD:
        return None
    return "`broker keys rewrap`" if key["records"] else f"`broker keys remove {key['kid']}`"
