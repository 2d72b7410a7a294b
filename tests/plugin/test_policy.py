"""What a code or a refresh token is worth, as a table; the store guards some of it a second time."""

from dataclasses import replace
from typing import Any

import pytest

from broker import oauth
from broker.config.settings import PluginClient
from broker.model import FoundPair, PluginCode, PluginGrant, PluginPair, Secret
from broker.plugin.grants import Again, Invalid, Replayed, judge_code, judge_refresh_token

CLIENT = PluginClient("kit", "Kit", "id", (), ("https://a/1", "https://a/2"), (), True)
CODE = PluginCode("h", "kit", "user", "https://a/1", "", None, 60.0)
GRANT = PluginGrant("g", "kit", "user", "", 0.0, 0.0, 1000.0, "h")
PAIR = PluginPair("r", "a", "g", "", 0.0, 100.0, 1000.0)
ROTATED = replace(PAIR, replaced_at=100.0, replaced_by="n", sealed_next="sealed", used_at=100.0)
VERIFIER = Secret("v" * 43)
CHALLENGE = oauth.challenge_of(VERIFIER)
GOOD = None
"""It comes back as it is."""


@pytest.mark.parametrize(
    ("changes", "asked", "expected"),
    [
        ({}, {}, GOOD),
        ({}, {"redirect_uri": "https://a/2"}, GOOD),
        ({}, {"redirect_uri": "https://a/3"}, Invalid("redirect_uri")),
        ({}, {"redirect_uri": None}, Invalid("redirect_uri")),
        ({"redirect_uri": None}, {"redirect_uri": None}, GOOD),
        ({"redirect_uri": None}, {"redirect_uri": "https://a/1"}, GOOD),
        ({}, {"now": 60.0}, Invalid("expired")),
        ({"client": "other"}, {}, Invalid("unknown")),
        ({"client": "other", "grant_id": "g"}, {}, Invalid("unknown")),
        ({"grant_id": "g"}, {}, Replayed("g")),
        ({"grant_id": "g"}, {"now": 99.0, "redirect_uri": None}, Replayed("g")),
        ({"challenge": CHALLENGE}, {"verifier": VERIFIER}, GOOD),
        ({"challenge": CHALLENGE}, {}, Invalid("verifier")),
        ({"challenge": CHALLENGE}, {"verifier": Secret("w" * 43)}, Invalid("verifier")),
        ({}, {"verifier": VERIFIER}, Invalid("verifier")),
    ],
)
def test_code_is_worth(changes: dict[str, Any], asked: dict[str, Any], expected: object) -> None:
    """Whose it is, whether it was used, how old it is, where it goes, who began: in that order."""
    question: dict[str, Any] = {"redirect_uri": "https://a/1", "verifier": None, "now": 59.0, **asked}

    code = replace(CODE, **changes)

    assert (expected or code) == judge_code(code, CLIENT, **question)


@pytest.mark.parametrize(
    ("pair", "grant", "next_used_at", "now", "expected"),
    [
        (PAIR, GRANT, None, 999.0, GOOD),
        (PAIR, GRANT, None, 1000.0, Invalid("dead")),
        (PAIR, replace(GRANT, revoked_at=5.0), None, 10.0, Invalid("dead")),
        (PAIR, replace(GRANT, client="other"), None, 10.0, Invalid("unknown")),
        (ROTATED, GRANT, None, 159.9, Again("sealed")),
        (ROTATED, GRANT, None, 160.0, Replayed("g")),
        (ROTATED, GRANT, 110.0, 119.9, Again("sealed")),
        (ROTATED, GRANT, 110.0, 120.0, Replayed("g")),
        (ROTATED, GRANT, 158.0, 160.0, Replayed("g")),
        (replace(ROTATED, sealed_next=None), GRANT, None, 101.0, Replayed("g")),
        (ROTATED, replace(GRANT, client="other"), None, 500.0, Invalid("unknown")),
        (ROTATED, GRANT, None, 1000.0, Invalid("dead")),
    ],
)
def test_refresh_token_is_worth(
    pair: PluginPair, grant: PluginGrant, next_used_at: float | None, now: float, expected: object
) -> None:
    """A pair, the same pair again, the end of its grant, or nothing."""
    found = FoundPair(pair, grant, next_used_at)

    assert (expected or found) == judge_refresh_token(found, CLIENT, now=now)


def test_what_nobody_knows_is_worth_nothing() -> None:
    """Neither kind."""
    unknown = judge_code(None, CLIENT, redirect_uri=None, verifier=None, now=0.0)

    assert (Invalid("unknown"), Invalid("unknown")) == (
        unknown,
        judge_refresh_token(None, CLIENT, now=0.0),
    )
