"""The switches that change the behaviour of the sandbox at run time, and the faults of its token endpoints."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Literal

Provider = Literal["kit", "kustomer"]
PROVIDERS: tuple[Provider, ...] = ("kit", "kustomer")


class Mode(StrEnum):
    """The treatment of a refresh token that has been used."""

    NONE = "N"
    """It stays valid, and no new one is issued."""
    ON_USE = "D"
    """It stays valid until the new access token is first used at a resource (Doorkeeper)."""
    GRACE_SAME = "GI"
    """For `grace` seconds a reuse returns the same successor again."""
    GRACE_SIBLING = "GS"
    """For `grace` seconds a reuse issues a further successor, and all of them are valid."""
    GRACE_LATEST = "GL"
    """For `grace` seconds a reuse issues a further successor, and only the newest is valid."""
    STRICT = "S"
    """It is valid once."""
    FAMILY = "F"
    """It is valid once, and a reuse revokes the whole grant."""


class SwitchError(ValueError):
    """An unknown switch, or a value that a switch does not accept; the message names the switch."""


def _accepts(words: str, fits: Callable[[Any], bool]) -> Mapping[str, Any]:
    """Return the metadata of a switch: its values in words, and the test of a value."""
    return {"words": words, "fits": fits}


def _one_of(*words: str) -> Mapping[str, Any]:
    return _accepts(f"one of {', '.join(words)}", lambda value: value in words)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


BOOLEAN = _accepts("true or false", lambda value: isinstance(value, bool))
SECONDS = _accepts(
    "seconds, not negative", lambda value: (_is_whole(value) or isinstance(value, float)) and value >= 0
)
SIZE = _accepts("a whole number", _is_whole)
COUNT = _accepts("a whole number from 1", lambda value: _is_whole(value) and value >= 1)
STATUS = _accepts("an HTTP status from 200 to 599", lambda value: _is_whole(value) and 200 <= value <= 599)
TEXT = _accepts("a string", lambda value: isinstance(value, str))
TEXTS = _accepts("a list of strings", lambda value: isinstance(value, (list, tuple)) and _is_texts(value))
HEADERS = _accepts(
    "an object of strings", lambda value: isinstance(value, dict) and _is_texts([*value, *value.values()])
)
MEMBERS = _accepts("an object", lambda value: isinstance(value, dict))


@dataclass(frozen=True, slots=True)
class Switches:
    """The behaviour of a provider until it is changed. Times are in seconds."""

    rotation: Mode = field(metadata=_one_of(*Mode))
    life: float = field(metadata=SECONDS)
    """The lifetime of new access tokens."""
    refresh_requires_secret: bool = field(metadata=BOOLEAN)
    grace: float = field(default=10, metadata=SECONDS)
    idle_expiry: float | None = field(default=None, metadata=SECONDS)
    """A refresh token expires when it is not used for this long."""
    deny_all_clients: bool = field(default=False, metadata=BOOLEAN)
    deny: bool = field(default=False, metadata=BOOLEAN)
    """Every authorization is denied without a consent page."""
    billing_dead_end: bool = field(default=False, metadata=BOOLEAN)
    """Consent ends at a billing page, and no callback follows (free Kit accounts)."""
    omit_refresh_token: bool = field(default=False, metadata=BOOLEAN)
    """In mode N the answer to a renewal has no refresh token."""
    reuse_access_token: bool = field(default=False, metadata=BOOLEAN)
    """A second authorization of (client, account, tenant) gets the tokens of the first (Doorkeeper)."""
    identity_status: int | None = field(default=None, metadata=STATUS)
    identity_without_id: bool = field(default=False, metadata=BOOLEAN)
    empty_account_name: bool = field(default=False, metadata=BOOLEAN)
    missing_user: bool = field(default=False, metadata=BOOLEAN)
    plan_lapsed: bool = field(default=False, metadata=BOOLEAN)
    app_not_installed: tuple[str, ...] = field(default=(), metadata=TEXTS)
    """Kustomer orgs that have not installed the app: they are answered with 400 Invalid Client."""
    invalid_client_shape: Literal["errors", "oauth", "text"] = field(
        default="errors", metadata=_one_of("errors", "oauth", "text")
    )
    pod_mismatch: bool = field(default=False, metadata=BOOLEAN)


@dataclass(frozen=True, slots=True)
class AnswerFault:
    """A fault of token requests. Setting any member replaces the whole fault."""

    latency: float = field(default=0, metadata=SECONDS)
    """Seconds before the request is handled."""
    latency_after: float = field(default=0, metadata=SECONDS)
    """Seconds between handling (the token is rotated by then) and the answer."""
    status: int | None = field(default=None, metadata=STATUS)
    body: str | None = field(default=None, metadata=TEXT)
    headers: Mapping[str, str] = field(default_factory=dict, metadata=HEADERS)
    raw: str | None = field(default=None, metadata=TEXT)
    """The body that is sent as JSON, with status 200 unless `status` is given."""
    rotate: bool = field(default=False, metadata=BOOLEAN)
    """Handle the request all the same before `status` or `raw` is sent."""
    drop: Literal["before", "after"] | None = field(default=None, metadata=_one_of("before", "after"))
    """Close the connection without an answer, before or after the request is handled."""
    truncate: int | None = field(default=None, metadata=SIZE)
    """Send this many bytes of the true body (negative: all but so many), then close the connection."""
    members: Mapping[str, Any] = field(default_factory=dict, metadata=MEMBERS)
    """Members that replace those of the true JSON answer; null removes a member."""
    times: int | None = field(default=None, metadata=COUNT)
    """The number of token requests that have the fault; None: all until it is changed."""

    @property
    def replaces_answer(self) -> bool:
        """Return whether the fault replaces the provider's normal answer."""
        return self.status is not None or self.raw is not None

    @property
    def spares_token(self) -> bool:
        """Return whether the request is not handled at all."""
        return self.drop == "before" or (self.replaces_answer and not self.rotate and self.drop is None)


DEFAULTS: Mapping[Provider, Switches] = {
    "kit": Switches(rotation=Mode.ON_USE, life=172_800, refresh_requires_secret=False),
    "kustomer": Switches(rotation=Mode.STRICT, life=86_400, refresh_requires_secret=True),
}


SWITCHES = {spec.name: spec for spec in fields(Switches)}
ANSWER_FAULTS = {spec.name: spec for spec in fields(AnswerFault)}


class Faults:
    """The current switches and faults of every provider; in memory only, so a restart forgets them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Put everything back to its default."""
        self._switches = dict(DEFAULTS)
        self._answers = {provider: AnswerFault() for provider in PROVIDERS}

    def switches(self, provider: Provider) -> Switches:
        """Return the current switches of a provider."""
        return self._switches[provider]

    def set(self, provider: Provider, /, **members: object) -> None:
        """Change some switches; None puts a switch back to its default.

        Raises SwitchError, and then nothing has changed.
        """
        parsed: dict[str, Any] = {name: _parsed(name, value) for name, value in members.items()}
        defaults = DEFAULTS[provider]
        self._switches[provider] = replace(
            self._switches[provider],
            **{
                name: getattr(defaults, name) if value is None else value
                for name, value in parsed.items()
                if name in SWITCHES
            },
        )
        if parsed.keys() & ANSWER_FAULTS:
            kept = {name for name, value in parsed.items() if name in ANSWER_FAULTS and value is not None}
            self._answers[provider] = AnswerFault(**{name: parsed[name] for name in kept})

    def take(self, provider: Provider) -> AnswerFault:
        """Return the fault of the next token request, and count it down."""
        fault = self._answers[provider]
        if fault.times is not None:
            left = fault.times - 1
            self._answers[provider] = replace(fault, times=left) if left > 0 else AnswerFault()
        return fault

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return all switches and faults by provider, as `GET /_sandbox/faults` shows them."""
        return {
            provider: {
                "provider": provider,
                **asdict(self._switches[provider]),
                **asdict(self._answers[provider]),
            }
            for provider in PROVIDERS
        }


def _parsed(name: str, value: object) -> object:
    spec = SWITCHES.get(name) or ANSWER_FAULTS.get(name)
    if spec is None:
        raise SwitchError(f"{name}: no such switch; there are {', '.join([*SWITCHES, *ANSWER_FAULTS])}")
    if value is None:
        return None
    if not spec.metadata["fits"](value):
        raise SwitchError(f"{name}: {value!r} is not {spec.metadata['words']}")
    if name == "rotation":
        return Mode(str(value))
    return tuple(value) if isinstance(value, list) else value
