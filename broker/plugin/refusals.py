"""How a client hears that it gets nothing: the errors of RFC 6749, said once."""

from typing import Literal

Word = Literal[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unsupported_grant_type",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
]
Bounced = Literal[
    "invalid_request",
    "access_denied",
    "unsupported_response_type",
    "invalid_scope",
    "temporarily_unavailable",
]
"""Those of RFC 6749 4.1.2.1 that are told by redirecting."""
BOUNCES: dict[Bounced, str] = {
    "invalid_request": "A parameter is missing, malformed, repeated or too long; code_challenge_method is S256.",
    "access_denied": "The person or the server said no.",
    "unsupported_response_type": "The response_type is code.",
    "invalid_scope": "A scope was asked for that this client may not ask for.",
    "temporarily_unavailable": "Try again in a minute.",
}


class Refused(Exception):
    """An error answer of RFC 6749 5.2. The description is ours alone: nothing of the request is in it."""

    def __init__(self, error: Word, description: str, *, basic: bool = False) -> None:
        super().__init__(error)
        self.error, self.description = error, description
        self.basic = basic
        """Whether the client tried the Authorization header, and has to be told how (RFC 6749 5.2)."""

    @property
    def status(self) -> int:
        return {"invalid_client": 401, "server_error": 500, "temporarily_unavailable": 503}.get(
            self.error, 400
        )


def bad_grant(what: str) -> Refused:
    """A code or refresh token that is worth nothing; never why, which would help nobody but a thief."""
    return Refused(
        "invalid_grant",
        f"The {what} is unknown, expired, used or revoked, or was given to another client or address.",
    )
