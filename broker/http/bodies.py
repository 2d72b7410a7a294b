"""The JSON shapes of the API."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from broker.model import Account, CallerRecord, Event, PluginGrant


def rfc3339(at: float | None) -> str | None:
    """Epoch seconds as `2026-11-22T10:00:00Z`, rounded down to the second."""
    if at is None:
        return None
    return _second(int(at))


@lru_cache(maxsize=4096)
def _second(at: int) -> str:
    """The same moments are told again and again: a token's end does not move."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of a JSON reader that refuses repeated members; raises ValueError."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members


def account_json(account: Account, *, next_renewal_at: float | None) -> dict[str, Any]:
    """An account as the API shows it; never a token."""
    reason = account.reason
    ends_at = None if account.is_endless else rfc3339(account.expires_at)
    return {
        "account": account.name,
        "provider": account.provider,
        "status": account.status,
        "frozen": account.frozen is not None,
        "reason": reason,
        "since": rfc3339(account.since),
        "detail": account.trouble.detail,
        "what_to_do": reason.advice(account.name, account.provider) if reason else None,
        "subject": account.subject,
        "external_id": account.external_id,
        "label": account.label,
        "org": account.org,
        "scope": account.scope,
        "generation": account.generation,
        "provider_expires_at": ends_at,
        # Deprecated, for one release: in `/token` the same name is the end of caching.
        "expires_at": ends_at,
        "refreshed_at": rfc3339(account.refreshed_at),
        "last_used_at": rfc3339(account.last_used_at),
        "next_renewal_at": rfc3339(next_renewal_at),
        "created_at": rfc3339(account.created_at),
        "removed_at": rfc3339(account.removed_at),
        "client_id": account.client_id,
    }


def event_json(event: Event) -> dict[str, Any]:
    """An event as the API, the webhook and the command hook show it."""
    shown = {
        "id": event.id,
        "at": rfc3339(event.at),
        "event": event.kind,
        "account": event.account,
        "provider": event.provider,
        "reason": event.reason,
        "what_to_do": event.what_to_do,
        "generation": event.generation,
    }
    more = {
        "subject": event.subject,
        "due_at": rfc3339(event.due_at),
        "detail": event.detail,
        "actor": event.actor,
    }
    return {**shown, **{name: value for name, value in more.items() if value is not None}}


def plugin_grant_json(grant: PluginGrant) -> dict[str, Any]:
    """What a person allowed a client, as the admin socket shows it; never a token."""
    return {
        "grant": grant.id,
        "client": grant.client,
        "subject": grant.subject,
        "scope": grant.scope,
        "account": grant.account,
        "created_at": rfc3339(grant.created_at),
        "last_used_at": rfc3339(grant.last_used_at),
        "expires_at": rfc3339(grant.expires_at),
    }


def caller_json(record: CallerRecord) -> dict[str, Any]:
    """A caller as the admin socket shows it; never a key."""
    return {
        "name": record.name,
        "kind": record.kind,
        "overridden": record.is_overridden,
        "accounts": list(record.accounts),
        "permissions": sorted(record.permissions),
        "keys": [
            {
                "id": key.id,
                "created_at": rfc3339(key.created_at),
                "expires_at": rfc3339(key.expires_at),
                "last_used_at": rfc3339(key.last_used_at),
            }
            for key in record.keys
        ],
        "last_used_at": rfc3339(
            max(
                (at for at in (record.last_used_at, *(key.last_used_at for key in record.keys)) if at),
                default=None,
            )
        ),
    }
