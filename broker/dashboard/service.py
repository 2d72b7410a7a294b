"""Gathers what each page shows, and does what it offers, in the name of the operator who looks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from broker.accounts.service import AccountService
from broker.admin.keys import KeyService
from broker.admin.overview import SPAN, Overview
from broker.callers.service import CallerService
from broker.context import Context
from broker.dashboard.figures import (
    Chart,
    Happening,
    KeyRow,
    Moment,
    Row,
    chart,
    key_rows,
    moment,
    row,
    timeline,
)
from broker.errors import BrokerError, NotFound
from broker.http.bodies import caller_json, rfc3339
from broker.installs.service import InstallService
from broker.model import Account, Caller, Status, Tone
from broker.store.account_queries import AccountQuery
from broker.times import relative, span
from broker.tokens.service import TokenService

PER_PAGE = 50
SHOWN_TROUBLED = 12
SHOWN_EVENTS = 12
HISTORY = 200
SPANS = 28
"""The picture of expiries: a week in spans of six hours."""
TROUBLED = sorted(
    (status for status in Status if status.tone != "good"),
    key=lambda status: ("bad", "wait", "calm").index(status.tone),
)
"""The order in which an operator should look at them."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it, in a sentence; perhaps a link to send."""

    sentence: str
    good: bool = True
    link: str | None = None
    gone: bool = False
    """There is no account page to show any more."""


@dataclass(frozen=True, slots=True)
class Start:
    """The first page."""

    counts: Mapping[Status, int]
    problems: list[str]
    troubled: list[Row]
    providers: Sequence[Mapping[str, Any]]
    chart: Chart
    recent: list[Happening]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def toned(self, tone: Tone) -> int:
        """Accounts whose status has this tone."""
        return sum(count for status, count in self.counts.items() if status.tone == tone)

    @property
    def headline(self) -> str:
        """The worst of it in a few words."""
        dead, doubtful, frozen = self.toned("bad"), self.toned("wait"), self.counts.get(Status.FROZEN, 0)
        if self.problems:
            return "The broker is degraded"
        if dead:
            return f"{_connections(dead)} {'needs' if dead == 1 else 'need'} a person"
        if doubtful:
            return f"{_connections(doubtful)} being settled"
        if frozen:
            others = ", the others are well" if frozen < self.total else ""
            return f"{_connections(frozen)} {'is' if frozen == 1 else 'are'} frozen{others}"
        return "All connections are well" if self.total else "No connections yet"

    @property
    def more(self) -> int:
        """Troubled accounts that are not shown."""
        return sum(self.counts.get(status, 0) for status in TROUBLED) - len(self.troubled)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of accounts."""

    rows: list[Row]
    next: str | None
    query: AccountQuery


@dataclass(frozen=True, slots=True)
class Portrait:
    """One account, its history and who uses it."""

    row: Row
    history: list[Happening]
    users: list[tuple[str, Moment]]


def _connections(number: int) -> str:
    return f"{number} connection{'' if number == 1 else 's'}"


class DashboardService:
    """One method a page. Everything goes through the services, so authorization and audit see it."""

    def __init__(
        self,
        context: Context,
        *,
        accounts: AccountService,
        tokens: TokenService,
        installs: InstallService,
        callers: CallerService,
        keys: KeyService,
        overview: Overview,
    ) -> None:
        self._context, self._accounts, self._tokens, self._installs = context, accounts, tokens, installs
        self._callers, self._keys, self._overview = callers, keys, overview

    async def start(self, actor: Caller, request_id: str) -> Start:
        providers = await self.providers(actor, request_id)
        counts: Counter[Status] = Counter()
        for provider in providers:
            for status, count in provider["accounts"].items():
                counts[Status.stored(status)] += count
        events = await self._overview.events(
            actor, after=None, limit=SHOWN_EVENTS, account=None, request_id=request_id
        )
        return Start(
            counts=counts,
            problems=self._context.health.problems,
            troubled=await self._troubled(actor, request_id),
            providers=providers,
            chart=await self._chart(actor, request_id),
            recent=timeline(events, self._context.steady.now()),
        )

    async def accounts(self, actor: Caller, query: AccountQuery, request_id: str) -> Listing:
        query = replace(query, limit=PER_PAGE)
        found, cursor = await self._accounts.find(actor, query, request_id=request_id)
        return Listing([self._row(account) for account in found], cursor, query)

    async def account(self, actor: Caller, name: str, request_id: str) -> Portrait:
        account = await self._accounts.show(actor, name, request_id=request_id)
        now = self._context.steady.now()
        users = await self._accounts.users(actor, name, request_id=request_id)
        events = await self._overview.events(
            actor, after=None, limit=HISTORY, account=name, request_id=request_id
        )
        return Portrait(
            self._row(account), timeline(events, now), [(who, moment(at, now)) for who, at in users]
        )

    async def providers(self, actor: Caller, request_id: str) -> Sequence[Mapping[str, Any]]:
        return [view.json() for view in await self._overview.providers(actor, request_id=request_id)]

    async def callers(self, actor: Caller, request_id: str) -> Sequence[Mapping[str, Any]]:
        records = await self._callers.callers(actor, request_id=request_id)
        return [caller_json(record) for record in records]

    async def keys(self, actor: Caller, request_id: str) -> list[KeyRow]:
        return key_rows(await self._keys.keys(actor, request_id=request_id))

    async def activity(self, actor: Caller, request_id: str) -> list[Happening]:
        events = await self._overview.events(
            actor, after=None, limit=HISTORY, account=None, request_id=request_id
        )
        return timeline(events, self._context.steady.now())

    def near(self, at: str | None) -> str:
        """A time of the API in words."""
        return relative(at, self._context.steady.now())

    async def _troubled(self, actor: Caller, request_id: str) -> list[Row]:
        found: list[Account] = []
        for status in TROUBLED:
            left = SHOWN_TROUBLED - len(found)
            if left:
                query = AccountQuery(status=status, limit=left)
                found += (await self._accounts.find(actor, query, request_id=request_id))[0]
        return [self._row(account) for account in found]

    async def _chart(self, actor: Caller, request_id: str) -> Chart:
        since, counts = await self._overview.ends(actor, count=SPANS, request_id=request_id)
        labels = (datetime.fromtimestamp(since + n * SPAN, UTC).strftime("%a %H:%M") for n in range(SPANS))
        return chart(counts, labels=labels)

    def _row(self, account: Account) -> Row:
        return row(
            account,
            next_renewal_at=self._accounts.next_renewal_at(account),
            now=self._context.steady.now(),
        )

    async def act(self, actor: Caller, name: str, word: str, *, request_id: str) -> Done:
        """Do it; what the broker refuses is told, not raised. Raises NotFound for a word that is none."""
        action = {
            "renew": self._renew,
            "freeze": self._freeze,
            "unfreeze": self._unfreeze,
            "remove": self._remove,
            "restore": self._restore,
            "reconnect": self._reconnect,
        }.get(word)
        if action is None:
            raise NotFound
        try:
            return await action(actor, name, request_id)
        except BrokerError as exc:
            return Done(exc.detail, good=False)

    async def resume(self, actor: Caller, provider: str, *, request_id: str) -> None:
        """Close a provider's breakers."""
        await self._overview.resume(actor, provider, request_id=request_id)

    async def _renew(self, actor: Caller, name: str, request_id: str) -> Done:
        handout = await self._tokens.override(actor, name, request_id=request_id)
        return Done(f"Renewed: generation {handout.account.generation}.")

    async def _freeze(self, actor: Caller, name: str, request_id: str) -> Done:
        account = await self._accounts.freeze(actor, name, request_id=request_id)
        left = account.expires_at - self._context.steady.now()
        if left < 1:
            return Done("Frozen: it is renewed no more, and its token has expired.")
        return Done(f"Frozen: it is renewed no more. Its token is handed out for another {span(left)}.")

    async def _unfreeze(self, actor: Caller, name: str, request_id: str) -> Done:
        await self._accounts.unfreeze(actor, name, request_id=request_id)
        return Done("It is renewed again.")

    async def _remove(self, actor: Caller, name: str, request_id: str) -> Done:
        await self._accounts.remove(actor, name, purge=False, revoke=False, request_id=request_id)
        return Done(f"{name} is removed. For 30 days it can be restored.", gone=True)

    async def _restore(self, actor: Caller, name: str, request_id: str) -> Done:
        await self._accounts.restore(actor, name, request_id=request_id)
        return Done("It is restored.")

    async def _reconnect(self, actor: Caller, name: str, request_id: str) -> Done:
        account = await self._accounts.show(actor, name, request_id=request_id)
        url, expires_at = await self._installs.create(
            actor,
            provider=account.provider,
            account=name,
            org=account.org,
            return_to=None,
            replace_identity=False,
            request_id=request_id,
        )
        until = rfc3339(expires_at)
        return Done(f"Send this link to the person; it works once, until {until}.", link=url)
