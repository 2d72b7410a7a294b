"""Returns the content of each dashboard page, and performs its actions in the name of the signed-in operator."""

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
from broker.encryption.keyring import KeyState, Purpose
from broker.errors import BrokerError, NotFound
from broker.http.bodies import account_json, caller_json, event_json, rfc3339
from broker.http.openapi import ACTIONS
from broker.installs.service import InstallService
from broker.model import Account, Caller, Event, EventKind, Status, Tone
from broker.store.account_queries import AccountQuery
from broker.times import relative, span
from broker.tokens.service import TokenService

PER_PAGE = 50
SHOWN_TROUBLED = 12
SHOWN_EVENTS = 12
HISTORY = 200
SPANS = 28
"""The chart of expiries shows a week, in spans of six hours."""
BAR_WIDTH, BAR_GAP, CHART_HEIGHT = 20, 4, 96
TROUBLED = sorted(
    (status for status in Status if status.tone != "good"),
    key=lambda status: ("bad", "wait", "calm").index(status.tone),
)
"""The statuses that an operator should look at, the most urgent first."""
Words = list[tuple[bool, str]]
"""The parts of a text, each with whether it is a command to type."""


@dataclass(frozen=True, slots=True)
class Item:
    """An account, an event or a data key: its JSON of the API, with a label and a colour for people."""

    facts: Mapping[str, Any]
    word: str
    tone: Tone
    happened: str | None = None
    todo: Words | None = None


def account_item(account: Account, *, next_renewal_at: float | None) -> Item:
    """Return an account with the label and colour of its status, the reason and what to do."""
    status, reason = account.status, account.reason
    facts = account_json(account, next_renewal_at=next_renewal_at)
    tone = "wait" if status is Status.ACTIVE and reason else status.tone
    return Item(facts, status.label, tone, reason.happened if reason else None, words(facts["what_to_do"]))


def event_item(event: Event) -> Item:
    """Return an event with its label and colour, and what to do if it is bad news."""
    todo, kind = None, event.kind
    # The reason of a good event is over, as its label says. The broker itself can recover from several reasons.
    if event.cause is not None and (kind.tone != "good" or kind is EventKind.BROKER_RECOVERED):
        todo = words(" ".join(filter(None, (event.cause.happened, event.what_to_do))))
    return Item({"actor": event.actor, **event_json(event)}, kind.label, kind.tone, todo=todo)


def key_item(key: Mapping[str, Any]) -> Item:
    """Return a data key, as `GET /keys` shows it, with its state's label and the command to type next."""
    state, todo = KeyState.stored(key["state"]), None
    if state is KeyState.OLD:
        todo = words("`broker keys rewrap`" if key["records"] else f"`broker keys remove {key['kid']}`")
    facts = {**key, "purpose": Purpose.stored(key["purpose"]).label}
    return Item(facts, state.label, state.tone, todo=todo)


def words(text: str | None) -> Words | None:
    """Split a text at its backquotes; what stands between two of them is a command."""
    return [(number % 2 == 1, part) for number, part in enumerate((text or "").split("`")) if part] or None


def timeline(events: Sequence[Event]) -> list[Item]:
    """Return the items of some events in time order, the latest first."""
    return [event_item(event) for event in reversed(events)]


@dataclass(frozen=True, slots=True)
class Bar:
    """One span of the chart of expiries, in pixels of its box."""

    x: int
    y: int
    height: int
    count: int
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The chart of expiries: bars, and the size of their box in pixels."""

    bars: tuple[Bar, ...]
    width: int
    total: int

    height: int = CHART_HEIGHT
    bar_width: int = BAR_WIDTH


def chart(since: float, counts: Sequence[int]) -> Chart:
    """Return the chart of `counts`, the tokens that expire in each span after `since`."""
    most, step, bars = max(counts, default=0), BAR_WIDTH + BAR_GAP, []
    for number, count in enumerate(counts):
        # A bar for one token among many is still visible: two pixels at least.
        height = max(2, round(count / most * CHART_HEIGHT)) if count else 0
        label = datetime.fromtimestamp(since + number * SPAN, UTC).strftime("%a %H:%M")
        bars.append(Bar(number * step, CHART_HEIGHT - height, height, count, label))
    return Chart(tuple(bars), step * len(bars) - BAR_GAP if bars else 0, sum(counts))


@dataclass(frozen=True, slots=True)
class Done:
    """The result of an action: a sentence, and perhaps a link to send to a customer."""

    sentence: str
    good: bool = True
    link: str | None = None
    gone: bool = False
    """True if the account has no page any more."""


@dataclass(frozen=True, slots=True)
class Start:
    """The content of the first page."""

    counts: Mapping[Status, int]
    problems: list[str]
    troubled: list[Item]
    providers: Sequence[Mapping[str, Any]]
    chart: Chart
    recent: list[Item]

    @property
    def total(self) -> int:
        """Count all accounts."""
        return sum(self.counts.values())

    def toned(self, tone: Tone) -> int:
        """Count the accounts whose status has this tone."""
        return sum(count for status, count in self.counts.items() if status.tone == tone)

    @property
    def headline(self) -> str:
        """Name the most urgent problem in a few words."""
        dead, doubtful, frozen = self.toned("bad"), self.toned("wait"), self.counts.get(Status.FROZEN, 0)
        if self.problems:
            return "The broker is degraded"
        if dead:
            return f"{_connections(dead)} {'needs' if dead == 1 else 'need'} re-authorization"
        if doubtful:
            return f"{_connections(doubtful)} cannot be renewed at present"
        if frozen:
            others = ", the others are healthy" if frozen < self.total else ""
            return f"{_connections(frozen)} {'is' if frozen == 1 else 'are'} frozen{others}"
        return "All connections are healthy" if self.total else "No connections yet"

    @property
    def more(self) -> int:
        """Count the accounts with problems that the page does not show."""
        return sum(self.counts.get(status, 0) for status in TROUBLED) - len(self.troubled)


def _connections(number: int) -> str:
    return f"{number} connection{'' if number == 1 else 's'}"


class DashboardService:
    """Returns the content of each page, as values for its template, and performs the actions.

    It calls the services as the operator, so everything is authorized and audited under the operator's name.
    """

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
        self._callers, self._keys, self.overview = callers, keys, overview

    async def start(self, actor: Caller, request_id: str) -> Start:
        """Return the content of the first page."""
        providers = await self.overview.providers(actor, request_id=request_id)
        counts: Counter[Status] = Counter()
        for provider in providers:
            for status, count in provider["accounts"].items():
                counts[Status.stored(status)] += count
        troubled = list[Item]()
        for status in TROUBLED:
            if left := SHOWN_TROUBLED - len(troubled):
                query = AccountQuery(status=status, limit=left)
                found, _ = await self._accounts.find(actor, query, request_id=request_id)
                troubled += map(self._item, found)
        events = await self._events(actor, None, SHOWN_EVENTS, request_id)
        return Start(
            counts=counts,
            problems=self._context.health.problems,
            troubled=troubled,
            providers=providers,
            chart=chart(*await self.overview.ends(actor, count=SPANS, request_id=request_id)),
            recent=timeline(events),
        )

    async def accounts(self, actor: Caller, query: AccountQuery, request_id: str) -> dict[str, Any]:
        """Return a page of the accounts that match a query."""
        query = replace(query, limit=PER_PAGE)
        found, cursor = await self._accounts.find(actor, query, request_id=request_id)
        return {"rows": [*map(self._item, found)], "next": cursor, "query": query, "statuses": [*Status]}

    async def account(self, actor: Caller, name: str, request_id: str) -> dict[str, Any]:
        """Return one account, its history, and its callers with their last use."""
        account = await self._accounts.show(actor, name, request_id=request_id)
        users = await self._accounts.users(actor, name, request_id=request_id)
        history = timeline(await self._events(actor, name, HISTORY, request_id))
        users_at = [(who, rfc3339(at)) for who, at in users]
        return {"row": self._item(account), "history": history, "users": users_at}

    async def callers(self, actor: Caller, request_id: str) -> Sequence[Mapping[str, Any]]:
        """Return the callers as the API shows them."""
        records = await self._callers.callers(actor, request_id=request_id)
        return [caller_json(record) for record in records]

    async def keys(self, actor: Caller, request_id: str) -> list[Item]:
        """Return the data keys with what to do about each."""
        return [key_item(key) for key in await self._keys.keys(actor, request_id=request_id)]

    async def activity(self, actor: Caller, request_id: str) -> list[Item]:
        """Return the last events of all accounts."""
        return timeline(await self._events(actor, None, HISTORY, request_id))

    def near(self, at: str | None) -> str:
        """Return a time of the API relative to now, such as `in 3 min`."""
        return relative(at, self._context.steady.now())

    async def _events(self, actor: Caller, account: str | None, limit: int, request_id: str) -> list[Event]:
        return await self.overview.events(
            actor, after=None, limit=limit, account=account, request_id=request_id
        )

    def _item(self, account: Account) -> Item:
        return account_item(account, next_renewal_at=self._accounts.next_renewal_at(account))

    async def act(self, actor: Caller, name: str, action: str, *, request_id: str) -> Done:
        """Perform an action and say what was done, or why not; raises NotFound for an unknown action."""
        if action not in ACTIONS:
            raise NotFound
        try:
            return await self._act(actor, name, action, request_id)
        except BrokerError as exc:
            return Done(exc.detail, good=False)

    async def _act(self, actor: Caller, name: str, action: str, request_id: str) -> Done:
        match action:
            case "renew":
                handout = await self._tokens.override(actor, name, request_id=request_id)
                return Done(f"Renewed: generation {handout.account.generation}.")
            case "freeze":
                account = await self._accounts.freeze(actor, name, request_id=request_id)
                left = account.expires_at - self._context.steady.now()
                if left < 1:
                    return Done("Frozen: it is no longer renewed, and its token has expired.")
                return Done(f"Frozen: it is no longer renewed. Its token is issued for another {span(left)}.")
            case "unfreeze":
                await self._accounts.unfreeze(actor, name, request_id=request_id)
                return Done("Unfrozen: it is renewed again.")
            case "remove":
                await self._accounts.remove(actor, name, purge=False, revoke=False, request_id=request_id)
                return Done(f"{name} is removed. It can be restored for 30 days.", gone=True)
            case "restore":
                await self._accounts.restore(actor, name, request_id=request_id)
                return Done("The account is restored.")
            case _:
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
                return Done(f"Send this link to the customer. It works once, until {until}.", link=url)
