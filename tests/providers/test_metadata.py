"""What a provider says of itself (RFC 8414), held against what we were told of it."""

import json
from pathlib import Path

import pytest

from broker.config import load
from broker.config.settings import ProviderSettings
from broker.providers.kinds import differences

AUTHORIZE, TOKEN = "https://id.example.com/authorize", "https://id.example.com/token"
SAME = {
    "issuer": "https://id.example.com",
    "authorization_endpoint": AUTHORIZE,
    "token_endpoint": f"{TOKEN}/",
    "grant_types_supported": ["authorization_code", "refresh_token"],
    "token_endpoint_auth_methods_supported": ["client_secret_post"],
    "code_challenge_methods_supported": ["S256"],
}


def settings(folder: Path, authorize: str, token: str) -> ProviderSettings:
    """A provider with a client secret and no revocation endpoint."""
    (folder / "config.toml").write_text(
        '[providers.x]\ntype = "oauth2"\nclient_id = "c"\nclient_secret = "s"\n'
        f'authorize_url = "{authorize}"\ntoken_url = "{token}"\n'
    )
    return load(folder / "config.toml", environ={}).providers["x"]


@pytest.fixture
def ours(tmp_path: Path) -> ProviderSettings:
    return settings(tmp_path, AUTHORIZE, TOKEN)


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
def test_each_difference_is_told(ours: ProviderSettings, said: dict[str, object], word: str) -> None:
    """Once, with both sides."""
    found = differences(json.dumps(SAME | said).encode(), ours)

    assert found is not None
    assert [True] == [word in one for one in found]


@pytest.mark.parametrize(
    "said",
    [{}, {"token_endpoint": 7}, {"grant_types_supported": "x"}, {"code_challenge_methods_supported": None}],
)
def test_what_is_the_same_or_no_answer_is_no_difference(
    ours: ProviderSettings, said: dict[str, object]
) -> None:
    """A slash at the end, and members of odd types, are nobody's worry."""
    assert () == differences(json.dumps(SAME | said).encode(), ours)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"hello": "world"}', b"[" * 100_000])
def test_anything_else_is_no_metadata(ours: ProviderSettings, body: bytes) -> None:
    """Many hosts answer every path with something."""
    assert None is differences(body, ours)


def test_addresses_by_organisation_are_not_compared(tmp_path: Path) -> None:
    """They name a place for each."""
    ours = settings(tmp_path, "https://{org}.example.com/a", "https://{org}.example.com/t")

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
def test_neighbour_on_the_same_host_is_not_compared(
    ours: ProviderSettings, issuer: str, is_ours: bool
) -> None:
    """Several issuers may share one; what one of them says is not about the other."""
    found = differences(json.dumps(SAME | {"issuer": issuer}).encode(), ours)

    assert (found is not None) == is_ours
