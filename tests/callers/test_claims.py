"""What a JWT must claim, as tables; nothing here is signed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.callers.jws import UnverifiedJwt, check_claims, read_unverified
from broker.errors import Unauthenticated
from tests.callers.signing import b64

NOW = 1_800_000_000.0


def claimed(
    *, iat: float = NOW, exp: float = NOW + 60, nbf: float | None = None, aud: tuple[str, ...] = ("b",)
) -> UnverifiedJwt:
    return UnverifiedJwt("EdDSA", None, "reporting", "reporting", aud, iat, exp, nbf)


def refusal(jwt: UnverifiedJwt, longest: float) -> str | None:
    try:
        check_claims(jwt, audience="b", longest=longest, now=NOW)
    except Unauthenticated as exc:
        return str(exc.members["why"])
    return None


@pytest.mark.parametrize(
    ("jwt", "why"),
    [
        (claimed(), None),
        (claimed(aud=("a", "b")), None),
        (claimed(aud=("a",)), "audience"),
        (claimed(aud=("B",)), "audience"),
        (claimed(aud=("b ",)), "audience"),
        (claimed(exp=NOW + 300), None),
        (claimed(exp=NOW + 301), "too_long"),
        (claimed(exp=NOW), "too_long"),
        (claimed(exp=NOW - 1), "too_long"),
        (claimed(iat=NOW - 300, exp=NOW - 9), None),
        (claimed(iat=NOW - 300, exp=NOW - 10), "expired"),
        (claimed(iat=NOW + 10), None),
        (claimed(iat=NOW + 11), "too_early"),
        (claimed(nbf=NOW + 10), None),
        (claimed(nbf=NOW + 11), "too_early"),
        (claimed(nbf=0), None),
        (claimed(iat=NOW + 100 * 365 * 86400, exp=NOW + 100 * 365 * 86400 + 60), "too_early"),
        (claimed(exp=NOW + 100 * 365 * 86400), "too_long"),
    ],
)
def test_claims_of_an_own_key(jwt: UnverifiedJwt, why: str | None) -> None:
    """Ours is among the audiences; five minutes at most; ten seconds of leeway at both ends."""
    assert why == refusal(jwt, 300.0)


@pytest.mark.parametrize(("life", "why"), [(86400, None), (86401, "too_long")])
def test_issuers_may_grant_a_day(life: float, why: str | None) -> None:
    """And no second more."""
    assert why == refusal(claimed(exp=NOW + life), 86400.0)


def compact(header: object, claims: object) -> str:
    return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}.c2ln"


GOOD = {"iss": "a", "sub": "b", "aud": ["c", "d"], "iat": 1, "exp": 2.5, "nbf": 0, "jti": 7, "typ": []}


def test_members_are_read_with_their_types() -> None:
    """What is not used may be anything."""
    read = read_unverified(compact({"alg": "ES256", "kid": "k", "typ": 1, "x5t": 2}, GOOD))

    assert UnverifiedJwt("ES256", "k", "a", "b", ("c", "d"), 1.0, 2.5, 0.0) == read


@pytest.mark.parametrize("missing", ["iss", "sub", "aud", "iat", "exp"])
def test_required_claims(missing: str) -> None:
    """Each of the five."""
    claims = {name: value for name, value in GOOD.items() if name != missing}

    with pytest.raises(Unauthenticated) as caught:
        read_unverified(compact({"alg": "EdDSA"}, claims))

    assert "malformed" == caught.value.members["why"]


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c", "crit"])
def test_header_cannot_choose_the_key(name: str) -> None:
    """Not even with nothing in it."""
    with pytest.raises(Unauthenticated) as caught:
        read_unverified(compact({"alg": "EdDSA", name: None}, GOOD))

    assert "malformed" == caught.value.members["why"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("EdDSA"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
HEADERS = (
    st.fixed_dictionaries({}, optional=dict.fromkeys(("alg", "kid", "crit", "typ"), ANYTHING)) | ANYTHING
)
CLAIMS = st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, ANYTHING)) | ANYTHING


@pytest.mark.proof
@settings(max_examples=1500, deadline=None, database=None)
@given(HEADERS, CLAIMS)
def test_whatever_it_holds_it_is_read_or_refused(header: object, claims: object) -> None:
    """Nothing else is ever raised."""
    try:
        read: object = read_unverified(compact(header, claims))
    except Unauthenticated as exc:
        read = exc.members["why"]

    assert read == "malformed" or isinstance(read, UnverifiedJwt)
