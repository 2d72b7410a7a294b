"""The cache in front of the store. It keeps the encoded answer of each recently used account until its row changes."""

import json
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import islice
from json.encoder import encode_basestring as quoted

import structlog

from broker.encryption.keyring import DecryptionFailed
from broker.encryption.tokens import TokenEncryption
from broker.errors import no_account
from broker.http.bodies import rfc3339
from broker.model import Account, Secret, window_opens
from broker.store.renewals import RefreshStore

log = structlog.get_logger()
AT_ONCE = 256
"""Evict 1/256 of the cache at a time: finding the oldest entry of a dict costs more than dropping it."""

Entry = tuple[bytes, bytes, float, float, float, str, int, int, str]
"""The answer's body before and after the number of `expires_in`, then `issued_at`, `expires_at`, when the renewal
window opens, provider, epoch, generation, fingerprint. The garbage collector does not track a tuple of such values, so
a full cache does not slow it down."""


@dataclass(frozen=True, slots=True)
class Decrypted:
    """An account with its decrypted access token."""

    account: Account
    access_token: Secret | None
    fingerprint: str
    """Names the token in the audit."""
    unchecked: bool = False
    """Another broker may have renewed the account, which cannot be checked because the store cannot be read."""


class TokenCache:
    """A bounded LRU cache of encoded answers that can be handed out without a decision."""

    def __init__(
        self,
        store: RefreshStore,
        encryption: TokenEncryption,
        *,
        limit: int,
        ahead: float,
        are_heard: Callable[[], bool] = lambda: True,
        set_back: Callable[[Collection[str]], None] = lambda _: None,
    ) -> None:
        self._store, self._encryption = store, encryption
        self._limit, self._ahead = limit, ahead
        self._are_heard = are_heard
        """Returns whether changes by other brokers are notified. While they are not, each request reads the row."""
        self._report_set_back = set_back
        """Receives the names of all accounts whose rows are older than what was cached before an outage."""
        self._entries: dict[str, Entry] = {}
        """By account name, the least recently used first."""
        self._readings: dict[str, object] = {}
        """A mark for each name whose row is being read. A change of the row drops it: what is read may be old."""
        self._seen: dict[str, tuple[int, int]] = {}
        """Epoch and generation of what was cached before an outage, until the row is read again."""
        self._set_back: set[str] = set()

    def entry(self, name: str, now: float) -> Entry | None:
        """Return the entry if its token may be cached for a second or longer without any decision, else None."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return None
        self._entries[name] = entry
        _, _, issued_at, _, opens, *_ = entry
        return entry if issued_at <= now <= opens - 1 and self._are_heard() else None

    async def read(self, name: str) -> Decrypted:
        """Read and decrypt the account's row, and cache it. Raises UnknownAccount or StorageUnavailable."""
        reading = self._readings.setdefault(name, object())
        if name in self._entries and not self._are_heard():
            self._seen.setdefault(name, _version(self._entries[name]))
        try:
            account = await self._store.get(name)
        finally:
            unchanged = self._readings.get(name) is reading
            if unchanged:
                del self._readings[name]
        if unchanged:
            self._entries.pop(name, None)
            if name in self._seen:
                # A failover of the database can lose the last commits of the old server.
                epoch, generation = self._seen[name]
                if account is not None and account.epoch == epoch and account.generation < generation:
                    if name not in self._set_back:
                        log.error("store.set_back", account=name, store=account.generation, seen=generation)
                    self._set_back.add(name)
                else:
                    del self._seen[name]
                    self._set_back.discard(name)
                self._report_set_back(self._set_back)
        if account is None or account.removed_at is not None:
            raise no_account(name, removed=account is not None)
        decrypted = self.decrypted(account)
        if unchanged:
            self._keep(decrypted)
        return decrypted

    def decrypted(self, account: Account) -> Decrypted:
        """Decrypt the access token of a row; a damaged one counts as missing."""
        try:
            token = self._encryption.access_token(account)
        except DecryptionFailed as exc:
            # A renewal brings another token, or finds that nothing can be decrypted.
            log.error("record.decryption_failed", account=account.name, why=str(exc))
            account, token = replace(account, sealed_access=None), None
        return Decrypted(account, token, self._encryption.fingerprint(token))

    def kept(self, name: str) -> Decrypted | None:
        """Return a cached account whose row cannot be read, with what is needed to hand out its token, or None."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        head, tail, issued_at, expires_at, _, provider, epoch, generation, fingerprint = entry
        body = json.loads(head + b"0" + tail)
        # Client and ciphertext are not known here. Empty ciphertext says that there are tokens.
        words = "", "", "", body["token_type"], body["scope"]
        times = issued_at, expires_at, issued_at, issued_at
        account = Account(name, provider, epoch, generation, *words, *times)
        return Decrypted(account, Secret(body["access_token"]), fingerprint, not self._are_heard())

    def forget(self, name: str) -> None:
        """Drop the entry, because the account's row has changed."""
        self._entries.pop(name, None)
        self._readings.pop(name, None)

    def forget_all(self) -> None:
        """Drop every entry, because notifications may have been missed."""
        known = {name: _version(entry) for name, entry in self._entries.items()}
        self._seen = {**known, **{name: self._seen[name] for name in self._set_back}}
        self._entries.clear()
        self._readings.clear()

    def _keep(self, decrypted: Decrypted) -> None:
        account, token = decrypted.account, decrypted.access_token
        if token is None or account.unusable:
            return
        opens = 0.0 if account.is_endless else window_opens(account, self._ahead)
        head, tail = token_parts(account, token, expires_at=opens, warning=None)
        self._entries[account.name] = (
            head.encode(),
            tail.encode(),
            account.issued_at,
            account.expires_at,
            opens,
            sys.intern(account.provider),
            account.epoch,
            account.generation,
            decrypted.fingerprint,
        )
        if len(self._entries) > self._limit:
            for oldest in [*islice(self._entries, 1 + self._limit // AT_ONCE)]:
                del self._entries[oldest]


def _version(entry: Entry) -> tuple[int, int]:
    *_, epoch, generation, _ = entry
    return epoch, generation


def token_parts(
    account: Account, token: Secret, *, expires_at: float, warning: str | None
) -> tuple[str, str]:
    """Return the JSON of an answer with this token before the number of `expires_in`, and the JSON after it."""
    warned = "" if warning is None else f',"warning":{quoted(warning)}'
    ends = "null" if account.is_endless else f'"{rfc3339(account.expires_at)}"'
    return (
        f'{{"account":{quoted(account.name)},"provider":{quoted(account.provider)}'
        f',"access_token":{quoted(token.reveal())},"token_type":{quoted(account.token_type)}'
        f',"scope":{quoted(account.scope)},"expires_in":',
        f',"expires_at":"{rfc3339(expires_at)}","provider_expires_at":{ends}'
        f',"generation":{account.generation}{warned}}}',
    )
