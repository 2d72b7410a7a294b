"""What must be true after every step, whatever happened: the promises of the renewal protocol."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from broker.model import Reason
from broker.sandbox.faults import Mode
from tests.lifetimes.witness import Happened, Moment, Request, Sight

RESTORABLE_FOR = 30 * 86400.0
RENAMED = -1
"""In place of an epoch: the next row under the new name has the same grant."""
GRACE = (Mode.GRACE_SAME, Mode.GRACE_SIBLING, Mode.GRACE_LATEST)
"""Modes in which time alone ends a token."""
TOLD_ONCE = ("needs_reauthorization", "refresh_failing", "recovered")
"""Events of transitions: not twice without another of these, or a new grant, between them."""


class Standing(StrEnum):
    """What an account is by what people did to it."""

    NONE = "none"
    CONNECTED = "connected"
    REMOVED = "removed"


@dataclass(slots=True)
class Told:
    """What people did to the account of one name."""

    standing: Standing = Standing.NONE
    frozen: bool = False
    holder: str = ""
    """Who this is at the provider."""
    removed_at: float = 0.0


@dataclass(slots=True)
class Model:
    """What people said, what was seen last, and what a death excuses."""

    told: dict[str, Told] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    """The highest that was ever seen or served under a name: none goes back (I3)."""
    born: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """Of each name and grant, at first sight: the generation, and how often the provider had renewed it."""
    before: dict[str, Sight] = field(default_factory=dict)
    flying: frozenset[str] = frozenset()
    requests: tuple[Request, ...] = ()
    last_event: int = 0
    mode: Mode | None = None
    excused: set[str] = field(default_factory=set)
    """Refresh tokens that only the memory of a broker held when it died."""
    revoked: set[int] = field(default_factory=set)
    """Grants that their people ended at the provider."""
    buried: set[str] = field(default_factory=set)
    """Refresh tokens of the dead: whether their reason is right is asked once, when it happens."""
    revived: set[str] = field(default_factory=set)
    """Those that were dead when the provider took up other ways: some of them work again, and nobody knows."""
    reopened: dict[str, int] = field(default_factory=dict)
    """The last event before an operator had a dead account tried again, or the broker died: what a restart takes up,
    and what it finds in the spool, it settles without having told of trouble."""
    unnoted_until: float = float("-inf")
    """When the store last refused a write: an intent from before may have outlived its answer."""

    def of(self, name: str) -> Told:
        return self.told.setdefault(name, Told())

    def served(self, name: str, generation: int) -> None:
        """A caller got a token of this generation."""
        self.generations[name] = max(generation, self.generations.get(name, 0))

    def renamed(self, old: str, new: str) -> None:
        self.told[new], self.told[old] = self.of(old), Told()
        self.reopened[new] = self.last_event
        sight = self.before.pop(old)
        self.born.pop((new, sight.grant), None)
        self.before[new] = replace(sight, account=replace(sight.account, epoch=RENAMED))

    def forget(self, name: str) -> None:
        """The account was purged."""
        self.told[name] = Told()
        self.before.pop(name, None)

    def relearn(self, moment: Moment, names: Iterable[str]) -> None:
        """Somebody demanded a change, and the broker died over it: done or not, both are right."""
        for name in names:
            self.told[name] = _as_seen(moment.sights.get(name), self.of(name))

    def died(self, moment: Moment, stored: str | None) -> None:
        """The broker died since the last look; `stored`: whose successor lay on the disk by then."""
        self.reopened.update(dict.fromkeys(moment.sights, self.last_event))
        seen = {request.n for request in self.requests if not request.is_open}
        sight = moment.sights.get(stored or "")
        safe = None if sight is None else sight.grant
        for request in moment.requests:
            if request.n not in seen and request.issued and request.grant != safe:
                self.excused.add(request.issued)

    def check(self, moment: Moment) -> None:
        """Raises AssertionError with every promise that is broken."""
        broken = [*self._of_all(moment), *_told_twice(moment, self.reopened)]
        for name, sight in moment.sights.items():
            promises = [*self._row(name, sight), *self._death(sight), *self._tokens(name, sight, moment)]
            broken += [f"{name}: {promise}" for promise in promises]
            self.served(name, sight.account.generation)
        self.before, self.flying, self.requests = dict(moment.sights), moment.flying, moment.requests
        self.mode = moment.mode
        self.last_event = max((event.id for event in moment.events), default=self.last_event)
        assert not broken, broken

    def _of_all(self, moment: Moment) -> Iterator[str]:
        if overlaps := [request.n for request in moment.requests if request.overlaps]:
            yield f"I4 two POSTs outstanding with one token: requests {overlaps}"
        if moment.violations:
            yield f"the broker counted {moment.violations} broken promises itself"
        if moment.complaints:
            yield f"logged {moment.complaints}"
        for name, told in self.told.items():
            if (told.standing is Standing.NONE) == (name in moment.sights):
                yield f"{name} is {told.standing}, and the store says otherwise"

    def _row(self, name: str, sight: Sight) -> Iterator[str]:
        account, told, floor = sight.account, self.of(name), self.generations.get(name, 0)
        if account.generation < floor:
            yield f"I3 generation {account.generation} after {floor}"
        if (told.standing is Standing.REMOVED) != (account.removed_at is not None):
            yield f"{told.standing}, and the row says removed at {account.removed_at}"
        if told.frozen != (account.frozen is not None):
            yield f"frozen is {told.frozen}, and the row says {account.frozen}"

    def _death(self, sight: Sight) -> Iterator[str]:
        """I2, I8: dead is what cannot work any more, for the reason that is shown."""
        reason, token = sight.account.dead, sight.current
        if reason is None:
            self.buried.discard(token)
            return
        if sight.working and token not in self.revived:
            yield f"I2 dead of {reason}, and {len(sight.working)} durable tokens work"
        if token not in self.buried and sight.grant not in self.revoked:
            if sight.newest in sight.kept:
                yield f"I8 dead of {reason}, and the provider issued nothing that is not stored"
            if reason is not Reason.LOST_ROTATION:
                yield f"I8 a rotation was lost, and the reason is {reason}"
        self.buried.add(token)

    def _tokens(self, name: str, sight: Sight, moment: Moment) -> Iterator[str]:
        old, issued = self.before.get(name), _issued(moment.requests, sight)
        generation, count = self.born.setdefault((name, sight.grant), (sight.account.generation, len(issued)))
        if sight.account.generation - generation > len(issued) - count:
            yield f"I3 generation {sight.account.generation} after {generation}: more than the provider issued"
        resting = name not in moment.flying
        if resting and issued and issued[-1].answered and issued[-1].issued not in sight.kept | self.excused:
            yield "I5 the token set received last is neither current, nor a spare, nor in the spool"
        intent = None if sight.account.trouble.ambiguous else sight.account.intent
        if resting and intent is not None and intent.at > self.unnoted_until:
            yield "I6 an intent outlived its answer"
        if old is None or old.account.epoch not in (RENAMED, sight.account.epoch):
            return
        if old.working and not sight.working:
            yield from self._lost(old, sight, moment)
        yield from self._rest(name, old, sight, moment)

    def _lost(self, old: Sight, sight: Sight, moment: Moment) -> Iterator[str]:
        """I2, I5: a grant ends with its people's word, or with a successor that never came; not through us."""
        if old.working & moment.alive:
            yield "I5 a durable token that works was thrown away"
        changed = moment.mode is not self.mode or moment.mode in GRACE or sight.grant in self.revoked
        if not changed and len(_issued(moment.requests, sight)) == len(_issued(self.requests, sight)):
            yield "I2 what worked has ended, and the provider had issued nothing else"

    def _rest(self, name: str, old: Sight, sight: Sight, moment: Moment) -> Iterator[str]:
        """R1: nothing is sent for what was frozen or removed, and still is."""
        frozen = old.account.frozen and sight.account.frozen
        removed = old.account.removed_at is not None and sight.account.removed_at is not None
        sent = [request.n for request in moment.requests[len(self.requests) :] if request.token in old.kept]
        if (frozen or removed) and sent and name not in self.flying:
            yield f"R1 requests {sent} were sent for an account at rest"


def _issued(requests: tuple[Request, ...], sight: Sight) -> list[Request]:
    return [request for request in requests if request.grant == sight.grant and request.issued]


def _as_seen(sight: Sight | None, told: Told) -> Told:
    if sight is None:
        return Told()
    account = sight.account
    if account.removed_at is None:
        return Told(Standing.CONNECTED, account.frozen is not None, account.external_id or told.holder)
    return Told(
        Standing.REMOVED, account.frozen is not None, account.external_id or told.holder, account.removed_at
    )


def _told_twice(moment: Moment, reopened: Mapping[str, int]) -> Iterator[str]:
    last: dict[str, Happened] = {}
    for event in moment.events:
        name = event.account or ""
        before = last.get(name)
        again = before is not None and before.kind == event.kind and before.id > reopened.get(name, 0)
        if event.kind in TOLD_ONCE and again:
            yield f"{name}: {event.kind} is told again (event {event.id}), and nothing had changed"
        if event.kind in TOLD_ONCE or event.kind == "connected":
            last[name] = event
