"""What the pages show, as plain values: rows, tiles, bars, a timeline, keys. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.encryption.keyring import KeyState, Purpose
from broker.http.bodies import account_json, rfc3339
from broker.model import Account, Event, EventKind, Status, Tone
from broker.times import relative

Words = list[tuple[bool, str]]
"""Parts of a sentence; True: a command to type."""

BAR_WIDTH, BAR_GAP, CHART_HEIGHT = 20, 4, 96


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as people read it, and as machines do."""

    near: str
    exact: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One account in a list or on its page."""

    facts: Mapping[str, Any]
    """As `GET /accounts/{account}` shows it."""
    word: str
    tone: Tone
    happened: str | None
    todo: Words | None
    expires: Moment
    refreshed: Moment
    used: Moment
    renewal: Moment
    since: Moment
    created: Moment
    removed: Moment


@dataclass(frozen=True, slots=True)
class Happening:
    """One event on a timeline."""

    title: str
    tone: Tone
    at: Moment
    account: str | None
    provider: str | None
    detail: Words | None
    generation: int | None
    actor: str | None


@dataclass(frozen=True, slots=True)
class Bar:
    """One span of the picture of expiries."""

    x: int
    y: int
    height: int
    count: int
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars in a box, as wide and as high as it says."""

    bars: tuple[Bar, ...]
    width: int
    most: int
    total: int

    height: int = CHART_HEIGHT
    bar_width: int = BAR_WIDTH


def row(account: Account, *, next_renewal_at: float | None, now: float) -> Row:
    """An account as a row."""
    status, reason = account.status, account.reason
    facts = account_json(account, next_renewal_at=next_renewal_at)
    return Row(
        facts=facts,
        word=status.label,
        tone="wait" if status is Status.ACTIVE and reason else status.tone,
        happened=reason.happened if reason else None,
        todo=words(facts["what_to_do"]) if facts["what_to_do"] else None,
        expires=moment(None if account.is_endless else account.expires_at, now),
        refreshed=moment(account.refreshed_at, now),
        used=moment(account.last_used_at, now),
        renewal=moment(next_renewal_at, now),
        since=moment(account.since, now),
        created=moment(account.created_at, now),
        removed=moment(account.removed_at, now),
    )


def words(text: str) -> Words:
    """A sentence in parts; what it quotes is a command, ready to be pasted."""
    return [(number % 2 == 1, part) for number, part in enumerate(text.split("`")) if part]


def moment(at: float | None, now: float) -> Moment:
    """A time near `now` in words; a dash for None."""
    exact = rfc3339(at)
    return Moment(relative(exact, now), exact)


def happening(event: Event, now: float) -> Happening:
    """An event as people read it."""
    return Happening(
        title=event.kind.label,
        tone=event.kind.tone,
        at=moment(event.at, now),
        account=event.account,
        provider=event.provider,
        detail=_detail(event),
        generation=event.generation,
        actor=event.actor,
    )


def timeline(events: Sequence[Event], now: float) -> list[Happening]:
    """Events, the latest first."""
    return [happening(event, now) for event in reversed(events)]


def chart(counts: Sequence[int], *, labels: Iterable[str]) -> Chart:
    """How many tokens end in each span, as bars of which the highest fills the box."""
    most = max(counts, default=0)
    step = BAR_WIDTH + BAR_GAP
    bars = []
    for number, (count, label) in enumerate(zip(counts, labels, strict=True)):
        # What is there at all is seen: two pixels at least.
        height = max(2, round(count / most * CHART_HEIGHT)) if count else 0
        bars.append(Bar(number * step, CHART_HEIGHT - height, height, count, label))
    return Chart(tuple(bars), step * len(bars) - BAR_GAP if bars else 0, most, sum(counts))


def _detail(event: Event) -> Words | None:
    # The reason of a good event is what is over, which its title says; but of the broker itself there are several.
    if event.cause is None or (event.kind.tone == "good" and event.kind is not EventKind.BROKER_RECOVERED):
        return None
    return words(" ".join(filter(None, (event.cause.happened, event.what_to_do))))


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key of the ring, how much is sealed with it, and what to do about that; never the key itself."""

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
    rows = []
    for key in keys:
        state, todo = KeyState.stored(key["state"]), None
        if state is KeyState.OLD:
            todo = words("`broker keys rewrap`" if key["records"] else f"`broker keys remove {key['kid']}`")
        rows.append(
            KeyRow(
                kid=key["kid"],
                purpose=Purpose.stored(key["purpose"]).label,
                word=state.label,
                tone=state.tone,
                records=key["records"],
                where=key["where"],
                master=key["master"],
                created_at=key["created_at"],
                todo=todo,
            )
        )
    return rows
