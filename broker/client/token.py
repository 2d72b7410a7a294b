"""A token as a caller holds it."""

from typing import Any, Self


class Token(str):
    """An access token: text that goes into a header, with what the broker says of it.

    As text it is the secret itself; its `repr`, and so a traceback or a dict in a log, is not.
    """

    __slots__ = (
        "account",
        "expires_at",
        "expires_in",
        "generation",
        "provider",
        "provider_expires_at",
        "scope",
        "token_type",
        "warning",
    )

    account: str
    provider: str
    token_type: str
    scope: str | None
    expires_in: int
    """Seconds for which it may be kept, counted from the broker's answer."""
    expires_at: str
    """The same as a moment, RFC 3339."""
    provider_expires_at: str | None
    """When the provider lets it die, RFC 3339; never for caching."""
    generation: int
    """Counts up with each renewal; names this very token in a report that the provider rejected it."""
    warning: str | None
    """Why it could not be renewed just now."""

    @classmethod
    def read(cls, payload: dict[str, Any]) -> Self:
        """From the broker's JSON; raises ValueError where that is something else."""
        access_token, generation = payload.get("access_token"), payload.get("generation")
        expires_in = payload.get("expires_in")
        if not isinstance(access_token, str) or not access_token or not isinstance(generation, int):
            raise ValueError("no access_token or generation in the answer")
        if not isinstance(expires_in, int):
            raise ValueError("no expires_in in the answer")
        token = cls(access_token)
        token.generation, token.expires_in = generation, expires_in
        token.account, token.provider = str(payload.get("account")), str(payload.get("provider"))
        token.token_type, token.scope = str(payload.get("token_type", "Bearer")), payload.get("scope")
        token.expires_at = str(payload.get("expires_at"))
        token.provider_expires_at = payload.get("provider_expires_at")
        token.warning = payload.get("warning")
        return token

    @property
    def access_token(self) -> str:
        return str(self)

    @property
    def header(self) -> str:
        """The value of `Authorization`."""
        return f"Bearer {self}"

    def __repr__(self) -> str:
        return f"<Token of {self.account}, generation {self.generation}>"
