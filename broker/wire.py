"""The JSON shapes of the API, and what to do about each reason in plain words."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from broker.model import Account, CallerRecord, Event, EventKind, PluginGrant, Reason

WHAT_HAPPENED: Mapping[Reason, str] = {
    Reason.REVOKED_OR_EXPIRED: "The provider says that the grant was revoked or has expired.",
    Reason.LOST_ROTATION: "The provider issued a new refresh token whose answer never reached us; the old one is dead.",
    Reason.NO_REFRESH_TOKEN: "The provider gave no refresh token, and the access token's life is over.",
    Reason.GRANT_AGES: "The provider ends this grant on a fixed day, whatever is renewed until then.",
    Reason.GRANT_IDLES: "The provider ends grants that are not renewed for long, and this one is not renewed.",
    Reason.PROVIDER_UNAVAILABLE: "The provider cannot be reached.",
    Reason.PROVIDER_DECLINED: "The provider answers renewals with an error that says nothing about the grant.",
    Reason.PROVIDER_PAUSED: "The provider asked to be left alone for a while.",
    Reason.CLIENT_REFUSED: "The provider refuses our client id or secret.",
    Reason.APP_NOT_INSTALLED: "Kustomer answers “Invalid Client”: the app may not be installed in this organisation.",
    Reason.CLIENT_NOT_CONFIGURED: "The grant belongs to an OAuth client that is not in the configuration.",
    Reason.REFUSED_ONCE: "The provider refused the refresh token once; that is being confirmed.",
    Reason.UNCERTAIN: "A renewal was sent and its answer never came; whether it was processed is being settled.",
    Reason.REJECTED: "The provider's API rejects tokens that are fresh; a lapsed plan does that.",
    Reason.STORAGE: "The store cannot be written.",
    Reason.TOKEN_UNUSABLE: "The provider sent a token that no header can carry.",
    Reason.DUPLICATE_IDENTITY: "This turned out to be a connection that exists under another name.",
    Reason.OPERATOR: "An operator froze it.",
    Reason.EXPORTED: "An operator exported its refresh token, so that another system renews it.",
    Reason.MASS_REFUSAL: "Many accounts were refused at once, which looks like the provider's or our own mistake.",
    Reason.COPIED_STORE: "The store is a copy or an old backup, so nothing is renewed from it.",
}
WHAT_TO_DO: Mapping[Reason, str] = {
    Reason.REVOKED_OR_EXPIRED: "Send the person an install link (broker install-link) and have them connect again.",
    Reason.LOST_ROTATION: "Send the person an install link (broker install-link) and have them connect again.",
    Reason.NO_REFRESH_TOKEN: "Ask for offline_access in the provider's scopes, then have the person connect again.",
    Reason.GRANT_AGES: "Send the person an install link (broker install-link), to connect again before that day.",
    Reason.GRANT_IDLES: "Unfreeze it, set refresh.idle_renewal, or mend what keeps it from being renewed.",
    Reason.PROVIDER_UNAVAILABLE: "Nothing; it is tried again. If it lasts, look at the provider's status page.",
    Reason.PROVIDER_DECLINED: "Nothing at first; it is tried again. If it lasts, run `broker check`.",
    Reason.PROVIDER_PAUSED: "Nothing; renewals go on when the provider's time is up.",
    Reason.CLIENT_REFUSED: "Check the provider's client_id and client_secret in the configuration, then reload.",
    Reason.APP_NOT_INSTALLED: "Have the organisation's administrator install the app at Kustomer.",
    Reason.CLIENT_NOT_CONFIGURED: "Add the old client under the provider's previous_clients, then reload.",
    Reason.REFUSED_ONCE: "Nothing; it settles within a minute or two.",
    Reason.UNCERTAIN: "Nothing; it settles by itself. `broker accounts refresh NAME` tries at once.",
    Reason.REJECTED: "Look at the account's plan and permissions at the provider.",
    Reason.STORAGE: "Free disk space, or mend the disk; then it goes on by itself.",
    Reason.TOKEN_UNUSABLE: "Report it to the provider.",
    Reason.DUPLICATE_IDENTITY: "Remove this account, or the other one and unfreeze this.",
    Reason.OPERATOR: "`broker accounts unfreeze NAME` when it may be renewed again.",
    Reason.EXPORTED: "Remove it; or `broker accounts unfreeze NAME`, if the other system never used the token.",
    Reason.MASS_REFUSAL: "Check client secrets and the provider's status; then `broker providers resume NAME`.",
    Reason.COPIED_STORE: "If no other broker runs on the original, type `broker adopt`.",
}

BROKER_TO_DO: Mapping[str, str] = {
    "commit_retained": "Free disk space or mend the disk, and do not restart: a renewed token is in memory only.",
    "audit_waiting": "Free disk space, or see to the journal; then it goes on by itself.",
}
"""The troubles of the broker itself that are no account's reason."""
GOOD_NEWS = frozenset(
    {EventKind.CONNECTED, EventKind.RENEWED, EventKind.RECOVERED, EventKind.BROKER_RECOVERED}
)
"""Nothing is to be done about these; their reason says what is over."""


def rfc3339(at: float | None) -> str | None:
    """Epoch seconds as `2026-11-22T10:00:00Z`, rounded down to the second."""
    if at is None:
        return None
    return _second(int(at))


@lru_cache(maxsize=4096)
def _second(at: int) -> str:
    """The same moments are told again and again: a token's end does not move."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def account_json(account: Account, *, next_renewal_at: float | None) -> dict[str, Any]:
    """An account as the API shows it; never a token."""
    reason = account.reason
    return {
        "account": account.name,
        "provider": account.provider,
        "status": account.status,
        "frozen": account.frozen is not None,
        "reason": reason,
        "since": rfc3339(account.since),
        "what_to_do": WHAT_TO_DO[reason] if reason else None,
        "subject": account.subject,
        "external_id": account.external_id,
        "label": account.label,
        "org": account.org,
        "scope": account.scope,
        "generation": account.generation,
        "expires_at": rfc3339(account.expires_at),
        "refreshed_at": rfc3339(account.refreshed_at),
        "last_used_at": rfc3339(account.last_used_at),
        "next_renewal_at": rfc3339(next_renewal_at),
        "created_at": rfc3339(account.created_at),
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
        "what_to_do": _what_to_do(event),
        "generation": event.generation,
    }
    more = {"subject": event.subject, "due_at": rfc3339(event.due_at)}
    return {**shown, **{name: value for name, value in more.items() if value is not None}}


def _what_to_do(event: Event) -> str | None:
    if event.kind in GOOD_NEWS or event.reason is None:
        return None
    known = next((reason for reason in Reason if reason == event.reason), None)
    return WHAT_TO_DO[known] if known else BROKER_TO_DO.get(event.reason)


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
