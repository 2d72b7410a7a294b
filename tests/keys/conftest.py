"""A store with its ring, as the broker opens them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.config.settings import FileKey
from broker.encryption.tokens import LATE, VERIFIER, TokenEncryption, after
from broker.keys import Rewrapper, StoredKeyring, open_ring
from broker.model import Account, PendingGrant, PendingInstall, Ref, Secret, Spare, Successor
from broker.store import Stores
from broker.store.keys import KeyStore
from broker.store.sqlite import SqliteDatabase
from tests.fakes.clock import FakeClock
from tests.store import rows
from tests.template import put_store


@dataclass(frozen=True, slots=True)
class Sealed:
    """A store, its ring, and what a test seals by hand."""

    database: SqliteDatabase
    ring: StoredKeyring
    stores: Stores
    clock: FakeClock
    source: FileKey

    @property
    def encryption(self) -> TokenEncryption:
        return TokenEncryption(self.ring.keyring)

    @property
    def rewrapper(self) -> Rewrapper:
        return Rewrapper(records=self.stores.records, keyring=self.ring.keyring, clock=self.clock, pause=0.0)

    async def other(self) -> "Sealed":
        """The same store as another process sees it: a ring of its own, read now."""
        ring = await open_ring(KeyStore(self.database), self.source, self.clock)
        return _opened(self.database, ring, self.clock, self.source)

    def account(self, name: str = "acme", generation: int = 1) -> Account:
        one = rows.account(name, generation=generation)
        access, refresh = self.encryption.encrypt(
            one.ref, Secret(f"at-{generation}"), Secret(f"rt-{generation}")
        )
        return Account(
            **{
                **{slot: getattr(one, slot) for slot in one.__slots__},
                "sealed_access": access,
                "sealed_refresh": refresh,
            }
        )

    async def connect(self, name: str = "acme") -> Account:
        one = self.account(name)
        assert await self.stores.accounts.connect(one, expected=None, next_at=None, grant=None, events=[])
        return one

    def successor(self, parent: Ref) -> Successor:
        number = parent.generation + 1
        access, refresh = self.encryption.encrypt(
            after(parent), Secret(f"at-{number}"), Secret(f"rt-{number}")
        )
        return Successor(parent, access, refresh, "Bearer", "public", 900, 1900, 900, None, False)

    def spare(self, parent: Ref, id_: str) -> Spare:
        sealed = self.encryption.encrypt_spare(parent, id_, Secret(f"spare-{id_}"))
        return Spare(id_, parent.name, parent.epoch, parent.generation, sealed, 5.0)

    def install(self, state_hash: str = "state") -> PendingInstall:
        one = rows.install(state_hash)
        verifier = self.encryption.encrypt_pending(state_hash, VERIFIER, Secret("verifier"))
        return PendingInstall(
            **{**{slot: getattr(one, slot) for slot in one.__slots__}, "sealed_verifier": verifier}
        )

    def grant(self, install: PendingInstall) -> PendingGrant:
        access = self.encryption.encrypt_pending(install.state_hash, "access_token", Secret("pending-at"))
        refresh = self.encryption.encrypt_pending(install.state_hash, "refresh_token", Secret("pending-rt"))
        return PendingGrant(install, access, refresh, "Bearer", "public", 1.0, 2.0, 50.0)

    async def fill(self) -> None:
        """Something of everything that is ever sealed."""
        await self.connect("acme")
        await self.connect("removed")
        await self.stores.accounts.remove("removed", 50.0, [])
        for id_ in ("salvaged", f"{LATE}spare"):
            await self.stores.accounts.add_spare(self.spare(rows.FIRST, id_))
        await self.stores.installs.begin_install(self.install())
        await self.stores.installs.hold_grant(self.grant(self.install()))

    async def opens(self) -> bool:
        """Whether everything that `fill` sealed still opens to what it was."""
        encryption, stores = self.encryption, self.stores
        for name in ("acme", "removed"):
            one = await stores.accounts.get(name)
            assert one is not None
            assert (Secret("at-1"), Secret("rt-1")) == (
                encryption.access_token(one),
                encryption.refresh_token(one),
            )
        for spare in await stores.accounts.spares("acme", 1):
            assert Secret(f"spare-{spare.id}") == encryption.spare_token(spare)
        [grant] = await stores.installs.held_grants(50.0, 9)
        assert Secret("verifier") == encryption.decrypt_pending(
            "state", VERIFIER, grant.install.sealed_verifier
        )
        assert Secret("pending-at") == encryption.decrypt_pending(
            "state", "access_token", grant.sealed_access
        )
        assert Secret("pending-rt") == encryption.decrypt_pending(
            "state", "refresh_token", grant.sealed_refresh
        )
        return True

    async def account_generation(self, name: str = "acme") -> int:
        one = await self.stores.accounts.get(name)
        assert one is not None
        return one.generation

    async def totals(self) -> dict[str, int]:
        """How many records there are by key id."""
        found: dict[str, int] = {}
        for counts in (await self.stores.records.counts()).values():
            for kid, count in counts.items():
                found[kid] = found.get(kid, 0) + count
        return found


def _opened(database: SqliteDatabase, ring: StoredKeyring, clock: FakeClock, source: FileKey) -> Sealed:
    stores = Stores(database, keyring=ring.keyring, catch_up=ring.catch_up)
    return Sealed(database, ring, stores, clock, source)


@pytest.fixture
async def sealed(tmp_path: Path) -> AsyncIterator[Sealed]:
    await put_store(path := tmp_path / "store" / "broker.db")
    database = await SqliteDatabase.open(path)
    clock, source = FakeClock(), FileKey(tmp_path / "master.key")
    ring = await open_ring(KeyStore(database), source, clock)
    yield _opened(database, ring, clock, source)
    await database.close()
