"""What can be seen at one moment: the store from outside, and the provider's own record, which is the judge."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from broker.model import Account, Secret, Spare
from broker.sandbox.faults import Mode
from broker.sandbox.issued import REFRESH_ROWS, RefreshToken, fingerprint, is_live
from broker.store.retained import renewals_spool
from broker.store.rows import COLUMNS, to_account
from tests.lifetimes.world import World, read_only

GRANT = "SELECT grant_id FROM refresh_tokens WHERE sha256 = ?"
NEWEST = "SELECT sha256 FROM refresh_tokens WHERE grant_id = ? ORDER BY n DESC LIMIT 1"
SPARES = "SELECT id, account, epoch, generation, sealed, received_at FROM spares"
EVENTS = "SELECT id, event, account, reason, generation FROM events ORDER BY id"


@dataclass(frozen=True, slots=True)
class Sight:
    """One account: its row, and what its refresh tokens are worth. Tokens are their SHA-256."""

    account: Account
    current: str
    kept: frozenset[str]
    """Refresh tokens that are durable: the row's, the spares', the spool's."""
    working: frozenset[str]
    """Those of them that the provider would renew."""
    newest: str
    """The last that the provider issued for the grant."""
    grant: int


@dataclass(frozen=True, slots=True)
class Request:
    """A renewal, as the provider saw it."""

    n: int
    token: str
    grant: int | None
    is_open: bool
    issued: str | None
    answered: bool
    """Whether the whole of the true answer was sent."""
    overlaps: bool
    """Whether another with the same token was not over when it came."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the broker's."""

    id: int
    kind: str
    account: str | None
    reason: str | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything at once."""

    now: float
    mode: Mode
    sights: Mapping[str, Sight]
    requests: tuple[Request, ...]
    events: tuple[Happened, ...]
    alive: frozenset[str]
    """Refresh tokens that the provider would renew, whoever has them."""
    flying: frozenset[str]
    """Accounts whose renewal is under way, or whose successor waits in memory for the store."""
    violations: float
    """Broken promises that the broker itself counted."""
    complaints: tuple[object, ...]


def look(world: World) -> Moment:
    """Read everything, past the broker's own memory."""
    broker = world.house.broker
    with (
        closing(read_only(world.store)) as store,
        closing(read_only(world.folder / "sandbox.db")) as judge,
    ):
        judge.row_factory = sqlite3.Row
        switches = world.house.sandbox.faults.switches("kit")
        tokens = [RefreshToken(**row) for row in judge.execute(REFRESH_ROWS)]
        alive = frozenset(token.sha256 for token in tokens if is_live(token, switches, world.now))
        accounts = [to_account(row) for row in store.execute(f"SELECT {COLUMNS} FROM accounts")]
        spares = [Spare(*row) for row in store.execute(SPARES)]
        return Moment(
            now=world.now,
            mode=world.mode,
            sights={account.name: _see(world, judge, account, spares, alive) for account in accounts},
            requests=tuple(_requests(judge)),
            events=tuple(Happened(*row) for row in store.execute(EVENTS)),
            alive=alive,
            flying=frozenset(a.name for a in accounts if broker.tokens.flights.is_running(a.ref)),
            violations=sum(
                sample.value
                for family in broker.context.metrics.invariant_violations.collect()
                for sample in family.samples
                if sample.name.endswith("_total")
            ),
            complaints=tuple(world.complaints()),
        )


def access_token(world: World, account: Account) -> str | None:
    token = world.house.broker.context.encryption.access_token(account)
    return None if token is None else token.reveal()


def _see(
    world: World, judge: sqlite3.Connection, account: Account, spares: list[Spare], alive: frozenset[str]
) -> Sight:
    current = _sha(world.house.broker.context.encryption.refresh_token(account))
    kept = frozenset({current, *_spare_tokens(world, account, spares), *_spooled(world, account)})
    [(grant,)] = judge.execute(GRANT, (current,))
    [(newest,)] = judge.execute(NEWEST, (grant,))
    return Sight(account, current, kept, kept & alive, newest, grant)


def _spare_tokens(world: World, account: Account, spares: list[Spare]) -> Iterator[str]:
    for spare in spares:
        if (spare.account, spare.epoch) == (account.name, account.epoch):
            yield _sha(world.house.broker.context.encryption.spare_token(spare))


def _spooled(world: World, account: Account) -> Iterator[str]:
    for _, successor in renewals_spool((world.store.with_name(world.store.name + ".spool"),)).read():
        parent = successor.parent
        if (parent.name, parent.epoch) == (account.name, account.epoch):
            stored = replace(
                account, generation=parent.generation + 1, sealed_refresh=successor.sealed_refresh
            )
            yield _sha(world.house.broker.context.encryption.refresh_token(stored))


def _requests(judge: sqlite3.Connection) -> Iterator[Request]:
    for row in judge.execute("SELECT * FROM requests WHERE kind = 'refresh' ORDER BY n"):
        yield Request(
            n=row["n"],
            token=row["token_sha256"],
            grant=row["grant_id"],
            is_open=row["ended"] is None,
            issued=row["issued_refresh_sha256"],
            answered=bool(row["answered"]),
            overlaps=row["beside"] != "[]",
        )


def _sha(token: Secret | None) -> str:
    return "" if token is None else fingerprint(token.reveal())
