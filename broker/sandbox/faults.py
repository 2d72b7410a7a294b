"""The switches that change at run time how the sandbox behaves, and the faults of its token endpoints."""

from collections.abc import Callable, Iterable, Mapping
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


Parser = Callable[[Any], object]
"""Gives back the value of a switch; raises ValueError with what is wanted instead."""


def _such(words: str, fits: Callable[[Any], bool]) -> Mapping[str, Parser]:
    """The metadata of a switch that takes what fits."""

    def parse(value: object) -> object:
        if fits(value):
            return tuple(value) if isinstance(value, list) else value
        raise ValueError(words)

    return {"parse": parse}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(*words: str) -> Mapping[str, Parser]:
    return _such(f"one of {', '.join(words)}", lambda value: value in words)


def _is_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


ROTATION = {"parse": lambda value: Mode(str(_one_of(*Mode)["parse"](value)))}
BOOLEAN = _such("true or false", lambda value: isinstance(value, bool))
SECONDS = _such(
    "seconds, not negative", lambda value: (_is_whole(value) or isinstance(value, float)) and value >= 0
)
SIZE = _such("a whole number", _is_whole)
COUNT = _such("a whole number from 1", lambda value: _is_whole(value) and value >= 1)
STATUS = _such("an HTTP status from 200 to 599", lambda value: _is_whole(value) and 200 <= value <= 599)
TEXT = _such("a string", lambda value: isinstance(value, str))
TEXTS = _such("a list of strings", lambda value: isinstance(value, (list, tuple)) and _is_texts(value))
HEADERS = _such(
    "an object of strings",
    lambda value: isinstance(value, dict) and _is_texts([*value, *value.values()]),
)
MEMBERS = _such("an object", lambda value: isinstance(value, dict))


@dataclass(frozen=True, slots=True)
class Switches:
    """How a provider behaves until told otherwise. Times in seconds."""

    rotation: Mode = field(metadata=ROTATION)
    life: float = field(metadata=SECONDS)
    """Of new access tokens."""
    refresh_requires_secret: bool = field(metadata=BOOLEAN)
    grace: float = field(default=10, metadata=SECONDS)
    idle_expiry: float | None = field(default=None, metadata=SECONDS)
    """A refresh token unused for this long is dead."""
    deny_all_clients: bool = field(default=False, metadata=BOOLEAN)
    deny: bool = field(default=False, metadata=BOOLEAN)
    """Every authorization is refused without asking."""
    billing_dead_end: bool = field(default=False, metadata=BOOLEAN)
    """Consent ends at a page about money; no callback ever comes (free Kit accounts)."""
    omit_refresh_token: bool = field(default=False, metadata=BOOLEAN)
    """In mode N a renewal's answer names no refresh token at all."""
    reuse_access_token: bool = field(default=False, metadata=BOOLEAN)
    """A second authorization of (client, account, tenant) gets the tokens of the first (Doorkeeper)."""
    identity_status: int | None = field(default=None, metadata=STATUS)
    identity_without_id: bool = field(default=False, metadata=BOOLEAN)
    empty_account_name: bool = field(default=False, metadata=BOOLEAN)
    missing_user: bool = field(default=False, metadata=BOOLEAN)
    plan_lapsed: bool = field(default=False, metadata=BOOLEAN)
    app_not_installed: tuple[str, ...] = field(default=(), metadata=TEXTS)
    """Kustomer orgs without the app: 400 Invalid Client."""
    invalid_client_shape: Literal["errors", "oauth", "text"] = field(
        default="errors", metadata=_one_of("errors", "oauth", "text")
    )
    pod_mismatch: bool = field(default=False, metadata=BOOLEAN)


@dataclass(frozen=True, slots=True)
class AnswerFault:
    """What goes wrong with token requests; setting any member replaces it whole."""

    latency: float = field(default=0, metadata=SECONDS)
    """Seconds before the request is handled."""
    latency_after: float = field(default=0, metadata=SECONDS)
    """Seconds between handling (the token is rotated by then) and the answer."""
    status: int | None = field(default=None, metadata=STATUS)
    body: str | None = field(default=None, metadata=TEXT)
    headers: Mapping[str, str] = field(default_factory=dict, metadata=HEADERS)
    raw: str | None = field(default=None, metadata=TEXT)
    """Answered verbatim as the token endpoint's JSON, status 200 unless given."""
    rotate: bool = field(default=False, metadata=BOOLEAN)
    """Whether the request is handled all the same before `status` or `raw` is answered."""
    drop: Literal["before", "after"] | None = field(default=None, metadata=_one_of("before", "after"))
    """The connection is closed without an answer, before or after handling."""
    truncate: int | None = field(default=None, metadata=SIZE)
    """So many bytes of the true body are sent, negative: all but so many; then the connection is closed."""
    members: Mapping[str, Any] = field(default_factory=dict, metadata=MEMBERS)
    """Laid over the true JSON answer; null takes a member away."""
    times: int | None = field(default=None, metadata=COUNT)
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
        known = next((one for one in PROVIDERS if one == provider), None)
        if known is None:
            raise SwitchError(f"provider: {provider!r} is neither of {', '.join(PROVIDERS)}")
        parsed = {name: _parsed(name, value) for name, value in members.items()}
        standing: dict[str, Any] = {
            name: getattr(DEFAULTS[known], name) if value is None else value
            for name, value in parsed.items()
            if name in STANDING
        }
        passing: dict[str, Any] = {name: value for name, value in parsed.items() if name in PASSING}
        self._switches[known] = replace(self._switches[known], **standing)
        if passing:
            kept = {name: value for name, value in passing.items() if value is not None}
            self._answers[known] = AnswerFault(**kept)

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


STANDING, PASSING = (
    {spec.name: spec.metadata["parse"] for spec in fields(kind)} for kind in (Switches, AnswerFault)
)
"""The parsers of what stands until it is changed, and of what goes wrong with token requests."""


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
