"""What is counted in the store for operators: all of it once, in pages."""

from dataclasses import replace

import pytest

from broker.admin.overview import SPAN, read_statistics
from broker.model import Reason, Status
from broker.store import Stores
from tests.store.rows import account, connect

NOW = 10 * 86400.0


async def test_first_expiry_is_that_of_used_accounts(stores: Stores) -> None:
    """Dead, removed and unused ones frighten nobody; each provider has its own."""
    used = replace(account("used"), expires_at=1000.0, last_used_at=NOW - 60)
    rows = [
        used,
        replace(used, name="later", expires_at=1900.0),
        replace(used, name="elsewhere", provider="kustomer", expires_at=500.0),
        replace(used, name="unused", expires_at=1.0, last_used_at=None),
        replace(used, name="used long ago", expires_at=2.0, last_used_at=NOW - 86401),
        replace(used, name="dead", expires_at=3.0, dead=Reason.LOST_ROTATION),
        replace(used, name="removed", expires_at=4.0, removed_at=5.0),
    ]
    for row in rows:
        await stores.accounts.connect(row, expected=None, next_at=None, grant=None, events=[])

    assert {"kit": 1000.0, "kustomer": 500.0} == (await read_statistics(stores.accounts, NOW)).first_expiries


async def test_ends_are_counted_by_span(stores: Stores) -> None:
    """Of all that are alive; a span begins with its first second."""
    ends = {"a": SPAN - 1, "b": SPAN, "c": 2 * SPAN - 0.5, "d": 2 * SPAN, "dead": 3 * SPAN}
    for name, end in ends.items():
        dead = Reason.REVOKED_OR_EXPIRED if name == "dead" else None
        row = replace(account(name), expires_at=end, dead=dead)
        await stores.accounts.connect(row, expected=None, next_at=None, grant=None, events=[])

    assert {0: 1, 1: 2, 2: 1} == (await read_statistics(stores.accounts, NOW)).ends


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
async def test_every_account_is_counted_once(stores: Stores, count: int) -> None:
    """Whatever the pages, here of three; one of removed accounts alone does not end it."""
    names = [f"acme-{number}" for number in range(count)]
    for name in names:
        await connect(stores, name)
    first_page = names[:3] if count > 3 else []
    for name in first_page:
        await stores.accounts.remove(name, 1.0, [])

    groups = [group async for group in stores.accounts.groups(used_since=NOW, span=SPAN, at_once=3)]

    assert count - len(first_page) == sum(group.count for group in groups)
    assert {Status.ACTIVE} >= {group.status for group in groups}
