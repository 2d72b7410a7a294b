"""The operations that need no caller of the API: installs, plugins, health, this description, and the dashboard."""

from functools import partial

from broker.http.openapi.parts import (
    JSON,
    TEXT,
    Operation,
    answers_json,
    form,
    page,
    path_parameter,
    query,
    record,
    redirect,
    ref,
)

own_shape = partial(Operation, speaks_problems=False)
"""An operation that tells its errors on a page or in OAuth's way."""
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
        (path_parameter("provider", "As the configuration calls it", ref("Provider"), "kit"),),
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
PUBLIC_OPERATIONS = (*HEALTH, *DASHBOARD, *ITSELF)


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
