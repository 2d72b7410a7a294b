"""Counts everything that is sealed by the key that sealed it, wherever it lies."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from broker.clock import Clock
from broker.keyring import Keyring, kid_at_front
from broker.store.keys_interface import RecordStore
from broker.store.sealed import UNKNOWN

RECENT = 60.0

ByKey = Mapping[str, Mapping[str, int]]
"""How many records by key id, and then by where they lie."""
Elsewhere = Callable[[], Mapping[str, Iterable[str]]]
"""Records outside the store, by where they lie; a file that cannot be read is an empty record."""


class Census:
    """What is sealed with which key."""

    def __init__(self, *, records: RecordStore, elsewhere: Elsewhere, keyring: Keyring, clock: Clock) -> None:
        self._records, self._elsewhere, self._keyring, self._clock = records, elsewhere, keyring, clock
        self._recent: Mapping[str, int] = {}
        self._taken_at = float("-inf")

    async def take(self) -> ByKey:
        """Count all of it; raises StorageUnavailable."""
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for where, counts in (await self._records.counts()).items():
            for kid, count in counts.items():
                found[kid][where] = count
        for where, records in self._elsewhere().items():
            for kid, count in Counter(kid_at_front(record) or UNKNOWN for record in records).items():
                found[kid][where] = count
        totals = {kid: sum(places.values()) for kid, places in found.items()}
        self._recent = dict.fromkeys(self._keyring.kids, 0) | totals
        self._taken_at = self._clock.monotonic()
        return found

    async def recent(self) -> Mapping[str, int]:
        """Totals by key id, at most a minute old: on a large store a count is a walk."""
        if self._clock.monotonic() - self._taken_at > RECENT:
            await self.take()
        return self._recent
