"""The contract of what holds wrapped keys, and of everything that is sealed with them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from broker.keyring import WrappedKey
from broker.store.sealed import SealedColumn, SealedRecord


class KeyStore(Protocol):
    """Wrapped keys, and what the store says of itself."""

    async def keys(self) -> list[WrappedKey]: ...

    async def add_first_keys(self, keys: Sequence[WrappedKey]) -> bool:
        """Store the first keys. False if the store holds keys or anything sealed already."""
        ...

    async def add_key(self, key: WrappedKey) -> None:
        """Store a key and make it the active one of its purpose."""
        ...

    async def retire_key(self, kid: str, at: float) -> bool:
        """Seal nothing with that data key any more. False: it is active, retired already, or there is none."""
        ...

    async def forget_retired_keys(self, before: float) -> int:
        """Forget the keys that were retired before then; their ids stay, so that none comes back. How many."""
        ...

    async def rewrap_keys(self, old: Sequence[WrappedKey], new: Sequence[WrappedKey]) -> None:
        """Replace how keys are wrapped, all or none; whoever was faster has done the same."""
        ...

    async def is_empty(self) -> bool:
        """Whether the store holds nothing that a key was needed for."""
        ...

    async def has_no_accounts(self) -> bool:
        """Whether there is not one account, removed ones included."""
        ...

    async def meta(self, key: str) -> str | None: ...

    async def set_meta(self, key: str, value: str) -> None: ...


class RecordStore(Protocol):
    """Everything sealed, whatever it is for."""

    async def counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many records lie in each column by the id of the key that sealed them."""
        ...

    async def page(self, column: SealedColumn, after: str, limit: int) -> list[SealedRecord]:
        """Records of a column behind the row `after`, in the order of the rows."""
        ...

    async def replace(self, column: SealedColumn, resealed: Sequence[tuple[SealedRecord, str]]) -> int:
        """Put new records in the place of old ones, each only while the old one lies there; how many did."""
        ...
