"""The checks of an opened broker for `broker check`: store, keys, unfinished work, audit, clock and providers."""

import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.admin.checks import DAY, Check, Examined
from broker.admin.copies import Adoption
from broker.admin.overview import Overview, read_statistics
from broker.config.settings import Settings
from broker.context import Context
from broker.encryption.keyring import Purpose, WrappedKey
from broker.errors import StorageUnavailable
from broker.keys import ByKey, Census
from broker.providers.client import Answer
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import NotSent
from broker.store.accounts import AccountStore
from broker.store.health import LEAST_FREE
from broker.store.keys import UNKNOWN
from broker.tokens.background import WORTH_TELLING, skew_text

MIB = 1024 * 1024
ROOMY = 256 * MIB
MOST_NAMED = 10
SETTLED_WITHIN = 600.0
"""Seconds after which a renewal should have an outcome."""
MOST_DOUBLES = 20
"""The most lines about accounts that share an identity."""
TOLD_ELSEWHERE = frozenset(
    {"copied_store", "audit_waiting", "commit_retained", "install_retained", "disk_full"}
)
YEAR = 365 * DAY
SKEW = 30.0
START = "start the broker, which finishes them first"
PROBE_TIMEOUT = 5.0
REQUEST_ID = "X-Request-Id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Examined):
    """The input of the checks of a running broker, or of one that was opened on a copy of the store."""

    context: Context
    census: Census
    adoption: Adoption
    overview: Overview
    spooled: int
    """Files in the spool."""
    retained: int
    """Token sets that are in memory only, because the store and the spool do not take them."""

    @property
    def is_running(self) -> bool:
        """True if this is a running broker, and not a copy of its store."""
        return self.environ is not None


async def keys(of: Opened) -> AsyncIterator[Check]:
    """Check the age of the active key, and whether an earlier replacement was finished."""
    try:
        stored = await of.context.stores.keys.keys()
    except StorageUnavailable as exc:
        yield Check(
            "keys", "problem", str(exc), "until then do not restart the broker: its memory holds the keys"
        )
        return
    for check in key_checks(of.settings, stored, await of.census.take(), of.now):
        yield check


def key_checks(settings: Settings, keys: Sequence[WrappedKey], counts: ByKey, now: float) -> Iterator[Check]:
    """Check the keys; `counts` has the number of records that are encrypted with each."""
    for key in sorted(keys, key=lambda one: not one.active):
        records, days = sum(counts.get(key.kid, {}).values()), int((now - key.created_at) // DAY)
        if key.active and key.purpose is not Purpose.DATA:
            continue
        if key.active and now - key.created_at < YEAR:
            told = f"the master key opens the store; key {key.kid} is {days} days old"
            yield Check("keys", "ok", told)
        elif key.active:
            told = f"the master key opens the store; key {key.kid} has been in use for {days} days"
            mend = "once a year: broker keys add, broker keys rewrap, broker keys remove"
            yield Check("keys", "warning", told, mend)
        elif records:
            are = "records are" if records != 1 else "record is"
            told = f"{records} {are} encrypted with the older key {key.kid}"
            yield Check("keys", "warning", told, "broker keys rewrap")
        elif key.retired_at is None:
            told = f"no record is encrypted with key {key.kid} any more"
            yield Check("keys", "warning", told, f"broker keys remove {key.kid}")
    known = {key.kid for key in keys if key.wrapped}
    if lost := sum(sum(where.values()) for kid, where in counts.items() if kid not in known):
        where = f" ({', '.join(sorted(counts[UNKNOWN]))})" if counts.get(UNKNOWN) else ""
        told = f"{_counted(lost, 'record')} cannot be decrypted with any key of this store{where}"
        mend = "find the backup that they belong to; the log of `broker keys rewrap` names them"
        yield Check("keys", "problem", told, mend)
    if settings.previous_master is not None:
        told = "keys.previous is set, but keys.master already encrypts every data key"
        mend = "remove keys.previous from the configuration; keep the old key as long as backups need it"
        yield Check("keys", "warning", told, mend)


async def adoption(of: Opened) -> AsyncIterator[Check]:
    """Check whether the store is a copy, or was one and has accounts that are not renewed since."""
    for check in await of.adoption.checks() if of.is_running else []:
        yield check


async def store(of: Opened) -> AsyncIterator[Check]:
    """Count the accounts by status, and check the free space next to the store."""
    counts = (await read_statistics(of.context.stores.accounts, of.now)).counts
    yield Check("store", "ok", _counted(sum(counts.values()), "account"))
    for (provider, status), count in sorted(counts.items()):
        if status != "active":
            mend = f"list them: broker accounts list --status {status}"
            yield Check(f"accounts of {provider}", "warning", f"{count} {status}", mend)
    folder = of.settings.store.path.parent
    free = shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
    told = f"{free // MIB} MiB free next to the store"
    if free < LEAST_FREE:
        yield Check("disk", "problem", f"{told}: nothing is renewed", "free disk space")
    elif free < ROOMY:
        yield Check("disk", "warning", told, "free disk space")
    else:
        yield Check("disk", "ok", told)


async def damaged_records(of: Opened) -> AsyncIterator[Check]:
    """Check that every record can be decrypted."""
    if names := await of.context.stores.accounts.damaged(MOST_NAMED + 1):
        more = " and others" if len(names) > MOST_NAMED else ""
        told = f"the stored tokens of these cannot be decrypted: {', '.join(names[:MOST_NAMED])}{more}"
        mend = (
            "check the disk; then restore a backup that has the missing key, or connect each account again:"
            " broker install-link PROVIDER --account NAME"
        )
        yield Check("damaged records", "problem", told, mend)


async def unfinished_work(of: Opened) -> AsyncIterator[Check]:
    """Check for renewals without an outcome and for token sets that are not in the store yet."""
    oldest = await of.context.stores.accounts.oldest_intent_at()
    if oldest is not None:
        age = max(0.0, of.now - oldest)
        told = f"the oldest renewal without an outcome is {age:.0f} s old"
        if of.is_running and age < SETTLED_WITHIN:
            yield Check("unfinished work", "ok", told)
        else:
            mend = "broker accounts list --status uncertain" if of.is_running else START
            yield Check("unfinished work", "warning", told, mend)
    if of.retained:
        told = f"{_counted(of.retained, 'token set')} cannot be stored and would be lost"
        yield Check("unfinished work", "problem", told, "free disk space, and do not kill the broker")
    elif of.spooled:
        mend = "find the reason in the log" if of.is_running else START
        yield Check("unfinished work", "warning", f"{_counted(of.spooled, 'file')} in the spool", mend)
    elif oldest is None:
        yield Check("unfinished work", "ok", "none")


async def shared_identities(accounts: AccountStore) -> AsyncIterator[Check]:
    """Check for accounts that share one identity at the provider; earlier versions permitted that."""
    for older, name in await accounts.doubles(MOST_DOUBLES):
        told = f"{older} and {name} are the same account at the provider, and both are used"
        mend = f"remove the one that is not needed: broker accounts remove {name}, or {older}"
        yield Check("identity", "warning", told, mend)


async def audit(of: Opened) -> AsyncIterator[Check]:
    """Check that the running broker can write its audit."""
    if not of.is_running:
        return
    path, backlog = of.settings.audit.path, of.context.audit.backlog
    where = "the journal" if path is None else str(path)
    if backlog is None:
        yield Check("audit", "ok", f"written to {where}")
        return
    records, seconds = backlog
    waiting = f"{_counted(records, 'record')} waiting, the oldest for {seconds:.0f} s"
    told = f"{where} cannot be written: {waiting}; changes are refused"
    yield Check("audit", "problem", told, "free disk space" if path else "check systemd-journald")


async def health(of: Opened) -> AsyncIterator[Check]:
    """Report the problems on `/readyz` that no other check reports."""
    for key, sentence in of.context.health.by_key.items():
        if of.is_running and key not in TOLD_ELSEWHERE:
            yield Check("broker", "problem", sentence, "see the log")


async def reachable(of: Opened) -> AsyncIterator[Check]:
    """Check that `server.public_url` leads to this broker. It is no problem if only others can reach it."""
    if not of.is_running:
        return
    url, id_ = of.settings.server.public_url, secrets.token_hex(16)
    reply = await of.context.http.get(
        f"{url}/", headers={REQUEST_ID: id_}, timeout=PROBE_TIMEOUT, public_only=False
    )
    what = "public_url from here"
    mend = "nothing, if only others have to reach it; else check the DNS name, the proxy and server.public"
    if not isinstance(reply, Answer):
        yield Check(what, "warning", f"{url} cannot be reached from this machine ({reply.why})", mend)
    # A broker answers with the id of the request.
    elif reply.headers.get(REQUEST_ID) != id_:
        yield Check(what, "warning", f"another program answers at {url} (status {reply.status})", mend)
    else:
        yield Check(what, "ok", f"{url} leads to this broker")


async def breakers(of: Opened) -> AsyncIterator[Check]:
    """Report the breakers that an operator has to close."""
    for name, (reason, _) in of.overview.open_breakers().items():
        yield Check(f"breaker of {name}", "problem", f"open: {reason.happened}", reason.advice(None, name))


async def providers(by_name: Mapping[str, OAuth2Provider]) -> AsyncIterator[Check]:
    """Check that each provider answers, and its clock and metadata. A provider's failure is only a warning."""
    for provider in by_name.values():
        name, by = provider.name, f" ({provider.route})" if provider.route else ""
        reached = await provider.reach()
        if isinstance(reached, NotSent):
            mend = "check the network and the provider's status page"
            yield Check(f"provider {name}", "warning", f"not reached{by}: {reached.why}", mend)
            continue
        yield Check(f"provider {name}", "ok", f"answers{by}")
        skew, differences, what = reached.clock_skew, reached.differences, f"metadata of {name}"
        if skew is not None and abs(skew) > SKEW:
            told = f"the clocks of {name} and this machine differ by {round(skew)} s"
            yield Check("clock", "warning", told, "set the time (NTP)")
        elif skew is not None:
            yield Check("clock", "ok", f"differs from that of {name} by less than {SKEW:.0f} s")
        if differences is None:
            yield Check(what, "ok", "the provider publishes no metadata (RFC 8414)")
        elif not differences:
            yield Check(what, "ok", "provider metadata matches the configuration")
        mend = f"read the provider's documentation; keys of [providers.{name}] replace the defaults"
        for one in differences or ():
            yield Check(what, "warning", one, mend)


BROKER: tuple[Callable[[Opened], AsyncIterator[Check]], ...] = (
    keys,
    adoption,
    store,
    damaged_records,
    unfinished_work,
    lambda of: shared_identities(of.context.stores.accounts),
    audit,
    health,
    reachable,
    breakers,
    lambda of: providers(of.context.providers),
)


async def check_broker(of: Opened) -> list[Check]:
    """Run all checks of an opened broker."""
    return [check for one in BROKER async for check in one(of)]


def clock_check(ahead: float) -> Check:
    """Compare the machine's clock with the database's."""
    if abs(ahead) > WORTH_TELLING:
        return Check("clock", "problem", skew_text(ahead), "set the time (NTP)")
    return Check("clock", "ok", "agrees with the database's")


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
