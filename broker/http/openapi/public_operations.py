"""The operations that need no caller of the API: installs, plugins, health, this description, and the dashboard."""

from functools import partial

from broker.http.openapi.parts import (
    JSON,
    TEXT,
    Operation,
    answers_json,
    form,
    form_or_json,
    page,
    path_parameter,
    query,
    record,
    redirect,
    ref,
)

own_shape = partial(Operation, speaks_problems=False)
"""An operation that tells its errors on a page or in OAuth's way."""
PROVIDER = path_parameter("provider", "As the configuration calls it", ref("Provider"), "kit")
WRONG = page("What is wrong, in words", "400", "404", "409", "410", "429", "500", "502", "503")
MOVED = redirect("To the public address: it was asked for by another name", "302")
BACK = redirect("Back to where the person came from", "303")
INSTALLS = (
    own_shape(
        "GET",
        "/login/complete",
        "Where the company's app sends the person back",
        "installs",
        {**redirect("On to the provider", "302"), **BACK, **WRONG},
        (
            query("login_challenge", "As it was given", TEXT),
            query("login_response", "A JWT that says who it is", TEXT),
            query("login_error", "The person said no", TEXT),
        ),
    ),
)


def _oauth_answer(description: str, schema: JSON, example: JSON) -> dict[str, JSON]:
    """RFC 6749, 5.1 and 5.2."""
    answers = answers_json(description, schema, example)
    for status, error in REFUSALS.items():
        refused = {"error": error, "error_description": "Why."}
        answers |= answers_json("Refused", ref("OAuthError"), refused, status=status)
    return answers


REFUSALS = {
    "400": "invalid_grant",
    "401": "invalid_client",
    "413": "invalid_request",
    "500": "server_error",
    "503": "temporarily_unavailable",
}
CREDENTIALS: JSON = {"client_id": TEXT, "client_secret": TEXT}
GRANT: JSON = {
    "type": "object",
    "properties": {
        "grant_type": {"type": "string", "enum": ["authorization_code", "refresh_token"]},
        "code": TEXT,
        "redirect_uri": TEXT,
        "code_verifier": TEXT,
        "refresh_token": TEXT,
        "scope": TEXT,
        **CREDENTIALS,
    },
    "required": ["grant_type"],
}
GRANT_EXAMPLE: JSON = {
    "grant_type": "authorization_code",
    "code": "tbc_example",
    "redirect_uri": "https://app.kit.com/apps",
    "client_id": "kit-plugin",
    "client_secret": "…",
}
ISSUED_EXAMPLE: JSON = {
    "access_token": "tbp_example",
    "token_type": "Bearer",
    "expires_in": 172800,
    "refresh_token": "tbr_example",
    "created_at": 1800000000,
    "scope": "",
}


def _token(path: str) -> Operation:
    return own_shape(
        "POST",
        path,
        "A code or a refresh token becomes tokens",
        "plugin",
        _oauth_answer("The tokens", ref("Issued"), ISSUED_EXAMPLE),
        body=form_or_json(GRANT, GRANT_EXAMPLE),
    )


PLUGIN = (
    own_shape(
        "GET",
        "/plugin/authorize",
        "A client asks a person for access",
        "plugin",
        {
            **page("The question", "200"),
            **redirect("To sign in, or back with an error", "303"),
            **MOVED,
            **WRONG,
        },
        tuple(
            query(name, "RFC 6749, 4.1.1", TEXT)
            for name in ("response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge")
        ),
    ),
    own_shape(
        "POST",
        "/plugin/authorize",
        "The person's answer",
        "plugin",
        {**page("The question again", "200", "403", "413"), **redirect("Back to the client", "303"), **WRONG},
        body=form(
            {
                "type": "object",
                "properties": {
                    "consent": TEXT,
                    "connect_code": TEXT,
                    "decision": {"type": "string", "enum": ["allow", "deny"]},
                },
                "required": ["consent", "decision"],
            }
        ),
    ),
    _token("/plugin/token"),
    _token("/plugin/refresh"),
    own_shape(
        "POST",
        "/plugin/revoke",
        "End a grant by one of its tokens (RFC 7009)",
        "plugin",
        _oauth_answer("It is worth nothing now", {"type": "object"}, {}),
        body=form_or_json(
            {"type": "object", "properties": {"token": TEXT, **CREDENTIALS}, "required": ["token"]},
            {"token": "tbr_example", "client_id": "kit-plugin", "client_secret": "…"},
        ),
    ),
    own_shape(
        "GET",
        "/.well-known/oauth-authorization-server",
        "What the server says of itself (RFC 8414)",
        "plugin",
        answers_json("The metadata", {"type": "object"}, {"issuer": "https://broker.example.com"}),
    ),
)
SIGNED_OUT = page("What is wrong, or how to sign in", "400", "403", "404", "409", "500", "502", "503")
OWN_FORM = form(record({"form": {**TEXT, "description": "From the page itself"}}))
LISTING = (
    query("status", "Of this status", TEXT),
    query("provider", "Of this provider", TEXT),
    query("search", "In names and labels", TEXT),
    query("after", "From this name on", TEXT),
)


def _readiness(status: str, description: str, word: str) -> dict[str, JSON]:
    words = {"type": "string", "enum": ["ok", "degraded", "starting", "stopping"]}
    schema = record({"status": words, "problems": {"type": "array", "items": TEXT}})
    return answers_json(description, schema, {"status": word, "problems": []}, status=status)


def _text(description: str, content_type: str) -> dict[str, JSON]:
    return {"200": {"description": description, "content": {content_type: {"schema": {"type": "string"}}}}}


HEALTH = (
    own_shape(
        "GET",
        "/healthz",
        "The event loop is alive",
        "health",
        answers_json("It is", record({"status": {"type": "string", "const": "ok"}}), {"status": "ok"}),
    ),
    own_shape(
        "GET",
        "/readyz",
        "Living tokens can be served",
        "health",
        {
            **_readiness("200", "They can; `degraded` says what is wrong", "ok"),
            **_readiness("503", "Starting or stopping", "stopping"),
        },
    ),
    Operation(
        "GET",
        "/metrics",
        "Prometheus; permission `admin`, or an address in `metrics_from`",
        "health",
        _text("The metrics", "text/plain"),
        problems=("unauthenticated", "forbidden"),
    ),
)


def _page(path: str, summary: str, *parameters: JSON) -> Operation:
    answers = {**page("The page", "200"), **SIGNED_OUT}
    return own_shape("GET", path, summary, "dashboard", answers, parameters)


ACCOUNT = path_parameter("account", "The account's name")
ACTIONS = ["renew", "freeze", "unfreeze", "remove", "restore", "reconnect"]
DASHBOARD = (
    _page("/", "What is broken, whom it concerns, what to do"),
    own_shape(
        "GET",
        "/dashboard/sign-in",
        "Spends the link that `broker dashboard` prints",
        "dashboard",
        {**redirect("To the first page", "303"), **SIGNED_OUT},
        (query("link", "From the link", TEXT),),
    ),
    own_shape(
        "POST",
        "/dashboard/sign-out",
        "Ends the session in this browser",
        "dashboard",
        {**page("Signed out", "200", "413"), **SIGNED_OUT},
        body=OWN_FORM,
    ),
    _page("/dashboard/accounts", "Search, and pages of fifty", *LISTING),
    _page("/dashboard/accounts/{account}", "One account, its history and who uses it", ACCOUNT),
    own_shape(
        "POST",
        "/dashboard/accounts/{account}/{action}",
        "Renew, freeze, unfreeze, remove, restore, reconnect",
        "dashboard",
        {**redirect("The page that says what was done", "303"), **page("Too large", "413"), **SIGNED_OUT},
        (ACCOUNT, path_parameter("action", "Which", {"type": "string", "enum": ACTIONS}, "renew")),
        OWN_FORM,
    ),
    _page("/dashboard/providers", "Breakers and pauses"),
    own_shape(
        "POST",
        "/dashboard/providers/{provider}/resume",
        "Close a breaker",
        "dashboard",
        {**redirect("Back to the providers", "303"), **page("Too large", "413"), **SIGNED_OUT},
        (PROVIDER,),
        OWN_FORM,
    ),
    _page("/dashboard/callers", "The services, their rights and last use"),
    _page("/dashboard/keys", "The data keys, how much is sealed with each, what to do"),
    _page("/dashboard/activity", "What happened, the latest first"),
    own_shape(
        "GET",
        "/dashboard/live",
        "Server-sent events: something has changed",
        "dashboard",
        {**_text("The stream", "text/event-stream"), **SIGNED_OUT},
    ),
)
ITSELF = (
    own_shape(
        "GET",
        "/openapi.json",
        "This description",
        "description",
        answers_json("OpenAPI 3.1", {"type": "object"}, {"openapi": "3.1.0"}),
    ),
    own_shape(
        "GET",
        "/docs",
        "This description, for people",
        "description",
        page("The page", "200"),
    ),
)
PUBLIC_OPERATIONS = (*INSTALLS, *PLUGIN, *HEALTH, *DASHBOARD, *ITSELF)


def static_file(path: str) -> Operation:
    """A file that pages are made of."""
    kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    content_type = next(kind for end, kind in kinds.items() if path.endswith(end))
    return own_shape(
        "GET",
        path,
        "A file that pages are made of",
        "pages",
        _text("The file", content_type),
        (query("v", "Its version, so that it may be kept for good", TEXT),),
    )
