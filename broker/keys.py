"""The keyring of a store, read with its master key and kept up to date, and re-encryption with the active key."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from broker.clock import Clock
from broker.config.secrets import mode_problem
from broker.config.settings import CommandKey, FileKey, MasterKey
from broker.encryption.keyring import (
    DecryptionFailed,
    KeyNotActive,
    Keyring,
    Master,
    Purpose,
    WrappedKey,
    WrongMaster,
    kid_at_front,
    kid_of,
    new_key,
    new_kid,
    new_master_text,
    parse_master,
)
from broker.errors import InvalidRequest, StartRefused
from broker.files import write_own
from broker.store.keys import ENCRYPTED, UNKNOWN, EncryptedColumn, EncryptedRecord, KeyStore, RecordStore

log = structlog.get_logger()
PAGE = 200
LOOKED_AT = 1000
"""The least number of records that one step examines."""
BATCH = 32
"""Records in one transaction, for which a renewal waits some milliseconds."""
PAUSE = 0.02
"""Seconds between two batches, in which others can write."""
COMMAND_TIMEOUT = 10.0
ByKey = Mapping[str, Mapping[str, int]]
"""The number of records by key id, and then by their place."""
Elsewhere = Callable[[], Mapping[str, Iterable[str]]]
"""Records outside the store, by their place; a file that cannot be read is an empty record."""


class StoredKeyring:
    """The keyring of a store, which takes over new keys of this and other processes."""

    def __init__(self, *, store: KeyStore, masters: Sequence[Master], keyring: Keyring, clock: Clock) -> None:
        self._store, self._masters, self._clock = store, masters, clock
        self.keyring = keyring

    async def catch_up(self) -> None:
        """Take over the keys that the store has now; raises StorageUnavailable."""
        found: dict[str, bytes] = {}
        active = self.keyring.active
        for key in await self._store.keys():
            if key.purpose is not Purpose.DATA or not key.wrapped:
                continue
            if not self.keyring.holds(key.kid):
                try:
                    found[key.kid] = _unwrapped(self._masters, key)
                except WrongMaster as exc:
                    log.error("key.unwrap_failed", kid=key.kid, why=str(exc))
                    continue
            if key.active:
                active = key.kid
        self.keyring.take(found, active=active)

    async def add_key(self) -> WrappedKey:
        """Make a new data key and activate it for every process on this store."""
        raw = new_key()
        key = self._masters[0].wrap(raw, kid=new_kid(), purpose=Purpose.DATA, created_at=self._clock.now())
        # Stored first, because a record encrypted with a key that was never stored is lost.
        await self._store.add_key(key)
        self.keyring.take({key.kid: raw}, active=key.kid)
        log.warning("key.added", kid=key.kid)
        return key


async def open_ring(
    store: KeyStore, source: MasterKey, clock: Clock, *, previous: MasterKey | None = None
) -> StoredKeyring:
    """Return the keyring of this store; raises StartRefused, whose message names the wrong key.

    A missing master key file is created only for an empty store. Keys that `previous` wrapped are wrapped again with
    the current master key.
    """
    empty = await store.is_empty()
    master = await read_master(source, key="keys.master", may_create=empty)
    if empty:
        at = clock.now()
        first = [master.wrap(new_key(), kid=new_kid(), purpose=one, created_at=at) for one in Purpose]
        await store.add_first_keys(first)
    stored = await store.keys()
    masters = [master]
    if previous is not None:
        try:
            masters.append(await read_master(previous, key="keys.previous"))
        except StartRefused as exc:
            if any(key.master_id != master.id for key in stored if key.wrapped):
                raise
            # All keys are wrapped again, so the old master key may be gone.
            log.warning("keys.previous_not_needed", why=str(exc))
    raw: dict[str, bytes] = {}
    for key in stored:
        try:
            if key.wrapped:
                raw[key.kid] = _unwrapped(masters, key)
        except WrongMaster as exc:
            if key.retired_at is None:
                raise StartRefused(f"{exc}; put the right one back, the store is untouched") from None
            log.warning("key.retired_unwrap_failed", kid=key.kid, why=str(exc))
    usable = [key for key in stored if key.kid in raw]
    if old := [key for key in usable if key.master_id != master.id]:
        await store.rewrap_keys(old, [master.wrap_again(key, raw[key.kid]) for key in old])
        log.warning("keys.rewrapped", master=master.id, keys=[key.kid for key in old])
    data = [key for key in usable if key.purpose is Purpose.DATA]
    active = [key.kid for key in data if key.active]
    index = [raw[key.kid] for key in usable if key.purpose is Purpose.INDEX]
    if not active or not index:
        raise StartRefused("the store holds records but no keys; restore it from a backup")
    keyring = Keyring(active=active[-1], keys={key.kid: raw[key.kid] for key in data}, index_key=index[0])
    return StoredKeyring(store=store, masters=masters, keyring=keyring, clock=clock)


def _unwrapped(masters: Sequence[Master], key: WrappedKey) -> bytes:
    """Unwrap a key with the master that wrapped it; raises WrongMaster, whose message names all that were tried."""
    for master in masters:
        if master.id == key.master_id:
            return master.unwrap(key)
    if len(masters) == 1:
        return masters[0].unwrap(key)
    raise WrongMaster(
        f"the master keys do not open this store: key {key.kid} was wrapped by master {key.master_id},"
        f" keys.master is {masters[0].id} and keys.previous is {masters[1].id}"
    )


async def read_master(
    source: MasterKey, *, key: str, may_create: bool = False, timeout: float = COMMAND_TIMEOUT
) -> Master:
    """Read the master key that the configuration has at `key`; raises StartRefused, whose message says what to do."""
    raw = await (
        _run(source, key, timeout)
        if isinstance(source, CommandKey)
        else asyncio.to_thread(_read, source, key, may_create)
    )
    try:
        return parse_master(raw)
    except ValueError as exc:
        raise StartRefused(f"{key}: {exc}") from None


def _read(source: FileKey, key: str, may_create: bool) -> bytes:
    path = source.path
    if not path.exists():
        if not (may_create and source.created):
            raise StartRefused(
                f"{key}: the master key {path} is missing, and the store has keys that it encrypted;"
                " put the key back (a new one could not decrypt them)"
                if not may_create
                else f"{key}: the master key {path} is missing; systemd should have put it there (LoadCredential=)"
            )
        # Durable before it is used, because a store is lost if a power cut takes its key.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_own(path, new_master_text().encode())
    try:
        if not path.is_file():
            raise StartRefused(f"{key}: the master key {path} is no file; put the key there")
        if source.created and (problem := mode_problem(path)):
            exposed, is_refused = problem
            if is_refused:
                raise StartRefused(f"{key}: the master key {path} is {exposed}")
            log.warning("secret.readable", file=str(path), mode=f"{exposed.mode:o}")
        return path.read_bytes()
    except OSError as exc:
        raise StartRefused(f"{key}: the master key {path} cannot be read: {exc.strerror}") from None


async def _run(source: CommandKey, key: str, timeout: float) -> bytes:
    name = source.argv[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *source.argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as exc:
        raise StartRefused(f"{key}: the command {name} failed ({type(exc).__name__})") from None
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise StartRefused(f"{key}: the command {name} has not ended within {timeout:g} s") from None
    if process.returncode != 0:
        raise StartRefused(f"{key}: the command {name} ended with {process.returncode}")
    return output


class Census:
    """The number of records that are encrypted with each key."""

    def __init__(self, *, records: RecordStore, elsewhere: Elsewhere, keyring: Keyring) -> None:
        self._records, self._elsewhere, self._keyring = records, elsewhere, keyring

    async def take(self) -> ByKey:
        """Count all records; raises StorageUnavailable."""
        places = dict(await self._records.counts())
        for where, records in self._elsewhere().items():
            places[where] = Counter(kid_at_front(record) or UNKNOWN for record in records)
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for where, counts in places.items():
            for kid, count in counts.items():
                found[kid][where] = count
        return found

    async def totals(self) -> Mapping[str, int]:
        """Return the totals by key id, including keys without records; raises StorageUnavailable."""
        totals = {kid: sum(places.values()) for kid, places in (await self.take()).items()}
        return dict.fromkeys(self._keyring.kids, 0) | totals


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one step of re-encryption."""

    looked_at: int = 0
    reencrypted: int = 0
    unreadable: tuple[str, ...] = ()
    """The places of records that cannot be decrypted."""
    cursor: str | None = None
    """The place from which to continue; None at the end."""


class Rewrapper:
    """Re-encrypts the records of all columns, unless a row has changed since it was read."""

    def __init__(self, *, records: RecordStore, keyring: Keyring, clock: Clock, pause: float = PAUSE) -> None:
        self._records, self._keyring, self._clock, self._pause = records, keyring, clock, pause

    async def step(self, cursor: str | None) -> Step:
        """Continue from `cursor`, or begin if it is None; raises InvalidRequest, StorageUnavailable."""
        number, after = 0, ""
        if cursor is not None:
            name, _, after = cursor.partition(":")
            names = [column.name for column in ENCRYPTED]
            if name not in names:
                raise InvalidRequest("cursor is not from an earlier answer")
            number = names.index(name)
        step = Step()
        while number < len(ENCRYPTED):
            page = await self._records.page(ENCRYPTED[number], after, PAGE)
            try:
                step = await self._reencrypt(ENCRYPTED[number], page, step)
            except KeyNotActive:
                # Another key was made active in the meantime; the keyring has it by now.
                break
            number, after = (number, page[-1].key) if len(page) == PAGE else (number + 1, "")
            if step.looked_at >= LOOKED_AT:
                break
        is_end = number == len(ENCRYPTED)
        return replace(step, cursor=None if is_end else f"{ENCRYPTED[number].name}:{after}")

    async def _reencrypt(self, column: EncryptedColumn, page: Sequence[EncryptedRecord], step: Step) -> Step:
        reencrypted: list[tuple[EncryptedRecord, str]] = []
        unreadable = list(step.unreadable)
        changed = 0
        for record in page:
            try:
                if kid_of(record.record) != self._keyring.active:
                    reencrypted.append((record, self._keyring.reencrypt(record.place, record.record)))
            except DecryptionFailed as exc:
                unreadable.append(f"{column.name} of {record.key}")
                log.error("record.decryption_failed", column=column.name, row=record.key, why=str(exc))
        for start in range(0, len(reencrypted), BATCH):
            batch = reencrypted[start : start + BATCH]
            changed += await self._records.replace(column, batch)
            await self._clock.sleep(self._pause if len(reencrypted) > BATCH else 0)
        return Step(step.looked_at + len(page), step.reencrypted + changed, tuple(unreadable))
