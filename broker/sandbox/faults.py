"""The switches that change at run time how the sandbox behaves, and the faults of its token endpoints."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Literal

Provider = Literal["kit", "kustomer"]
PROVIDERS: tuple[Provider, ...] = ("kit", "kustomer")


class Mode(StrEnum):
    """What becomes of a refresh token once it has been used."""

    NONE = "N"
    """It stays; no new one is made."""
    ON_USE = "D"
    """It works until the new access token is first used at a resource (Doorkeeper)."""
    GRACE_SAME = "GI"
    """For `grace` seconds a replay gives the same successor again."""
    GRACE_SIBLING = "GS"
    """For `grace` seconds a replay gives a further successor, and all of them work."""
    GRACE_LATEST = "GL"
    """For `grace` seconds a replay gives a further successor, and only the newest works."""
    STRICT = "S"
    FAMILY = "F"
    """Strict, and a replay revokes the whole grant."""


class SwitchError(ValueError):
    """A switch nobody knows, or a value it does not take; the message names it."""


@dataclass(frozen=True, slots=True)
class Switches:
    """How a provider behaves until told otherwise. Times in seconds."""

    rotation: Mode
    life: float
    """Of new access tokens."""
    refresh_requires_secret: bool
    grace: float = 10
    idle_expiry: float | None = None
    """A refresh token unused for this long is dead."""
    deny_all_clients: bool = False
    deny: bool = False
    """Every authorization is refused without asking."""
    billing_dead_end: bool = False
    """Consent ends at a page about money; no callback ever comes (free Kit accounts)."""
    omit_refresh_token: bool = False
    """In mode N a renewal's answer names no refresh token at all."""
    reuse_access_token: bool = False
    """A second authorization of (client, account, tenant) gets the tokens of the first (Doorkeeper)."""
    identity_status: int | None = None
    identity_without_id: bool = False
    empty_account_name: bool = False
    missing_user: bool = False
    plan_lapsed: bool = False
    app_not_installed: tuple[str, ...] = ()
    """Kustomer orgs without the app: 400 Invalid Client."""
    invalid_client_shape: Literal["errors", "oauth", "text"] = "errors"
    pod_mismatch: bool = False


@dataclass(frozen=True, slots=True)
class AnswerFault:
    """What goes wrong with token requests; setting any member replaces it whole."""

    latency: float = 0
    """Seconds before the request is handled."""
    latency_after: float = 0
    """Seconds between handling (the token is rotated by then) and the answer."""
    status: int | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: str | None = None
    """Answered verbatim as the token endpoint's JSON, status 200 unless given."""
    rotate: bool = False
    """Whether the request is handled all the same before `status` or `raw` is answered."""
    drop: Literal["before", "after"] | None = None
    """The connection is closed without an answer, before or after handling."""
    truncate: int | None = None
    """So many bytes of the true body are sent, negative: all but so many; then the connection is closed."""
    members: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the true JSON answer; null takes a member away."""
    times: int | None = None
    """For so many token requests; None: until changed."""

    @property
    def replaces_answer(self) -> bool:
        return self.status is not None or self.raw is not None

    @property
    def spares_token(self) -> bool:
        """Whether the request is never handled."""
        return self.drop == "before" or (self.replaces_answer and not self.rotate and self.drop is None)


DEFAULTS: Mapping[Provider, Switches] = {
    "kit": Switches(rotation=Mode.ON_USE, life=172_800, refresh_requires_secret=False),
    "kustomer": Switches(rotation=Mode.STRICT, life=86_400, refresh_requires_secret=True),
}


class Faults:
    """The switches of every provider as they stand; in memory only, so a restart forgets them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._switches = dict(DEFAULTS)
        self._answers = {provider: AnswerFault() for provider in PROVIDERS}

    def switches(self, provider: Provider) -> Switches:
        return self._switches[provider]

    def set(self, provider: Provider, **members: object) -> None:
        """Change some switches, as `apply` does."""
        self.apply(provider, members)

    def apply(self, provider: str, members: Mapping[str, object]) -> None:
        """Change some switches; None puts a switch back to its default.

        Raises SwitchError, and then nothing has changed.
        """
        known = _provider(provider)
        parsed = {name: _parsed(name, value) for name, value in members.items()}
        standing = {name: value for name, value in parsed.items() if name in STANDING}
        passing: dict[str, Any] = {name: value for name, value in parsed.items() if name in PASSING}
        defaults = DEFAULTS[known]
        given: dict[str, Any] = {
            name: getattr(defaults, name) if value is None else value for name, value in standing.items()
        }
        self._switches[known] = replace(self._switches[known], **given)
        if passing:
            kept = {name: value for name, value in passing.items() if value is not None}
            self._answers[known] = replace(AnswerFault(), **kept)

    def take(self, provider: Provider) -> AnswerFault:
        """The fault of the next token request, counted down."""
        fault = self._answers[provider]
        if fault.times is not None:
            left = fault.times - 1
            self._answers[provider] = replace(fault, times=left) if left > 0 else AnswerFault()
        return fault

    def as_json(self) -> dict[str, dict[str, Any]]:
        return {
            provider: {
                "provider": provider,
                **asdict(self._switches[provider]),
                **asdict(self._answers[provider]),
            }
            for provider in PROVIDERS
        }


def _provider(name: str) -> Provider:
    for provider in PROVIDERS:
        if provider == name:
            return provider
    raise SwitchError(f"provider: {name!r} is neither of {', '.join(PROVIDERS)}")


def _such(words: str, fits: Callable[[Any], bool]) -> Callable[[object], object]:
    """A parser that gives back what fits; raises ValueError with what is wanted instead."""

    def parse(value: object) -> object:
        if fits(value):
            return value
        raise ValueError(words)

    return parse


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_boolean = _such("true or false", lambda value: isinstance(value, bool))
_seconds = _such(
    "seconds, not negative", lambda value: (_is_whole(value) or isinstance(value, float)) and value >= 0
)
_size = _such("a whole number", _is_whole)
_count = _such("a whole number from 1", lambda value: _is_whole(value) and value >= 1)
_status = _such("an HTTP status from 200 to 599", lambda value: _is_whole(value) and 200 <= value <= 599)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("a string")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(_text(item) for item in value)
    raise ValueError("a list of strings")


def _headers(value: object) -> Mapping[str, str]:
    if isinstance(value, Mapping):
        return {_text(name): _text(content) for name, content in value.items()}
    raise ValueError("an object of strings")


def _members(value: object) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise ValueError("an object")


def _one_of(*words: str) -> Callable[[object], object]:
    return _such(f"one of {', '.join(words)}", lambda value: value in words)


STANDING: Mapping[str, Callable[[object], object]] = {
    "rotation": lambda value: Mode(str(_one_of(*Mode)(value))),
    "life": _seconds,
    "grace": _seconds,
    "idle_expiry": _seconds,
    "identity_status": _status,
    "app_not_installed": _texts,
    "invalid_client_shape": _one_of("errors", "oauth", "text"),
} | {spec.name: _boolean for spec in fields(Switches) if spec.type is bool}
PASSING: Mapping[str, Callable[[object], object]] = {
    "latency": _seconds,
    "latency_after": _seconds,
    "status": _status,
    "body": _text,
    "headers": _headers,
    "raw": _text,
    "rotate": _boolean,
    "drop": _one_of("before", "after"),
    "truncate": _size,
    "members": _members,
    "times": _count,
}


def _parsed(name: str, value: object) -> object:
    parse = STANDING.get(name) or PASSING.get(name)
    if parse is None:
        raise SwitchError(f"{name}: no such switch; there are {', '.join([*STANDING, *PASSING])}")
    if value is None:
        return None
    try:
        return parse(value)
    except ValueError as error:
        raise SwitchError(f"{name}: {value!r} is not {error}") from error
