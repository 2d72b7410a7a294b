"""The pieces of a description: operations, their parameters, bodies and answers, and the shapes that answers share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker import errors
from broker.model import Reason, Status

JSON = dict[str, Any]
NAME = {"type": "string", "pattern": r"^[a-z0-9][a-z0-9._-]{0,127}$"}
ALL: list[type[errors.BrokerError]] = [errors.BrokerError, *errors.BrokerError.__subclasses__()]
KINDS: Mapping[str, type[errors.BrokerError]] = {
    kind.code: kind
    for kind in ALL
    # Tests may have subclasses of their own.
    if kind.__module__ == errors.__name__
}
EVERYWHERE = ("invalid_request", "internal", "storage_unavailable", "overloaded")
"""What may happen to any request."""
WITH_CALLER = ("unauthenticated", "forbidden", "rate_limited", "audit_unavailable")
"""And to any that needs a caller."""
WITH_BODY = ("too_large",)
MEMBERS: Mapping[str, JSON] = {
    "needs_reauthorization": {
        "reason": "revoked_or_expired",
        "since": "2026-11-22T10:00:00Z",
        "reconnect_url": "http://127.0.0.1:8080/dashboard/accounts/acme",
    },
    "rate_limited": {"reason": "rejected_by_provider"},
    "provider_unavailable": {"reason": "provider_unavailable"},
    "provider_rejected_client": {"reason": "provider_rejected_client"},
}
"""What some problem documents hold besides."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route."""

    method: str
    path: str
    summary: str
    tag: str
    answers: Mapping[str, JSON]
    """By status: what is answered when all is well, or in a shape of its own."""
    parameters: tuple[JSON, ...] = ()
    body: JSON | None = None
    problems: tuple[str, ...] = ()
    """Codes of problem documents, besides those that may happen anywhere."""
    needs_caller: bool = False
    speaks_problems: bool = True
    """Pages and OAuth's own endpoints tell their errors in other ways."""

    @property
    def codes(self) -> list[str]:
        """All that may go wrong."""
        if not self.speaks_problems:
            return []
        asked = [*self.problems, *EVERYWHERE]
        asked += WITH_CALLER if self.needs_caller else ()
        asked += WITH_BODY if self.body is not None else ()
        return [code for code in KINDS if code in asked]

    def json(self) -> JSON:
        """The Operation Object (OpenAPI 3.1, 4.8.10)."""
        described: JSON = {
            "operationId": _operation_id(self.method, self.path),
            "summary": self.summary,
            "tags": [self.tag],
            "responses": {**self.answers, **problem_answers(self.codes, self.answers)},
            "security": [{"caller": []}] if self.needs_caller else [],
        }
        if self.parameters:
            described["parameters"] = list(self.parameters)
        if self.body is not None:
            described["requestBody"] = self.body
        return described


def problem_answers(codes: list[str], taken: Mapping[str, JSON]) -> dict[str, JSON]:
    """Error answers by status, an example for each code."""
    answers: dict[str, JSON] = {}
    for status in sorted({KINDS[code].status for code in codes}):
        mine = [code for code in codes if KINDS[code].status == status]
        if str(status) in taken:
            raise ValueError(f"the status {status} is both an answer of its own and a problem")
        answers[str(status)] = {
            "description": " · ".join(f"`{code}`: {KINDS[code].title}" for code in mine),
            "headers": _headers(status),
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {code: {"value": problem_example(code)} for code in mine},
                }
            },
        }
    return answers


def problem_example(code: str) -> JSON:
    kind = KINDS[code]
    return {
        "type": f"urn:token-broker:error:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.title,
        "code": code,
        "request_id": "3f1c9a5be07d4c21",
        **MEMBERS.get(code, {}),
    }


def _headers(status: int) -> JSON:
    match status:
        case 401:
            return {"WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}}}
        case 429 | 503:
            seconds = {"type": "string", "pattern": "^[1-9][0-9]*$"}
            return {"Retry-After": {"description": "Seconds", "required": True, "schema": seconds}}
        case _:
            return {}


def path_parameter(name: str, description: str, schema: JSON | None = None, example: str = "acme") -> JSON:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema or NAME,
        "example": example,
    }


def query(name: str, description: str, schema: JSON, *, required: bool = False) -> JSON:
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


def header(name: str, description: str, schema: JSON) -> JSON:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def json_body(schema: JSON, example: JSON, *, required: bool = True) -> JSON:
    return {"required": required, "content": {"application/json": {"schema": schema, "example": example}}}


def form_or_json(schema: JSON, example: JSON) -> JSON:
    """What the plugin server takes: either, whatever the content type says."""
    either = {"schema": schema, "example": example}
    return {
        "required": True,
        "content": {"application/x-www-form-urlencoded": either, "application/json": either},
    }


def form(schema: JSON) -> JSON:
    return {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}


def answers_json(description: str, schema: JSON, example: Any, *, status: str = "200") -> dict[str, JSON]:
    return {
        status: {
            "description": description,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


def nothing(description: str, *, status: str = "204") -> dict[str, JSON]:
    return {status: {"description": description}}


def page(description: str, *statuses: str) -> dict[str, JSON]:
    """HTML, whatever the status."""
    html = {"description": description, "content": {"text/html": {"schema": {"type": "string"}}}}
    return dict.fromkeys(statuses, html)


def redirect(description: str, status: str) -> dict[str, JSON]:
    location = {"required": True, "schema": {"type": "string"}}
    return {status: {"description": description, "headers": {"Location": location}}}


def ref(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}


def record(properties: JSON, *optional: str, **more: Any) -> JSON:
    """An object with these members and no others; all are there but the optional."""
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
        **more,
    }


def _operation_id(method: str, path: str) -> str:
    words = [word for word in path.replace(".", "/").replace("-", "/").split("/") if word]
    return "_".join([method.lower(), *(word.strip("{}") for word in words)]) + (
        "_" if path.endswith("/") else ""
    )


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
