"""Accounts in memory as bytes: nothing is lost by it, and nothing is kept that ails."""

import gc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model import Account, Intent, Reason, Secret, Trouble
from broker.tokens.packing import UNTROUBLED, OpenedAccount, glimpse, glimpse_of, pack, unpack

MOMENTS = st.floats(0, 4e9)
TEXTS = st.text("aZ0 -/\0\n\x7f\u00e4\u20ac\ud7ff\U0001f511", max_size=40)
"""Of every length in UTF-8; all of Unicode would first have to be read."""
MAYBE = st.none() | TEXTS
WELL = st.builds(
    Account,
    name=st.just("acme"),
    provider=TEXTS,
    epoch=st.integers(0, 2**53),
    generation=st.integers(0, 2**53),
    client_id=TEXTS,
    sealed_access=st.none() | st.just(""),
    sealed_refresh=st.none() | st.just(""),
    token_type=TEXTS,
    scope=TEXTS,
    issued_at=MOMENTS,
    expires_at=MOMENTS,
    refreshed_at=MOMENTS,
    created_at=MOMENTS,
    external_id=MAYBE,
    label=MAYBE,
    subject=MAYBE,
    org=MAYBE,
    last_used_at=st.none() | MOMENTS,
    trouble=st.just(UNTROUBLED),
    unusable=st.booleans(),
    grant_ends_at=st.none() | MOMENTS,
    grant_ages=st.booleans(),
)


@given(WELL, st.none() | TEXTS.map(Secret))
def test_nothing_is_lost(account: Account, token: Secret | None) -> None:
    """Every field comes back as it was; of a field that is added, `Account` itself would complain."""
    opened = OpenedAccount(account, token, "mark")

    packed = pack(opened)

    assert packed is not None
    assert opened == unpack("acme", packed)


@given(WELL, st.none() | TEXTS.map(Secret), TEXTS)
def test_glimpse_of_bytes_is_that_of_the_account(account: Account, token: Secret | None, mark: str) -> None:
    """And there is none where no token could be handed out."""
    opened = OpenedAccount(account, token, mark)
    packed = pack(opened)

    assert packed is not None
    seen = glimpse("acme", packed)
    assert glimpse_of(opened) == seen
    assert (seen is None) == (token is None or account.unusable)
    if seen is not None:
        assert (token, mark, account.life) == (seen.access_token, seen.fingerprint, seen.life)
        assert {name: getattr(account, name) for name in seen._fields[:-2]} == dict(
            zip(seen._fields[:-2], seen, strict=False)
        )


@pytest.mark.parametrize(
    "ailing",
    [
        {"trouble": Trouble(attempts=1)},
        {"intent": Intent(id="i", generation=1, at=1000.0, owner="boot@replica", until=1060.0)},
        {"frozen": Reason.OPERATOR, "frozen_since": 1000.0},
        {"dead": Reason.REVOKED_OR_EXPIRED, "dead_since": 1000.0},
    ],
)
def test_what_ails_is_not_packed(ailing: dict[str, object]) -> None:
    """It is read again instead."""
    well = Account("acme", "kit", 1, 1, "c", "", "", "Bearer", "", 1.0, 2.0, 1.0, 1.0, trouble=UNTROUBLED)
    token = Secret("token")

    assert pack(OpenedAccount(well, token, "mark")) is not None
    assert pack(OpenedAccount(replace(well, **ailing), token, "mark")) is None  # type: ignore[arg-type]  # by name
    assert pack(OpenedAccount(well, token, "mark", unchecked=True)) is None


def test_collector_does_not_look_at_it() -> None:
    """Neither at the bytes nor at a dictionary of them."""
    well = Account("acme", "kit", 1, 1, "c", "", "", "Bearer", "", 1.0, 2.0, 1.0, 1.0, trouble=UNTROUBLED)
    held = {}
    held["acme"] = pack(OpenedAccount(well, Secret("token"), "mark"))

    assert not gc.is_tracked(held["acme"])
    assert not gc.is_tracked(held)
