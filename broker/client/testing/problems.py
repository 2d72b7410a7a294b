"""The error answers of the broker, as the fake gives them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

PROBLEMS: Mapping[str, tuple[int, str]] = {
    "internal": (500, "Internal error"),
    "invalid_request": (400, "The request is malformed"),
    "unauthenticated": (401, "No valid credential"),
    "forbidden": (403, "Outside the caller's accounts or permissions"),
    "not_found": (404, "No such route"),
    "unknown_account": (404, "There is no such account"),
    "method_not_allowed": (405, "Method not allowed"),
    "conflict": (409, "Conflicts with what is there"),
    "needs_reauthorization": (409, "The grant is dead; a person has to connect it again"),
    "frozen": (409, "The account is frozen, so it is not renewed"),
    "too_large": (413, "The request is too large"),
    "rate_limited": (429, "Too many requests"),
    "provider_rejected_client": (
        502,
        "The provider refuses our client id or secret; an operator has to mend it, no account is harmed",
    ),
    "token_unusable": (502, "The provider sent a token that no header can carry"),
    "provider_unavailable": (503, "The provider cannot be reached just now"),
    "refresh_uncertain": (503, "A renewal's outcome is unknown and is being settled"),
    "storage_unavailable": (503, "The store cannot be written just now"),
    "audit_unavailable": (503, "The audit cannot be written just now"),
    "overloaded": (503, "Too busy or stopping"),
}
"""Status and title of every code."""
MEMBERS: Mapping[str, Mapping[str, object]] = {
    "needs_reauthorization": {
        "reason": "revoked_or_expired",
        "since": "2026-01-01T00:00:00Z",
        "reconnect_url": "http://127.0.0.1:8080/dashboard/accounts/acme",
    },
    "rate_limited": {"reason": "rejected_by_provider"},
}
"""What some say besides."""


@dataclass(eq=False)
class Problem(Exception):
    """One error answer; neither frozen nor equal by value, because it is raised."""

    code: str
    detail: str | None = None
    retry_after: float | None = None
    members: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.code not in PROBLEMS:
            raise ValueError(f"{self.code!r} is no code of the broker; one of: {', '.join(PROBLEMS)}")

    @property
    def status(self) -> int:
        return PROBLEMS[self.code][0]

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/problem+json"}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        seconds = self.retry_after
        if seconds is None and self.status in (429, 503):
            seconds = 1
        return headers if seconds is None else {**headers, "Retry-After": str(max(1, round(seconds)))}

    def body(self, request_id: str) -> bytes:
        """RFC 9457."""
        status, title = PROBLEMS[self.code]
        return json.dumps(
            {
                "type": f"urn:token-broker:error:{self.code}",
                "title": title,
                "status": status,
                "detail": self.detail or title,
                "code": self.code,
                "request_id": request_id,
                **MEMBERS.get(self.code, {}),
                **self.members,
            }
        ).encode()
