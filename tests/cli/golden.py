"""The shapes that `--json` prints, written down once and looked at since."""

from typing import Any

ACCOUNT: dict[str, Any] = {
    "account": "str",
    "provider": "str",
    "status": "str",
    "frozen": "bool",
    "reason": "null",
    "since": "null",
    "detail": "null",
    "what_to_do": "null",
    "subject": "null",
    "external_id": "str",
    "label": "str",
    "org": "null",
    "scope": "str",
    "generation": "int",
    "provider_expires_at": "str",
    "expires_at": "str",
    "refreshed_at": "str",
    "last_used_at": "null",
    "next_renewal_at": "str",
    "created_at": "str",
    "removed_at": "null",
    "client_id": "str",
}
SHAPES: dict[str, Any] = {
    "accounts list": {
        "accounts": [ACCOUNT],
        "next_cursor": "null",
    },
    "accounts show": ACCOUNT,
    "accounts import": {
        "accounts": [{"line": "int", "account": "str", "outcome": "str", "status": "str", "detail": "null"}]
    },
    "audit verify": {
        "whole": "bool",
        "lines": "int",
        "chains": "int",
        "begins_at": "str",
        "ends_at": "str",
        "problems": [],
        "more_problems": "int",
        "notes": [],
    },
    "callers list": {
        "callers": [
            {
                "name": "str",
                "kind": "str",
                "overridden": "bool",
                "accounts": ["str"],
                "permissions": ["str"],
                "keys": [{"id": "str", "created_at": "str", "expires_at": "null", "last_used_at": "null"}],
                "last_used_at": "null",
            }
        ]
    },
    "check": {"checks": [{"what": "str", "level": "str", "detail": "str", "next": "null"}]},
    "events": {
        "events": [
            {
                "id": "int",
                "at": "str",
                "event": "str",
                "account": "str",
                "provider": "str",
                "reason": "null",
                "what_to_do": "null",
                "generation": "int",
            }
        ]
    },
    "keys list": {
        "keys": [
            {
                "kid": "str",
                "purpose": "str",
                "state": "str",
                "records": "int",
                "where": {"accounts.sealed_access": "int", "accounts.sealed_refresh": "int"},
                "master": "str",
                "created_at": "str",
                "retired_at": "null",
            }
        ]
    },
    "plugin grants": {"grants": [], "next_cursor": "null"},
    "providers list": {
        "providers": [
            {
                "name": "str",
                "type": "str",
                "client_id": "str",
                "token_url": "str",
                "install_page": "str",
                "breaker": "str",
                "reason": "null",
                "since": "null",
                "paused_until": "null",
                "what_to_do": "null",
                "accounts": {"active": "int"},
            }
        ]
    },
    "token": {
        "account": "str",
        "provider": "str",
        "access_token": "str",
        "token_type": "str",
        "scope": "str",
        "expires_in": "int",
        "expires_at": "str",
        "provider_expires_at": "str",
        "generation": "int",
    },
    "version": {"version": "str", "running": {"version": "str", "started_at": "str"}},
}
