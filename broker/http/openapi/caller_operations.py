"""The operations of the internal listener that services call."""

from broker.http.openapi.parts import (
    JSON,
    MOMENT,
    TEXT,
    Operation,
    answers_json,
    form_or_json,
    json_body,
    path_parameter,
    record,
    ref,
)

YEAR = 366 * 86400
MOST_WAIT = 60
EVENT_EXAMPLE = (
    'id: 42\ndata: {"id":42,"at":"2026-11-20T10:15:00Z","event":"renewed","account":"acme","provider":"kit",'
    '"reason":null,"what_to_do":null,"generation":17}\n\n'
)
OR_NULL: JSON = {"type": ["string", "null"], "maxLength": 4096, "description": "Printable"}
"""Null is as if it were not there."""
WHOLE: JSON = {"type": "integer", "minimum": 0}
FLAG: JSON = {"type": "integer", "enum": [0, 1]}
ACCOUNT = path_parameter("account", "The account's name")
NO_TOKEN = (
    "unknown_account",
    "needs_reauthorization",
    "frozen",
    "provider_rejected_client",
    "token_unusable",
    "provider_unavailable",
    "refresh_uncertain",
)
ETAG: JSON = {"ETag": {"description": "The generation, in quotes", "schema": {"type": "string"}}}


PLUGIN = (
    Operation(
        "POST",
        "/plugin/introspect",
        "Whose access token it is (RFC 7662)",
        "plugin",
        answers_json(
            "Who, or that it is not active",
            ref("Introspection"),
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
        body=form_or_json(
            {
                "type": "object",
                "properties": {"token": {"type": "string", "pattern": "^[ -~]{1,4096}$"}},
                "required": ["token"],
            },
            {"token": "tbp_example"},
        ),
        needs_caller=True,
    ),
    Operation(
        "POST",
        "/plugin/connect-codes",
        "A code with which a person says who they are",
        "plugin",
        answers_json(
            "The code, for ten minutes",
            record({"connect_code": TEXT, "expires_at": MOMENT}),
            {"connect_code": "7Q2M-0XKA-9DTR", "expires_at": "2026-11-20T10:25:00Z"},
            status="201",
        ),
        body=json_body(
            record({"subject": {**TEXT, "minLength": 1, "maxLength": 255, "description": "Printable"}}),
            {"subject": "user-42"},
        ),
        needs_caller=True,
    ),
)
CALLER_OPERATIONS = PLUGIN
