"""Counts everything that is sealed by the key that sealed it, wherever it lies."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from broker.keyring import Keyring, kid_at_front
from broker.store.keys import UNKNOWN, RecordStore

ByKey = Mapping[str, Mapping[str, int]]
"""How many records by key id, and then by where they lie."""
Elsewhere = Callable[[], Mapping[str, Iterable[str]]]
"""Records outside the store, by where they lie; a file that cannot be read is an empty record."""


class Census:
    """What is sealed with which key."""

    def __init__(self, *, records: RecordStore, elsewhere: Elsewhere, keyring: Keyring) -> None:
        self._records, self._elsewhere, self._keyring = records, elsewhere, keyring

    async def take(self) -> ByKey:
        """Count all of it; raises StorageUnavailable."""
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for where, counts in (await self._records.counts()).items():
            for kid, count in counts.items():
                found[kid][where] = count
        for where, records in self._elsewhere().items():
            for kid, count in Counter(kid_at_front(record) or UNKNOWN for record in records).items():
                found[kid][where] = count
        return found

    async def totals(self) -> Mapping[str, int]:
        """The same by key id alone, also of keys that nothing is sealed with; raises StorageUnavailable."""
        totals = {kid: sum(places.values()) for kid, places in (await self.take()).items()}
        return dict.fromkeys(self._keyring.kids, 0) | totals
