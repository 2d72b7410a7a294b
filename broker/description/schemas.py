"""The shapes that answers share; the closed words come from the program itself."""

from broker.description.parts import JSON, KINDS, record
from broker.model import Reason, Status

TEXT: JSON = {"type": "string"}
TEXT_OR_NULL: JSON = {"type": ["string", "null"]}
MOMENT: JSON = {"type": "string", "format": "date-time"}
MOMENT_OR_NULL: JSON = {"type": ["string", "null"], "format": "date-time"}
COUNT: JSON = {"type": "integer", "minimum": 0}

TOKEN = record(
    {
        "account": TEXT,
        "provider": TEXT,
        "access_token": TEXT,
        "token_type": TEXT,
        "scope": TEXT_OR_NULL,
        "expires_in": {
            **COUNT,
            "description": "Seconds for which you may keep using it without asking again. Cache by this.",
        },
        "expires_at": {**MOMENT, "description": "The same, as a moment."},
        "provider_expires_at": {
            **MOMENT_OR_NULL,
            "description": "The provider's own end: for the case that the broker is away, never for caching."
            " Null where the provider states none.",
        },
        "generation": {
            **COUNT,
            "description": "Counts up with each renewal, and never goes back for a name.",
        },
        "warning": {**TEXT, "description": "Why it could not be renewed just now."},
    },
    "warning",
)
TOKEN_EXAMPLE: JSON = {
    "account": "acme",
    "provider": "kit",
    "access_token": "kit-access-token",
    "token_type": "Bearer",
    "scope": "public",
    "expires_in": 171900,
    "expires_at": "2026-11-22T10:00:00Z",
    "provider_expires_at": "2026-11-22T10:15:00Z",
    "generation": 17,
}
ACCOUNT = record(
    {
        "account": TEXT,
        "provider": TEXT,
        "status": {"type": "string", "enum": [str(status) for status in Status]},
        "frozen": {"type": "boolean"},
        "reason": {"type": ["string", "null"], "enum": [*map(str, Reason), None]},
        "since": MOMENT_OR_NULL,
        "detail": {**TEXT_OR_NULL, "description": "What the provider answered last, or what failed."},
        "what_to_do": TEXT_OR_NULL,
        "subject": TEXT_OR_NULL,
        "external_id": TEXT_OR_NULL,
        "label": TEXT_OR_NULL,
        "org": TEXT_OR_NULL,
        "scope": TEXT_OR_NULL,
        "generation": COUNT,
        "provider_expires_at": MOMENT_OR_NULL,
        "expires_at": {
            **MOMENT_OR_NULL,
            "deprecated": True,
            "description": "`provider_expires_at`; goes with the next release.",
        },
        "refreshed_at": MOMENT_OR_NULL,
        "last_used_at": MOMENT_OR_NULL,
        "next_renewal_at": MOMENT_OR_NULL,
        "created_at": MOMENT_OR_NULL,
        "removed_at": MOMENT_OR_NULL,
        "client_id": TEXT_OR_NULL,
    }
)
ACCOUNT_EXAMPLE: JSON = {
    "account": "acme",
    "provider": "kit",
    "status": "active",
    "frozen": False,
    "reason": None,
    "since": None,
    "detail": None,
    "what_to_do": None,
    "subject": "user-42",
    "external_id": "123",
    "label": None,
    "org": None,
    "scope": "public",
    "generation": 17,
    "provider_expires_at": "2026-11-22T10:15:00Z",
    "expires_at": "2026-11-22T10:15:00Z",
    "refreshed_at": "2026-11-20T10:15:00Z",
    "last_used_at": "2026-11-20T12:00:00Z",
    "next_renewal_at": "2026-11-22T10:00:00Z",
    "created_at": "2026-10-01T08:00:00Z",
    "removed_at": None,
    "client_id": "your-kit-client-id",
}
PROBLEM: JSON = {
    "type": "object",
    "description": "RFC 9457; some codes have further members.",
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": {"type": "integer"},
        "detail": TEXT,
        "code": {"type": "string", "enum": list(KINDS)},
        "request_id": {**TEXT, "description": "Quote it to whoever runs the broker."},
        "reason": TEXT,
        "since": MOMENT_OR_NULL,
        "reconnect_url": TEXT_OR_NULL,
    },
    "required": ["type", "title", "status", "detail", "code", "request_id"],
}
OAUTH_ERROR = record({"error": TEXT, "error_description": TEXT})
ISSUED = record(
    {
        "access_token": TEXT,
        "token_type": {"type": "string", "const": "Bearer"},
        "expires_in": COUNT,
        "refresh_token": TEXT,
        "created_at": COUNT,
        "scope": TEXT,
    }
)
INTROSPECTION: JSON = {
    "description": "RFC 7662; nothing but `active` where it is false.",
    "type": "object",
    "properties": {
        "active": {"type": "boolean"},
        "scope": TEXT,
        "client_id": TEXT,
        "token_type": TEXT,
        "exp": COUNT,
        "iat": COUNT,
        "sub": TEXT,
        "iss": TEXT,
    },
    "required": ["active"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, JSON] = {
    "Token": TOKEN,
    "Account": ACCOUNT,
    "Problem": PROBLEM,
    "OAuthError": OAUTH_ERROR,
    "Issued": ISSUED,
    "Introspection": INTROSPECTION,
}
