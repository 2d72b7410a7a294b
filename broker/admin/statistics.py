"""How many accounts there are, of what status, and when their tokens end."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from broker.model import Status
from broker.store.accounts import AccountStore

SPAN = 6 * 3600.0
"""In which the ends of access tokens are counted together."""
USED_WITHIN = 86400.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """The accounts that are not removed, at one moment; of a large store, within some seconds."""

    counts: Mapping[tuple[str, Status], int]
    """By provider and status."""
    ends: Mapping[int, int]
    """How many access tokens end in the n-th `SPAN` of the epoch, of accounts that are not dead."""
    first_expiries: Mapping[str, float]
    """By provider, when the first token ends of those that were used in the last 24 hours and are not dead."""


async def read_statistics(store: AccountStore, now: float) -> Statistics:
    """Read all of it, in pages; raises StorageUnavailable."""
    counts: Counter[tuple[str, Status]] = Counter()
    ends: Counter[int] = Counter()
    first: dict[str, float] = {}
    async for group in store.groups(used_since=now - USED_WITHIN, span=SPAN):
        counts[group.provider, group.status] += group.count
        if group.status is Status.NEEDS_REAUTHORIZATION:
            continue
        ends[group.span] += group.count
        if group.is_used:
            first[group.provider] = min(group.first_expiry, first.get(group.provider, group.first_expiry))
    return Statistics(counts, ends, first)
