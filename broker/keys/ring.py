"""Reads the keyring of a store with its master key, and keeps it up to date while the broker runs."""

import asyncio
from collections.abc import Sequence

import structlog

from broker.clock import Clock
from broker.config.secrets import mode_problem
from broker.config.settings import CommandKey, FileKey, MasterKey
from broker.encryption.keyring import (
    Keyring,
    Master,
    Purpose,
    WrappedKey,
    WrongMaster,
    new_key,
    new_kid,
    new_master_text,
    parse_master,
)
from broker.errors import StartRefused
from broker.files import write_own
from broker.store.keys import KeyStore

log = structlog.get_logger()
COMMAND_TIMEOUT = 10.0


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
                    log.error("key.does_not_open", kid=key.kid, why=str(exc))
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
            log.warning("key.retired_does_not_open", kid=key.kid, why=str(exc))
    usable = [key for key in stored if key.kid in raw]
    if old := [key for key in usable if key.master_id != master.id]:
        await store.rewrap_keys(old, [master.wrap_again(key, raw[key.kid]) for key in old])
        log.warning("keys.wrapped_anew", master=master.id, keys=[key.kid for key in old])
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
