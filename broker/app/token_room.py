"""The room where tokens are handed out and renewed."""

import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass

from broker.app.foundation import Foundation
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
    base: Foundation, timings: Timings, spool: Spool[Successor], watch: Watch, closing: AsyncExitStack
) -> TokenRoom:
    """Renewals first, which hand out nothing; then who hands out, and starts none by itself."""
    retained = _retained(base, timings, spool, watch, closing)
    permit = Permit(
        settings=base.settings.providers,
        timings=timings,
        store_is_ready=lambda: base.store_health.is_ready() and not len(retained),
    )
    leases = _leases(base, timings, permit)
    refresher = Refresher(
        store=base.stores.accounts,
        providers=base.providers.by_name,
        encryption=base.encryption,
        permit=permit,
        retained=retained,
        clock=base.steady,
        leases=leases,
        settings=base.settings.refresh,
        timings=timings,
        metrics=base.metrics,
        watch=watch,
    )
    flights = Flights(refresher.renew, clock=base.clock)
    recovery = Recovery(
        store=base.stores.accounts,
        retained=retained,
        permit=permit,
        flights=flights,
        clock=base.steady,
        timings=timings,
        owner=leases.owner,
        replica=base.settings.store.replica if base.stores.database.dialect.shared else None,
    )
    opened, waiters = _listening(base)
    uses = Uses(base.stores.accounts)
    service = _service(base, permit, flights, opened=opened, waiters=waiters, uses=uses)
    timekeeper = Timekeeper(
        clock=base.steady,
        machine=base.clock,
        reference=base.reference,
        shared=base.stores.database.dialect.shared,
        store=base.stores.accounts,
        permit=permit,
        health=base.health,
        forget=base.stores.changes.missed,
    )
    return TokenRoom(
        permit, retained, refresher, flights, recovery, waiters, service, opened, uses, timekeeper
    )


def _retained(
    base: Foundation, timings: Timings, spool: Spool[Successor], watch: Watch, closing: AsyncExitStack
) -> RetainedCommits:
    retained = RetainedCommits(
        store=base.stores.accounts,
        spool=spool,
        encryption=base.encryption,
        clock=base.clock,
        timings=timings,
        health=base.health,
        metrics=base.metrics,
        watch=watch,
    )
    closing.push_async_callback(retained.abandon)
    return retained


def _leases(base: Foundation, timings: Timings, permit: Permit) -> Leases:
    return Leases(
        store=base.stores.accounts,
        changes=base.stores.changes,
        clock=base.steady,
        timings=timings,
        owner=f"{secrets.token_hex(BOOT_WIDTH // 2)}@{base.settings.store.replica}",
        timeout=base.settings.refresh.timeout,
        grace=permit.grace,
        up_for=base.store_health.up_for,
    )


def _listening(base: Foundation) -> tuple[OpenedAccounts, Waiters]:
    """Who hears of changes: first the memory of opened accounts, then those whom it wakes to read what is new."""
    changes = base.stores.changes
    opened = OpenedAccounts(
        store=base.stores.accounts,
        encryption=base.encryption,
        limit=base.settings.store.memory,
        are_heard=changes.are_heard,
        set_back=base.health.set_back,
    )
    waiters = Waiters(clock=base.clock)
    changes.listen(opened.forget, opened.forget_all)
    changes.listen(waiters.heard, waiters.missed)
    return opened, waiters


def _service(
    base: Foundation,
    permit: Permit,
    flights: Flights,
    *,
    opened: OpenedAccounts,
    waiters: Waiters,
    uses: Uses,
) -> TokenService:
    return TokenService(
        opened=opened,
        store=base.stores.accounts,
        flights=flights,
        permit=permit,
        authorizer=base.authorizer,
        clock=base.steady,
        settings=base.settings.refresh,
        metrics=base.metrics,
        account_page=lambda name: f"{base.settings.server.internal_url}/dashboard/accounts/{name}",
        waiters=waiters,
        uses=uses,
    )
