"""API keys of callers: stored by hash; one that was verified is remembered for a moment."""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass

from broker.clock import Clock
from broker.errors import StorageUnavailable, Unauthenticated
from broker.model import Caller, CallerKey, Secret
from broker.single_flight import SingleFlight
from broker.store.callers import CallerStore

KEY = re.compile(r"tbk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
REMEMBERED = 10_000
REMEMBERED_FOR = 0.9
"""Seconds for which a key is believed unseen: one revoked by another process stops within a second."""
LOOK_AGAIN_AFTER = 0.6
"""Seconds after which one that is used is looked up in parallel: nobody waits for it, and no crowd asks at once."""
TRUSTED_FOR = 3600.0
"""Seconds for which it is believed while the store cannot be asked: valid tokens are served meanwhile."""


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    key: CallerKey
    asked_at: float
    """Monotonic time at which the store was asked."""


def key_text(key_id: str, secret: Secret) -> Secret:
    """An API key as its caller holds it; the prefix lets secret scanners know it."""
    return Secret(f"tbk_{key_id}_{secret.reveal()}")


def key_hash(key: Secret) -> str:
    """What is stored of a key. It holds 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(key.reveal().encode()).hexdigest()


class KeyAuthenticator:
    """API keys that `broker callers add` made."""

    def __init__(
        self, *, store: CallerStore, clock: Clock, is_overridden: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._store, self._clock = store, clock
        self._is_overridden = is_overridden
        """Whether the configuration has a caller of that name: then it alone says who that is."""
        self._remembered: dict[str, _Verified] = {}
        self._lookups = SingleFlight[str, _Verified]("key lookup")
        self._used: dict[str, float] = {}

    def remembered(self, credential: str) -> Caller | None:
        known = self._believed(credential)
        if known is None or self._refusal(known) is not None:
            return None
        self._used[known.key.id] = self._clock.now()
        return known.caller

    async def authenticate(self, credential: Secret) -> Caller | None:
        text = credential.reveal()
        if not text.startswith("tbk_"):
            return None
        known = self._believed(text)
        if known is None:
            # Shielded: the lookup is for all who wait for it, and whoever asked may hang up.
            known = await asyncio.shield(self._look_up(text))
        if why := self._refusal(known):
            raise Unauthenticated(why=why)
        self._used[known.key.id] = self._clock.now()
        return known.caller

    def forget(self) -> None:
        """Look every key up again: callers have changed, and a lookup under way may return what was before."""
        self._remembered = {}
        self._lookups.forget()

    async def flush_uses(self) -> None:
        """Store when keys were last used; what cannot be stored just now is kept for the next time."""
        uses, self._used = self._used, {}
        try:
            await self._store.touch_keys(uses)
        except StorageUnavailable:
            self._used = uses | self._used

    def _refusal(self, known: _Verified) -> str | None:
        """Why a key that was verified proves nothing any more."""
        if known.key.expires_at is not None and known.key.expires_at <= self._clock.now():
            return "expired"
        return "overridden" if self._is_overridden(known.caller.name) else None

    def _believed(self, text: str) -> _Verified | None:
        """Return who had this key a moment ago; one that is used is looked up again in time."""
        known = self._remembered.get(text)
        age = 0.0 if known is None else self._clock.monotonic() - known.asked_at
        if known is None or age >= REMEMBERED_FOR:
            return None
        if age >= LOOK_AGAIN_AFTER:
            _ = self._look_up(text)
        return known

    def _look_up(self, text: str) -> "asyncio.Task[_Verified]":
        remembered = self._remembered
        return self._lookups.join(text, lambda: self._verify(text, remembered))

    async def _verify(self, text: str, remembered: dict[str, _Verified]) -> _Verified:
        """Ask the store; `remembered` is the memory of when it was asked."""
        asked_at = self._clock.monotonic()
        form = KEY.fullmatch(text)
        try:
            found = await self._store.by_key(form[1]) if form else None
        except StorageUnavailable:
            known = remembered.get(text)
            if known is None or asked_at - known.asked_at > TRUSTED_FOR:
                raise
            return known
        remembered.pop(text, None)
        if found is None or not hmac.compare_digest(found[1].hash, key_hash(Secret(text))):
            raise Unauthenticated(why="unknown")
        if len(remembered) >= REMEMBERED:
            remembered.clear()
        record, key = found
        caller = Caller(record.name, record.accounts, record.permissions, credential=f"key {key.id}")
        verified = remembered[text] = _Verified(caller, key, asked_at)
        return verified
