"""What a provider says of itself (RFC 8414), held against what we were told of it."""

import json

import pytest

from broker.providers.metadata import Ours, differences

OURS = Ours(
    authorize="https://id.example.com/authorize",
    token="https://id.example.com/token",
    revoke=None,
    client_auth="post",
    pkce=True,
)
SAME = {
    "issuer": "https://id.example.com",
    "authorization_endpoint": OURS.authorize,
    "token_endpoint": f"{OURS.token}/",
    "grant_types_supported": ["authorization_code", "refresh_token"],
    "token_endpoint_auth_methods_supported": ["client_secret_post"],
    "code_challenge_methods_supported": ["S256"],
}


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"token_endpoint": "https://x.example.com/t"}, "its token_endpoint is https://x.example.com/t"),
        ({"authorization_endpoint": "https://y"}, "its authorization_endpoint is https://y"),
        ({"revocation_endpoint": "https://z"}, "we have no revoke_url"),
        ({"grant_types_supported": ["client_credentials"]}, "no refresh_token"),
        ({"token_endpoint_auth_methods_supported": ["client_secret_basic"]}, "client_secret_post"),
        ({"code_challenge_methods_supported": ["plain"]}, "no S256"),
    ],
)
def test_each_difference_is_told(said: dict[str, object], word: str) -> None:
    """Once, with both sides."""
    found = differences(json.dumps(SAME | said).encode(), OURS)

    assert found is not None
    assert [True] == [word in one for one in found]


@pytest.mark.parametrize(
    "said",
    [{}, {"token_endpoint": 7}, {"grant_types_supported": "x"}, {"code_challenge_methods_supported": None}],
)
def test_what_is_the_same_or_no_answer_is_no_difference(said: dict[str, object]) -> None:
    """A slash at the end, and members of odd types, are nobody's worry."""
    assert () == differences(json.dumps(SAME | said).encode(), OURS)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"hello": "world"}', b"[" * 100_000])
def test_anything_else_is_no_metadata(body: bytes) -> None:
    """Many hosts answer every path with something."""
    assert None is differences(body, OURS)


def test_addresses_by_organisation_are_not_compared() -> None:
    """They name a place for each."""
    ours = Ours("https://{org}.example.com/a", "https://{org}.example.com/t", None, "post", True)

    assert () == differences(json.dumps(SAME).encode(), ours)


@pytest.mark.parametrize(
    ("issuer", "is_ours"),
    [
        ("https://id.example.com/", True),
        ("https://other.example.com/tenant", True),
        ("https://id.example.com/tenant", False),
        ("https://id.example.com/tok", False),
        ("https://[", False),
    ],
)
def test_neighbour_on_the_same_host_is_not_compared(issuer: str, is_ours: bool) -> None:
    """Several issuers may share one; what one of them says is not about the other."""
    found = differences(json.dumps(SAME | {"issuer": issuer}).encode(), OURS)

    assert (found is not None) == is_ours
