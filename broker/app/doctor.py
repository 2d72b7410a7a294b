"""Wires `broker check` for a running broker."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
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
from broker.app.foundation import Foundation
from broker.app.rooms import KeyRoom, Rooms
from broker.providers.client import Answer, ProviderClient

PROBE_TIMEOUT = 5.0
REQUEST_ID = "X-Request-Id"


def build_check(
    base: Foundation, rooms: Rooms, environ: Mapping[str, str]
) -> Callable[[], Awaitable[list[Check]]]:
    """Everything that is looked over."""

    async def check() -> list[Check]:
        by_name, now = base.providers.by_name, base.clock.now()
        # A reload may have brought others.
        current = {name: provider.settings for name, provider in by_name.items()}
        settings = replace(base.settings, providers=current)
        return [
            *config_checks(settings.path, environ),
            *settings_checks(settings),
            *await ring_checks(base, rooms.keys),
            *await rooms.adoption.checks(),
            *tls_checks(settings.server, now),
            *store_checks(await read_statistics(base.stores.accounts, now), settings.store.path.parent),
            *await leftover_checks(base.stores.accounts, _left(rooms), now),
            *await identity_checks(base.stores.accounts),
            audit_check(settings.audit.path, base.audit.backlog),
            *standing_checks(base.health.standing),
            *address_checks(settings),
            await reachable_check(settings.server.public_url, partial(leads_elsewhere, base.http)),
            *await rooms.overview.checks(),
            *await provider_checks(by_name),
        ]

    return check


async def ring_checks(base: Foundation, keys: KeyRoom) -> list[Check]:
    counts = await keys.census.take()
    return key_checks(base.settings, await base.stores.keys.keys(), counts, base.clock.now())


async def leads_elsewhere(http: ProviderClient, url: str) -> str | None:
    """Why `url` does not lead to a broker, None where it does: that gives a request's id back."""
    id_ = secrets.token_hex(16)
    reply = await http.get(f"{url}/", headers={REQUEST_ID: id_}, timeout=PROBE_TIMEOUT, public_only=False)
    if not isinstance(reply, Answer):
        return f"{url} cannot be reached from this machine ({reply.why})"
    if reply.headers.get(REQUEST_ID) != id_:
        return f"at {url} something else answers (status {reply.status})"
    return None


def _left(rooms: Rooms) -> Leftovers:
    retained = len(rooms.tokens.retained) + len(rooms.installs.late)
    return Leftovers(spooled=len(rooms.spools), retained=retained, is_running=True)
