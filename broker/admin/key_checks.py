"""What `broker check` says of the keys: their age, what still lies under older ones, a replacement left half done."""

from collections.abc import Sequence

from broker.admin.checks import Check
from broker.config.settings import Settings
from broker.keyring import Purpose, WrappedKey
from broker.keys.rewrap import ByKey
from broker.store.keys import UNKNOWN

YEAR = 365 * 86400.0
DAY = 86400.0


def key_checks(settings: Settings, keys: Sequence[WrappedKey], counts: ByKey, now: float) -> list[Check]:
    """Pure; `counts` is what is sealed with each key."""
    checks = [_active_check(key, now) for key in keys if key.purpose is Purpose.DATA and key.active]
    checks += [
        check
        for key in keys
        if not key.active and (check := _old_check(key, sum(counts.get(key.kid, {}).values())))
    ]
    known = {key.kid for key in keys if key.wrapped}
    if lost := sum(sum(where.values()) for kid, where in counts.items() if kid not in known):
        checks.append(_lost_check(lost, counts))
    if settings.previous_master is not None:
        checks.append(
            Check(
                "keys",
                "warning",
                "keys.previous is set and every key is wrapped by keys.master",
                "take keys.previous out of the configuration; keep the old key as long as backups from before",
            )
        )
    return checks


def _active_check(key: WrappedKey, now: float) -> Check:
    days = int((now - key.created_at) // DAY)
    if now - key.created_at < YEAR:
        return Check("keys", "ok", f"the master key opens the store; key {key.kid} is {days} days old")
    return Check(
        "keys",
        "warning",
        f"the master key opens the store; key {key.kid} has sealed everything for {days} days",
        "once a year: broker keys add, broker keys rewrap, broker keys remove",
    )


def _old_check(key: WrappedKey, records: int) -> Check | None:
    if records:
        sealed = f"{records} record{'s are' if records != 1 else ' is'} sealed with the older key {key.kid}"
        return Check("keys", "warning", sealed, "broker keys rewrap")
    if key.retired_at is None:
        return Check(
            "keys",
            "warning",
            f"nothing is sealed with key {key.kid} any more",
            f"broker keys remove {key.kid}",
        )
    return None


def _lost_check(lost: int, counts: ByKey) -> Check:
    where = sorted({place for kid, places in counts.items() if kid == UNKNOWN for place in places})
    return Check(
        "keys",
        "problem",
        f"{lost} record{'s' if lost != 1 else ''} cannot be opened with any key of this store"
        + (f" ({', '.join(where)})" if where else ""),
        "find the backup that they belong to; the log of `broker keys rewrap` names them",
    )
