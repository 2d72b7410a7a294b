"""Converts model objects to the JSON of the API, and describes that JSON with schemas and examples."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from broker.http import schema
from broker.model import Account, CallerRecord, Event, PluginGrant, Reason, Status


def rfc3339(at: float | None) -> str | None:
    """Return epoch seconds as `2026-11-22T10:00:00Z`, rounded down; None stays None."""
    return None if at is None else _second(int(at))


@lru_cache(maxsize=4096)
def _second(at: int) -> str:
    """Format a time. It is cached because a token's expiry is answered many times."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def account_json(account: Account, *, next_renewal_at: float | None) -> dict[str, Any]:
    """Return an account as the API shows it, without its tokens."""
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
        # Deprecated for one release, because in `/token` this name means the end of caching.
        "expires_at": ends_at,
        "refreshed_at": rfc3339(account.refreshed_at),
        "last_used_at": rfc3339(account.last_used_at),
        "next_renewal_at": rfc3339(next_renewal_at),
        "created_at": rfc3339(account.created_at),
        "removed_at": rfc3339(account.removed_at),
        "client_id": account.client_id,
    }


def event_json(event: Event) -> dict[str, Any]:
    """Return an event as the API, the webhook and the alert command get it."""
    more = {
        "subject": event.subject,
        "due_at": rfc3339(event.due_at),
        "detail": event.detail,
        "actor": event.actor,
    }
    return {
        "id": event.id,
        "at": rfc3339(event.at),
        "event": event.kind,
        "account": event.account,
        "provider": event.provider,
        "reason": event.reason,
        "what_to_do": event.what_to_do,
        "generation": event.generation,
        **{name: value for name, value in more.items() if value is not None},
    }


def plugin_grant_json(grant: PluginGrant) -> dict[str, Any]:
    """Return a plugin grant as the admin socket shows it, without its tokens."""
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
    """Return a caller as the admin socket shows it, without its keys."""
    used = (record.last_used_at, *(key.last_used_at for key in record.keys))
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
        "last_used_at": rfc3339(max(filter(None, used), default=None)),
    }


SHAPES: Mapping[str, tuple[schema.JSON, schema.JSON]] = {
    "Token": schema.shape(
        {
            "account": (schema.TEXT, "acme"),
            "provider": (schema.TEXT, "kit"),
            "access_token": (schema.TEXT, "kit-access-token"),
            "token_type": (schema.TEXT, "Bearer"),
            "scope": (schema.TEXT_OR_NULL, "public"),
            "expires_in": (
                schema.COUNT
                | {"description": "Seconds for which the token may be cached; it stays valid that long."},
                171900,
            ),
            "expires_at": (
                schema.MOMENT | {"description": "The end of caching, as a time."},
                "2026-11-22T10:00:00Z",
            ),
            "provider_expires_at": (
                schema.MOMENT_OR_NULL
                | {
                    "description": "The provider's own expiry, for when the broker is away, never for caching."
                    " Null if the provider states none."
                },
                "2026-11-22T10:15:00Z",
            ),
            "generation": (
                schema.COUNT | {"description": "Increases with each renewal; it never decreases for a name."},
                17,
            ),
            "warning": (
                schema.TEXT | {"description": "Why the token could not be renewed at present."},
                None,
            ),
        },
        "warning",
    ),
    "Account": schema.shape(
        {
            "account": (schema.TEXT, "acme"),
            "provider": (schema.TEXT, "kit"),
            "status": (
                {
                    "type": "string",
                    "enum": [*map(str, Status)],
                    "description": "The first that applies.",
                },
                "active",
            ),
            "frozen": ({"type": "boolean"}, False),
            "reason": ({"type": ["string", "null"], "enum": [*map(str, Reason), None]}, None),
            "since": (schema.MOMENT_OR_NULL | {"description": "When the status or the reason began."}, None),
            "detail": (
                schema.TEXT_OR_NULL | {"description": "The provider's last answer, or what failed."},
                None,
            ),
            "what_to_do": (schema.TEXT_OR_NULL | {"description": "The next step for an operator."}, None),
            "subject": (schema.TEXT_OR_NULL | {"description": "The user at the company."}, "user-42"),
            "external_id": (schema.TEXT_OR_NULL | {"description": "The identity at the provider."}, "123"),
            "label": (schema.TEXT_OR_NULL, None),
            "org": (schema.TEXT_OR_NULL, None),
            "scope": (schema.TEXT_OR_NULL, "public"),
            "generation": (schema.COUNT, 17),
            "provider_expires_at": (schema.MOMENT_OR_NULL, "2026-11-22T10:15:00Z"),
            "expires_at": (
                schema.MOMENT_OR_NULL
                | {
                    "deprecated": True,
                    "description": "`provider_expires_at`; removed in the next release.",
                },
                "2026-11-22T10:15:00Z",
            ),
            "refreshed_at": (schema.MOMENT_OR_NULL, "2026-11-20T10:15:00Z"),
            "last_used_at": (schema.MOMENT_OR_NULL, "2026-11-20T12:00:00Z"),
            "next_renewal_at": (schema.MOMENT_OR_NULL, "2026-11-22T10:00:00Z"),
            "created_at": (schema.MOMENT_OR_NULL, "2026-10-01T08:00:00Z"),
            "removed_at": (schema.MOMENT_OR_NULL, None),
            "client_id": (schema.TEXT_OR_NULL, "your-kit-client-id"),
        }
    ),
    "OAuthError": schema.shape(
        {"error": (schema.TEXT, "invalid_grant"), "error_description": (schema.TEXT, "Why.")}
    ),
    "Issued": schema.shape(
        {
            "access_token": (schema.TEXT, "tbp_example"),
            "token_type": ({"type": "string", "const": "Bearer"}, "Bearer"),
            "expires_in": (schema.COUNT, 172800),
            "refresh_token": (schema.TEXT, "tbr_example"),
            "created_at": (schema.COUNT, 1800000000),
            "scope": (schema.TEXT, ""),
        }
    ),
    "Introspection": (
        {
            "description": "RFC 7662. If `active` is false, there is no other member.",
            "type": "object",
            "properties": {
                "active": {"type": "boolean"},
                **dict.fromkeys(("scope", "client_id", "token_type"), schema.TEXT),
                **dict.fromkeys(("exp", "iat"), schema.COUNT),
                **dict.fromkeys(("sub", "iss"), schema.TEXT),
            },
            "required": ["active"],
            "additionalProperties": False,
        },
        {
            "active": True,
            "scope": "",
            "client_id": "kit-plugin",
            "token_type": "Bearer",
            "exp": 1800172800,
            "iat": 1800000000,
            "sub": "user-42",
            "iss": "https://broker.example.com",
        },
    ),
}
"""The components of OpenAPI by name: a schema and an example of each."""


def answers_shape(description: str, name: str, *, status: str = "200") -> dict[str, schema.JSON]:
    """Return the declaration of an answer whose body is one of `SHAPES`."""
    return schema.answers_json(description, schema.ref(name), SHAPES[name][1], status=status)
