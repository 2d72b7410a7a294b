"""The machinery of OAuth: PKCE, queries, scopes, and what the bytes of a token endpoint mean."""

import hashlib
import json
import re

import pytest

from broker.model import Secret, TokenSet
from broker.oauth import (
    challenge_of,
    hashed,
    is_usable,
    new_secret,
    scope_set,
    single_parameters,
    with_query,
)
from broker.providers.answers import (
    OAuthError,
    Reading,
    Unreadable,
    error_texts,
    parse_error,
    parse_token_answer,
    salvage_refresh_token,
)

NOW = 1_800_000_000.0
KIT_TODAY = b"""{"access_token":"at-1","token_type":"Bearer","expires_in":172800,"refresh_token":"rt-1",
 "scope":"public","created_at":1710270147}"""
KUSTOMER_TODAY = b"""{"scope":"org.permission.customer org.permission.conversation offline_access",
 "token_type":"bearer","access_token":"at-2","expires_in":86400,"refresh_token":"rt-2"}"""


def parsed(body: bytes, *, asked: str = "") -> TokenSet:
    return parse_token_answer(body, Reading(asked, 172800.0), issued_at=NOW)


def test_challenge_is_the_one_of_the_rfc() -> None:
    """The vector of RFC 7636 appendix B: 43 characters, raw digest, no padding."""
    verifier = Secret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")

    assert "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" == challenge_of(verifier)


def test_new_secrets_can_be_verifiers_and_states() -> None:
    """256 bits, 43 URL-safe characters (RFC 7636 4.1 wants 43 to 128), never twice."""
    secrets = [new_secret().reveal() for _ in range(200)]

    assert 200 == len(set(secrets))
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", secret) for secret in secrets)


def test_stored_hash_is_plain_sha256() -> None:
    """So that a state found in a browser's address can be looked up by index."""
    assert hashlib.sha256(b"state-1").hexdigest() == hashed(Secret("state-1"))


@pytest.mark.parametrize(
    ("url", "parameters", "expected"),
    [
        ("https://x.example/a", {"b": "c"}, "https://x.example/a?b=c"),
        ("https://x.example/a?z=1", {"b": "c"}, "https://x.example/a?z=1&b=c"),
        ("https://x.example/a?", {"b": "c"}, "https://x.example/a?b=c"),
        ("https://x.example/a", {"scope": "a b"}, "https://x.example/a?scope=a+b"),
        ("https://x.example/a", {"u": "https://y.example/?q=1&r"}, None),
        ("https://x.example/a#f", {"b": "c"}, "https://x.example/a?b=c#f"),
        ("https://x.example/a", {"b": "\r\nX-Evil: 1"}, "https://x.example/a?b=%0D%0AX-Evil%3A+1"),
    ],
)
def test_parameters_are_added_encoded_once(
    url: str, parameters: dict[str, str], expected: str | None
) -> None:
    """Behind those that the address has already, and they come back as they were."""
    found = with_query(url, parameters)

    assert expected in (found, None)
    query = found.partition("#")[0].partition("?")[2]
    assert parameters.items() <= single_parameters(query).items()


@pytest.mark.parametrize(
    "query", ["code=a&code=b", "state=&state=", "a=1&b=2&a=1", "&".join(f"p{n}=1" for n in range(40))]
)
def test_repeated_parameters_are_refused(query: str) -> None:
    """RFC 6749 3.1: they must not be included more than once; nor are there ever so many."""
    with pytest.raises(ValueError, match=r"repeated|fields"):
        single_parameters(query)


def test_blank_parameters_are_there() -> None:
    """An empty `code` is a malformed answer, not a missing one."""
    assert {"code": "", "state": "s"} == single_parameters("code=&state=s")


def test_scopes_are_a_set() -> None:
    """Order, repetition and white space mean nothing (RFC 6749 3.3)."""
    assert scope_set("a b") == scope_set(" b  a\ta ")
    assert frozenset() == scope_set("")


def test_answer_of_kit_is_read() -> None:
    """As its documents show it; `created_at` is ignored (R12)."""
    assert TokenSet(Secret("at-1"), Secret("rt-1"), "Bearer", "public", NOW, NOW + 172800) == parsed(
        KIT_TODAY, asked="public"
    )


def test_answer_of_kustomer_is_read() -> None:
    """Lower-case `bearer`, scopes in any order."""
    found = parsed(KUSTOMER_TODAY, asked="offline_access org.permission.conversation org.permission.customer")

    assert ("Bearer", NOW + 86400, ()) == (found.token_type, found.expires_at, found.flags)


@pytest.mark.parametrize(
    ("body", "flag"),
    [
        (b'{"access_token":"a"}', "expires_in_missing"),
        (b'{"access_token":"a","expires_in":"soon"}', "expires_in_unreadable"),
        (b'{"access_token":"a","expires_in":NaN}', "expires_in_unreadable"),
        (b'{"access_token":"a","expires_in":0}', "expires_in_not_positive"),
        (b'{"access_token":"a","expires_in":99999999999}', "expires_in_clamped"),
        (b'{"access_token":"a","token_type":"mac"}', "token_type_unknown"),
        (b'{"access_token":"a","scope":"x"}', "scope_reduced"),
        (b'{"access_token":"a","scope":"public more"}', "scope_grown"),
        (b'{"access_token":"a","refresh_token":5}', "refresh_token_unusable"),
        (b'{"access_token":"a","refresh_token":"   "}', "refresh_token_unusable"),
        (b'{"access_token":"\\ud800","refresh_token":"r"}', "access_token_unusable"),
        (b'{"refresh_token":"r"}', "access_token_missing"),
    ],
)
def test_oddity_is_flagged(body: bytes, flag: str) -> None:
    """Taken all the same; the log and the audit get to know."""
    assert flag in parsed(body, asked="public").flags


def test_refresh_token_alone_is_due_at_once() -> None:
    """The successor is safe, and there is nothing to serve."""
    found = parsed(b'{"refresh_token":"rt","expires_in":3600}')

    assert (None, Secret("rt"), NOW) == (found.access_token, found.refresh_token, found.expires_at)


@pytest.mark.parametrize(
    "member", ["", ',"refresh_token":""', ',"refresh_token":null', ',"refresh_token":" "']
)
def test_absent_refresh_token_means_the_old_one_goes_on(member: str) -> None:
    """RFC 6749 section 6: missing, empty and blank alike."""
    assert parsed(b'{"access_token":"a"' + member.encode() + b"}").refresh_token is None


@pytest.mark.parametrize(
    ("scope", "stored"),
    [
        ('"b  a"', "b a"),
        ('["a","b"]', "a b"),
        ("[1]", None),
        ("5", None),
        ("null", None),
        ('""', None),
        ('"\\ud800"', None),
    ],
)
def test_scope_is_stored_as_granted(scope: str, stored: str | None) -> None:
    """A text or a list of texts; where the provider does not say, what was asked for holds."""
    assert stored == parsed(b'{"access_token":"a","scope":' + scope.encode() + b"}").scope


@pytest.mark.parametrize(
    ("token_type", "token", "usable"),
    [
        ('"Bearer"', "a", True),
        ('"bearer"', "a", True),
        ('"BEARER"', "a", True),
        ("null", "a", True),
        ('""', "a", True),
        ('"mac"', "a", False),
        ('"DPoP"', "a", False),
        ("5", "a", True),
        ('"Bearer\\r\\nX-Evil: 1"', "a", True),
        ('"Bearer"', "a~!=", True),
        ('"Bearer"', "x" * 65536, True),
        ('"Bearer"', "x" * 65537, False),
        ('"Bearer"', "a b", False),
        ('"Bearer"', "a\\nX-Evil: 1", False),
        ('"Bearer"', "\\u0000", False),
        ('"Bearer"', "\\u007f", False),
        ('"Bearer"', "ü", False),
    ],
)
def test_only_what_a_header_can_carry_is_served(token_type: str, token: str, usable: bool) -> None:
    """Another kind of token, and one that would inject a header, are stored and not served."""
    found = parsed(f'{{"access_token":"{token}","token_type":{token_type}}}'.encode())

    assert found.access_token is not None
    assert usable is is_usable(found.access_token, found.token_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'["canary"]',
        b'"canary"',
        b"<html>canary",
        b"{}",
        b'{"error":"canary"}',
        b'{"access_token":"","refresh_token":null,"x":"canary"}',
        b'{"access_token":"canary"',
        b'{"access_token":"canary"}x',
        b'{"access_token":"canary","x":' + b"[" * 200_000,
        b"\x00" * 100,
    ],
)
def test_body_without_a_token_is_unreadable(body: bytes) -> None:
    """One kind of error for every kind of nonsense; it quotes nothing, and nothing hangs on to the body."""
    with pytest.raises(Unreadable) as caught:
        parsed(body)

    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("prefix", "token"),
    [
        (b'{"refresh_token":"rt"', "rt"),
        (b'{"refresh_token" :\n "rt" , "acc', "rt"),
        (b'{"access_token":"at","refresh_token":"rt","expires_in":1', "rt"),
        (b'{"refresh_token":"a\\"b\\\\c\\u00fc"', 'a"b\\c\u00fc'),
        ('{"refresh_token":"ü"'.encode(), "ü"),
        (b'\xff\xfe{"refresh_token":"rt"', "rt"),
        (b'{"refresh_token":"","x":{"refresh_token":"rt"', "rt"),
        (b'{"refresh_token":"' + b"x" * 9000 + b'"', "x" * 9000),
        (b'{"refresh_token":"rt', None),
        (b'{"refresh_token":"rt\\"', None),
        (b'{"refresh_token":"rt\\', None),
        (b'{"refresh_token":', None),
        (b'{"refresh_token":""', None),
        (b'{"refresh_token":"   "', None),
        (b'{"refresh_token":"a\nb"', None),
        (b'{"refresh_token":"\\ud800"', None),
        (b'{"refresh_token":"\\x"', None),
        (b'{"refresh_token":5', None),
        (b'{"x":"\\"refresh_token\\":\\"forged\\"","y', None),
        (b'{"access_token":"at","refr', None),
        (b"refresh_token=rt&access_token=at", "rt"),
        (b"access_token=at&refresh_token=a%2Fb%3D&expi", "a/b="),
        (b"access_token=at&refresh_token=rt", None),
        (b"access_token=at&old_refresh_token=rt&x", None),
        ('{"refresh_token":"rt","x'.encode("utf-16"), "rt"),
        (b"", None),
    ],
)
def test_whole_refresh_token_is_salvaged(prefix: bytes, token: str | None) -> None:
    """From what came before the cut; a token that is cut itself is worth nothing."""
    found = salvage_refresh_token(prefix)

    assert token == (None if found is None else found.reveal())


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":"invalid_grant"}', OAuthError("invalid_grant")),
        (b'{"error":"e","error_description":"d"}', OAuthError("e", "d")),
        (b'\xef\xbb\xbf{"error":"e"}', OAuthError("e")),
        (b'{"error":"e","error_description":5}', OAuthError("e")),
        (b'{"error":"' + b"x" * 5000 + b'"}', OAuthError("x" * 100)),
        (b'{"error":["invalid_grant"]}', None),
        (b'{"error":{"code":"invalid_grant"}}', None),
        (b'{"error":null}', None),
        (b'{"errors":["invalid_grant"]}', None),
        (b'["error"]', None),
        (b"invalid_grant", None),
        (b"error=invalid_grant", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_error_is_json_with_a_string(body: bytes, error: OAuthError | None) -> None:
    """RFC 6749 5.2, and nothing that merely looks like it: an account's life hangs on it."""
    assert error == parse_error(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"errors":["Invalid Client"]}',
        b'{"errors":[["Invalid Client"]]}',
        b'{"errors":[{"code":"bad_request","message":"Invalid Client","meta":{}}]}',
        b'{"error":"Invalid Client"}',
        b'{"error":"x","error_description":"Invalid Client"}',
        b'{"message":"Invalid Client"}',
        b"Invalid Client",
        b"<h1>Invalid Client</h1>",
        b'"Invalid Client"',
        b"\xffInvalid Client",
    ],
)
def test_error_sentences_are_found_in_every_shape(body: bytes) -> None:
    """Kit's and Kustomer's dialects, and plain text."""
    assert "Invalid Client" in error_texts(body)


@pytest.mark.parametrize(
    "body", [b"x" * 60_000, json.dumps({"errors": ["y" * 60_000]}).encode(), b"[" * 60_000]
)
def test_error_sentences_are_short(body: bytes) -> None:
    """Whatever a provider sends, matching looks at a thousand characters."""
    assert len(error_texts(body)) <= 1000
