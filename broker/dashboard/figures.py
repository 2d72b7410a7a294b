"""What the pages show, as plain values: rows, tiles, bars, a timeline. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from broker.model import Account, Event, EventKind, Reason, Status
from broker.times import relative
from broker.wire import WHAT_HAPPENED, WHAT_TO_DO, account_json, rfc3339

Tone = Literal["good", "wait", "bad", "calm"]
Words = list[tuple[bool, str]]
"""Parts of a sentence; True: a command to type."""

STATUS_WORDS: Mapping[Status, tuple[str, Tone]] = {
    Status.NEEDS_REAUTHORIZATION: ("needs a person", "bad"),
    Status.FROZEN: ("frozen", "calm"),
    Status.UNCERTAIN: ("being settled", "wait"),
    Status.REFRESH_FAILING: ("renewal failing", "wait"),
    Status.ACTIVE: ("active", "good"),
}
EVENT_WORDS: Mapping[EventKind, tuple[str, Tone]] = {
    EventKind.CONNECTED: ("Connected", "good"),
    EventKind.RENEWED: ("Renewed", "good"),
    EventKind.REFRESH_FAILING: ("Renewal failing", "wait"),
    EventKind.RECOVERED: ("Recovered", "good"),
    EventKind.NEEDS_REAUTHORIZATION: ("Needs a person", "bad"),
    EventKind.REAUTHORIZATION_DUE: ("Will need a person", "wait"),
    EventKind.DISCONNECTED: ("Removed", "calm"),
    EventKind.PROVIDER_REJECTED_CLIENT: ("Provider refuses our client", "bad"),
    EventKind.BROKER_DEGRADED: ("Broker degraded", "bad"),
    EventKind.BROKER_RECOVERED: ("Broker recovered", "good"),
}
DEGRADED_WORDS: Mapping[str, str] = {
    "commit_retained": "A renewed token cannot be stored.",
    "audit_waiting": "The audit cannot be written.",
    "copied_store": "The store is a copy, so nothing is renewed.",
    "mass_refusal": "Many accounts were refused at once.",
}
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
    word, tone = STATUS_WORDS[account.status]
    facts = account_json(account, next_renewal_at=next_renewal_at)
    if account.status is Status.ACTIVE and account.reason is not None:
        tone = "wait"
    return Row(
        facts=facts,
        word=word,
        tone=tone,
        happened=WHAT_HAPPENED[account.reason] if account.reason else None,
        todo=words(WHAT_TO_DO[account.reason], account.name) if account.reason else None,
        expires=moment(account.expires_at, now),
        refreshed=moment(account.refreshed_at, now),
        used=moment(account.last_used_at, now),
        renewal=moment(next_renewal_at, now),
        since=moment(account.since, now),
        created=moment(account.created_at, now),
    )


def words(text: str, name: str | None) -> Words:
    """A sentence of `wire` about one account; what it quotes is a command, ready to be pasted."""
    named = text.replace("NAME", name) if name else text
    return [(number % 2 == 1, part) for number, part in enumerate(named.split("`")) if part]


def moment(at: float | None, now: float) -> Moment:
    """A time near `now` in words; a dash for None."""
    exact = rfc3339(at)
    return Moment(relative(exact, now), exact)


def happening(event: Event, now: float) -> Happening:
    """An event as people read it."""
    title, tone = EVENT_WORDS[event.kind]
    return Happening(
        title=title,
        tone=tone,
        at=moment(event.at, now),
        account=event.account,
        provider=event.provider,
        detail=_detail(event),
        generation=event.generation,
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
    known = next((reason for reason in Reason if reason == event.reason), None)
    if event.kind in (EventKind.BROKER_DEGRADED, EventKind.BROKER_RECOVERED):
        known_problem = DEGRADED_WORDS.get(event.reason or "")
        return words(known_problem, None) if known_problem else None
    if known is None or event.kind in (EventKind.RENEWED, EventKind.CONNECTED, EventKind.RECOVERED):
        return None
    return words(f"{WHAT_HAPPENED[known]} {WHAT_TO_DO[known]}", event.account)
