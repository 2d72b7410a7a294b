"""The room where tokens are handed out and renewed."""

import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass

from broker.context import Context
from broker.model import Successor
from broker.store.renewals import BOOT_WIDTH
from broker.store.spool import Spool
from broker.tokens.flight import Flights
from broker.tokens.leases import Leases
from broker.tokens.opened import OpenedAccounts
from broker.tokens.permit import Permit
from broker.tokens.recovery import Recovery
from broker.tokens.refresh import Refresher
from broker.tokens.retained import RetainedCommits
from broker.tokens.schedule import Timings
from broker.tokens.service import TokenService
from broker.tokens.steps import Watch
from broker.tokens.timekeeping import Timekeeper
from broker.tokens.uses import Uses
from broker.tokens.waiting import Waiters


@dataclass(frozen=True, slots=True)
class TokenRoom:
    """Handing out and renewing."""

    permit: Permit
    retained: RetainedCommits
    refresher: Refresher
    flights: Flights
    recovery: Recovery
    waiters: Waiters
    service: TokenService
    opened: OpenedAccounts
    uses: Uses
    timekeeper: Timekeeper


def build_tokens(
    context: Context, timings: Timings, spool: Spool[Successor], watch: Watch, closing: AsyncExitStack
) -> TokenRoom:
    """Renewals first, which hand out nothing; then who hands out, and starts none by itself."""
    retained = _retained(context, timings, spool, watch, closing)
    permit = Permit(
        providers=context.providers,
        timings=timings,
        store_is_ready=lambda: context.store_health.is_ready() and not len(retained),
    )
    leases = _leases(context, timings, permit)
    refresher = Refresher(
        store=context.stores.accounts,
        providers=context.providers,
        encryption=context.encryption,
        permit=permit,
        retained=retained,
        clock=context.steady,
        leases=leases,
        settings=context.settings.refresh,
        timings=timings,
        metrics=context.metrics,
        watch=watch,
    )
    flights = Flights(refresher.renew, clock=context.clock)
    recovery = Recovery(
        store=context.stores.accounts,
        retained=retained,
        permit=permit,
        flights=flights,
        clock=context.steady,
        timings=timings,
        owner=leases.owner,
        replica=context.settings.store.replica if context.stores.database.dialect.shared else None,
    )
    opened, waiters = _listening(context)
    uses = Uses(context.stores.accounts)
    service = _service(context, permit, flights, opened=opened, waiters=waiters, uses=uses)
    timekeeper = Timekeeper(
        clock=context.steady,
        machine=context.clock,
        reference=context.reference,
        shared=context.stores.database.dialect.shared,
        store=context.stores.accounts,
        permit=permit,
        health=context.health,
        forget=context.stores.changes.missed,
    )
    return TokenRoom(
        permit, retained, refresher, flights, recovery, waiters, service, opened, uses, timekeeper
    )


def _retained(
    context: Context, timings: Timings, spool: Spool[Successor], watch: Watch, closing: AsyncExitStack
) -> RetainedCommits:
    retained = RetainedCommits(
        store=context.stores.accounts,
        spool=spool,
        encryption=context.encryption,
        clock=context.clock,
        timings=timings,
        health=context.health,
        metrics=context.metrics,
        watch=watch,
    )
    closing.push_async_callback(retained.abandon)
    return retained


def _leases(context: Context, timings: Timings, permit: Permit) -> Leases:
    return Leases(
        store=context.stores.accounts,
        changes=context.stores.changes,
        clock=context.steady,
        timings=timings,
        owner=f"{secrets.token_hex(BOOT_WIDTH // 2)}@{context.settings.store.replica}",
        timeout=context.settings.refresh.timeout,
        grace=permit.grace,
        up_for=context.store_health.up_for,
    )


def _listening(context: Context) -> tuple[OpenedAccounts, Waiters]:
    """Who hears of changes: first the memory of opened accounts, then those whom it wakes to read what is new."""
    changes = context.stores.changes
    opened = OpenedAccounts(
        store=context.stores.accounts,
        encryption=context.encryption,
        limit=context.settings.store.memory,
        are_heard=changes.are_heard,
        set_back=context.health.set_back,
    )
    waiters = Waiters(clock=context.clock)
    changes.listen(opened.forget, opened.forget_all)
    changes.listen(waiters.heard, waiters.missed)
    return opened, waiters


def _service(
    context: Context,
    permit: Permit,
    flights: Flights,
    *,
    opened: OpenedAccounts,
    waiters: Waiters,
    uses: Uses,
) -> TokenService:
    return TokenService(
        opened=opened,
        store=context.stores.accounts,
        flights=flights,
        permit=permit,
        authorizer=context.authorizer,
        clock=context.steady,
        settings=context.settings.refresh,
        metrics=context.metrics,
        account_page=lambda name: f"{context.settings.server.internal_url}/dashboard/accounts/{name}",
        waiters=waiters,
        uses=uses,
    )
