"""R5 as a table: hundreds of written answers, and a generator for the rest."""

import json
import random

import pytest

from broker.model import TokenSet
from broker.oauth import is_usable
from broker.providers.classify import classify, pause_seconds
from broker.providers.client import Answer, Lost, Reply
from broker.providers.interface import Ambiguous, Granted, Paused, TokenOutcome
from tests.providers.answers import TOKEN, Case, answer, body, every_case

NOW = 1_800_000_000.0
CASES = every_case()


def outcome_of(reply: Reply) -> TokenOutcome:
    return classify(reply, asked_scope="public", issued_at=NOW, now=NOW + 1, default_life=172800.0)


def granted(**members: object) -> TokenSet:
    outcome = outcome_of(answer(200, body(**members)))
    assert isinstance(outcome, Granted)
    return outcome.tokens


def test_there_are_enough_of_them() -> None:
    """At least three hundred, each with a name of its own."""
    assert len(CASES) >= 300
    assert len(CASES) == len({case.name for case in CASES})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_written_answer(case: Case) -> None:
    """Each answer is classified as R5 says, and no token in it is lost."""
    outcome = outcome_of(case.reply)

    assert case.outcome == type(outcome).__name__
    if isinstance(outcome, Ambiguous):
        assert case.salvage == (outcome.salvage is not None)


@pytest.mark.parametrize(
    ("value", "life"),
    [
        (7200, 7200),
        ("7200", 7200),
        ("7200.0", 7200),
        (7200.5, 7200.5),
        (0, 60),
        (-5, 60),
        (None, 3600),
        (True, 3600),
        ("abc", 3600),
        ([], 3600),
        (10**12, 366 * 86400),
    ],
)
def test_life_of_a_token(value: object, life: float) -> None:
    """Digits and numbers are taken, nonsense is trusted for an hour at most, and nothing is for ever."""
    assert NOW + life == granted(access_token="at", expires_in=value).expires_at


def test_missing_life_is_trusted_for_an_hour_at_most() -> None:
    """Never for ever: a token whose end nobody knows is renewed early."""
    tokens = granted(access_token="at")

    assert (NOW + 3600, ("expires_in_missing",)) == (tokens.expires_at, tokens.flags)


def test_providers_own_clock_is_ignored() -> None:
    """`created_at` lies; our clock when the request began counts (R12)."""
    assert NOW + 100 == granted(access_token="at", expires_in=100, created_at=1).expires_at


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a b", "ü", "a\x00", "x" * 9000])
def test_token_that_no_header_can_carry_is_kept_and_not_served(token: str) -> None:
    """It may be all that is left of the grant."""
    tokens = granted(access_token=token, refresh_token=TOKEN)

    assert tokens.access_token is not None
    assert not is_usable(tokens.access_token, tokens.token_type)


def test_scope_is_a_set() -> None:
    """Order means nothing; what is missing or new is flagged."""
    assert () == tuple(flag for flag in granted(access_token="a", scope="public", expires_in=1).flags)
    assert "scope_reduced" in granted(access_token="a", scope="other").flags
    assert "scope_grown" in granted(access_token="a", scope="more public").flags


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "999999"}, 3600),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:40 GMT"}, 40),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1),
        ({"Retry-After": "soon"}, 30),
        ({"x-ratelimit-reset": str(int(NOW) + 50)}, 50),
        ({}, 30),
    ],
)
def test_how_long_a_provider_wants_to_be_left_alone(headers: dict[str, str], seconds: float) -> None:
    """Seconds, a date, or Kustomer's header; at least a second, at most an hour."""
    assert seconds == pause_seconds(headers, NOW)


def generated(seed: int) -> Reply:
    """A random reply: JSON with odd members, cut, flipped or drowned in noise."""
    chance = random.Random(seed)
    values: list[object] = [
        "at",
        "",
        None,
        5,
        -1,
        True,
        [],
        {},
        "x" * 300,
        "\ud800",
        "ü",
        "a\nb",
        1e300,
        [[[]]],
        "7200",
    ]
    names = ["access_token", "refresh_token", "expires_in", "token_type", "scope", "error", "errors", "x"]
    members = {name: chance.choice(values) for name in chance.sample(names, chance.randint(0, 8))}
    if chance.random() < 0.5:
        members["refresh_token"] = TOKEN
    content = json.dumps(members).encode()
    match chance.randrange(4):
        case 0:
            content = content[: chance.randint(0, len(content))]
        case 1:
            position = chance.randint(0, max(0, len(content) - 1))
            content = content[:position] + bytes([chance.randrange(256)]) + content[position + 1 :]
        case 2:
            content = bytes(chance.randrange(256) for _ in range(chance.randint(0, 40))) + content
        case _:
            pass
    status = chance.choice([200, 200, 200, 201, 302, 400, 401, 403, 408, 429, 500, 503])
    if chance.random() < 0.3:
        return Lost("cut", chance.random() < 0.5, status, content)
    return Answer(
        status, {"Retry-After": chance.choice(["1", "x", ""])} if chance.random() < 0.2 else {}, content
    )


def check_generated(seeds: range) -> int:
    """No exception escapes, and a whole refresh token in a 2xx is never lost; how many held one."""
    held = 0
    for seed in seeds:
        reply = generated(seed)
        outcome = outcome_of(reply)
        content = (
            reply.body if isinstance(reply, Answer) else reply.prefix if isinstance(reply, Lost) else b""
        )
        status = reply.status if isinstance(reply, Answer | Lost) else None
        whole = f'"refresh_token": "{TOKEN}"'.encode() in content
        if status in (200, 201) and whole:
            held += 1
            assert _kept(outcome), (seed, outcome)
    return held


def _kept(outcome: TokenOutcome) -> bool:
    match outcome:
        case Granted(tokens):
            return tokens.refresh_token is not None and TOKEN == tokens.refresh_token.reveal()
        case Ambiguous():
            return outcome.salvage is not None and TOKEN == outcome.salvage.reveal()
        case _:
            return False


def test_generated_answers() -> None:
    """Three thousand, by seed."""
    assert check_generated(range(3_000)) > 300


@pytest.mark.proof
def test_generated_answers_in_bulk() -> None:
    """A hundred thousand, by seed."""
    assert check_generated(range(3_000, 103_000)) > 10_000


def test_paused_is_clamped() -> None:
    """The pause of a classified answer is the clamped one."""
    outcome = outcome_of(answer(429, b"", Retry_After="99999999"))

    assert Paused(3600.0) == outcome
