"""Wires `broker check` for a running broker."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from broker.admin.checks import (
    Check,
    address_checks,
    config_checks,
    provider_checks,
    reachable_check,
    settings_checks,
    tls_checks,
)
from broker.admin.overview import read_statistics
from broker.admin.store_checks import (
    Leftovers,
    audit_check,
    identity_checks,
    key_checks,
    leftover_checks,
    standing_checks,
    store_checks,
)
from broker.app.services import Services
from broker.providers.client import Answer, ProviderClient

PROBE_TIMEOUT = 5.0
REQUEST_ID = "X-Request-Id"


def build_check(services: Services, environ: Mapping[str, str]) -> Callable[[], Awaitable[list[Check]]]:
    """Everything that is looked over."""

    async def check() -> list[Check]:
        context = services.context
        settings, now = context.settings, context.clock.now()
        return [
            *config_checks(settings.path, environ),
            *settings_checks(settings),
            *await ring_checks(services),
            *await services.adoption.checks(),
            *tls_checks(settings.server, now),
            *store_checks(await read_statistics(context.stores.accounts, now), settings.store.path.parent),
            *await leftover_checks(context.stores.accounts, _left(services), now),
            *await identity_checks(context.stores.accounts),
            audit_check(settings.audit.path, context.audit.backlog),
            *standing_checks(context.health.standing),
            *address_checks(settings),
            await reachable_check(settings.server.public_url, partial(leads_elsewhere, context.http)),
            *await services.overview.checks(),
            *await provider_checks(context.providers),
        ]

    return check


async def ring_checks(services: Services) -> list[Check]:
    context = services.context
    counts = await services.keys.census.take()
    return key_checks(context.settings, await context.stores.keys.keys(), counts, context.clock.now())


async def leads_elsewhere(http: ProviderClient, url: str) -> str | None:
    """Why `url` does not lead to a broker, None where it does: that gives a request's id back."""
    id_ = secrets.token_hex(16)
    reply = await http.get(f"{url}/", headers={REQUEST_ID: id_}, timeout=PROBE_TIMEOUT, public_only=False)
    if not isinstance(reply, Answer):
        return f"{url} cannot be reached from this machine ({reply.why})"
    if reply.headers.get(REQUEST_ID) != id_:
        return f"at {url} something else answers (status {reply.status})"
    return None


def _left(services: Services) -> Leftovers:
    retained = len(services.tokens.retained) + len(services.installs.late)
    return Leftovers(spooled=len(services.spools), retained=retained, is_running=True)
