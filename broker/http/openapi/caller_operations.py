"""The operations of the internal listener that services call."""

from broker.http.openapi.parts import (
    ACCOUNT_EXAMPLE,
    JSON,
    MOMENT,
    NAME,
    TEXT,
    TEXT_OR_NULL,
    TOKEN_EXAMPLE,
    Operation,
    answers_json,
    form_or_json,
    header,
    json_body,
    nothing,
    path_parameter,
    query,
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


def _token_answer() -> dict[str, JSON]:
    answer = answers_json("The token", ref("Token"), TOKEN_EXAMPLE)["200"]
    answer["headers"] = ETAG
    bare = {"schema": {"type": "string"}, "example": "kit-access-token\n"}
    answer["content"]["text/plain"] = bare
    return {"200": answer}


TOKENS = (
    Operation(
        "GET",
        "/token/{account}",
        "A token that lives",
        "tokens",
        {**_token_answer(), **nothing("The generation that you have still holds", status="304")},
        parameters=(
            ACCOUNT,
            query(
                "min_ttl",
                "At least so many seconds of real life, half of the token's life at most",
                {**WHOLE, "maximum": YEAR},
            ),
            query(
                "wait",
                "Wait so many seconds for another generation or status; only with `If-None-Match`",
                {**WHOLE, "maximum": MOST_WAIT},
            ),
            header("Accept", "`text/plain` gives the bare token", {"type": "string"}),
            header("If-None-Match", "The ETag that you have", {"type": "string"}),
        ),
        problems=NO_TOKEN,
        needs_caller=True,
    ),
    Operation(
        "POST",
        "/token/{account}/refresh",
        "Renew it; `rejected_generation` says that the provider answered 401 to that one",
        "tokens",
        _token_answer(),
        parameters=(ACCOUNT,),
        body=json_body(
            record(
                {"rejected_generation": {"type": ["integer", "null"], "minimum": 0}}, "rejected_generation"
            ),
            {"rejected_generation": 17},
            required=False,
        ),
        problems=(*NO_TOKEN, "rate_limited"),
        needs_caller=True,
    ),
)


ACCOUNTS = (
    Operation(
        "POST",
        "/accounts",
        "Take over a grant of another system, which must not renew it any more",
        "accounts",
        answers_json(
            "The account; stored, and renewed once unless `verify` is false",
            ref("Account"),
            ACCOUNT_EXAMPLE,
            status="201",
        ),
        body=json_body(
            record(
                {
                    "name": NAME,
                    "provider": ref("Provider"),
                    "refresh_token": {"type": "string", "pattern": "^[!-~]{1,4096}$"},
                    "access_token": {"type": ["string", "null"], "pattern": "^[!-~]{1,4096}$"},
                    "expires_in": {"type": ["integer", "null"], "minimum": 0, "maximum": YEAR},
                    "org": TEXT_OR_NULL,
                    "scope": OR_NULL,
                    "verify": {"type": ["boolean", "null"]},
                },
                "access_token",
                "expires_in",
                "org",
                "scope",
                "verify",
            ),
            {"name": "acme", "provider": "kit", "refresh_token": "of-the-old-system"},
        ),
        problems=("conflict", "provider_rejected_client", "provider_unavailable", "refresh_uncertain"),
        needs_caller=True,
    ),
)
EVENTS = (
    Operation(
        "GET",
        "/events",
        "What happens to connections, as server-sent events that go on until you leave",
        "events",
        {
            "200": {
                "description": "The stream",
                "content": {"text/event-stream": {"schema": TEXT, "example": EVENT_EXAMPLE}},
            }
        },
        parameters=(
            query("account", "Of this account alone", NAME),
            header("Last-Event-ID", "Go on behind this one", {"type": "string", "pattern": "^[0-9]{1,15}$"}),
        ),
        needs_caller=True,
    ),
)
CONNECTING = (
    Operation(
        "POST",
        "/installs",
        "A link that connects one account, once, within an hour",
        "connecting",
        answers_json(
            "The link",
            record({"install_url": {"type": "string", "format": "uri"}, "expires_at": MOMENT}),
            {
                "install_url": "http://127.0.0.1:8081/install/kit?ticket=…",
                "expires_at": "2026-11-20T11:00:00Z",
            },
            status="201",
        ),
        body=json_body(
            record(
                {
                    "provider": ref("Provider"),
                    "account": {"type": ["string", "null"], "pattern": NAME["pattern"]},
                    "org": TEXT_OR_NULL,
                    "return_to": {
                        **TEXT_OR_NULL,
                        "description": "https, or http on loopback; no user, no fragment",
                    },
                    "replace": {
                        "type": ["boolean", "null"],
                        "description": "Take another identity than before",
                    },
                },
                "account",
                "org",
                "return_to",
                "replace",
            ),
            {"provider": "kit", "account": "acme"},
        ),
        needs_caller=True,
    ),
)
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
CALLER_OPERATIONS = (*TOKENS, *ACCOUNTS, *EVENTS, *CONNECTING, *PLUGIN)
