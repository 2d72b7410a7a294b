"""The operations of the public listener: people's browsers, and Kit."""

from broker.description.parts import (
    JSON,
    Operation,
    answers_json,
    form,
    form_or_json,
    nothing,
    page,
    path_parameter,
    query,
    redirect,
    ref,
)
from broker.description.schemas import TEXT

PROVIDER = path_parameter("provider", "As the configuration calls it", ref("Provider"), "kit")
WRONG = page("What is wrong, in words", "400", "404", "409", "410", "429", "500", "502", "503")
MOVED = redirect("To the public address: it was asked for by another name", "302")
BACK = redirect("Back to where the person came from", "303")
CALLBACK_PARAMETERS = (
    query("state", "Ours, from the way there", TEXT),
    query("code", "The provider's code", TEXT),
    query("error", "The provider's refusal (RFC 6749, 4.1.2.1)", TEXT),
    query("iss", "Who answers (RFC 9207)", TEXT),
)


def _callback(path: str, summary: str) -> Operation:
    return Operation(
        "GET",
        path,
        summary,
        "installs",
        {
            **page("Connected", "200"),
            **nothing("Only fetched ahead; nothing was spent"),
            **BACK,
            **WRONG,
        },
        (PROVIDER, *CALLBACK_PARAMETERS),
        speaks_problems=False,
    )


def _form_post(path: str) -> Operation:
    return Operation(
        "POST",
        path,
        "The same for response_mode=form_post",
        "installs",
        {
            **redirect("To GET of this address, with what was posted", "303"),
            **page("It was no form", "405"),
            **page("The form is too large", "413"),
            **WRONG,
        },
        (PROVIDER,),
        body=form(
            {"type": "object", "properties": {"state": TEXT, "code": TEXT, "error": TEXT, "iss": TEXT}}
        ),
        speaks_problems=False,
    )


INSTALLS = (
    Operation(
        "GET",
        "/install/{provider}",
        "Begin an install: by a link's ticket, or from Kit",
        "installs",
        {**redirect("To the provider, or to sign in", "302"), **page("By invitation only", "403"), **WRONG},
        (
            PROVIDER,
            query("ticket", "From an install link", TEXT),
            query("redirect", "Where Kit wants the person back", TEXT),
        ),
        speaks_problems=False,
    ),
    _callback("/callback/{provider}", "The redirect URI"),
    _callback("/callback/{provider}/", "The same, as Kustomer's documents write it"),
    _form_post("/callback/{provider}"),
    _form_post("/callback/{provider}/"),
    Operation(
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
        speaks_problems=False,
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
    return Operation(
        "POST",
        path,
        "A code or a refresh token becomes tokens",
        "plugin",
        _oauth_answer("The tokens", ref("Issued"), ISSUED_EXAMPLE),
        body=form_or_json(GRANT, GRANT_EXAMPLE),
        speaks_problems=False,
    )


PLUGIN = (
    Operation(
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
        speaks_problems=False,
    ),
    Operation(
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
        speaks_problems=False,
    ),
    _token("/plugin/token"),
    _token("/plugin/refresh"),
    Operation(
        "POST",
        "/plugin/revoke",
        "End a grant by one of its tokens (RFC 7009)",
        "plugin",
        _oauth_answer("It is worth nothing now", {"type": "object"}, {}),
        body=form_or_json(
            {"type": "object", "properties": {"token": TEXT, **CREDENTIALS}, "required": ["token"]},
            {"token": "tbr_example", "client_id": "kit-plugin", "client_secret": "…"},
        ),
        speaks_problems=False,
    ),
    Operation(
        "GET",
        "/.well-known/oauth-authorization-server",
        "What the server says of itself (RFC 8414)",
        "plugin",
        answers_json("The metadata", {"type": "object"}, {"issuer": "https://broker.example.com"}),
        speaks_problems=False,
    ),
)
VISITORS = (*INSTALLS, *PLUGIN)
