"""Small rules about what goes in and out."""

import base64
import hashlib
import re
from dataclasses import replace
from typing import get_args

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker import oauth
from broker.model import Secret
from broker.plugin.clients import REDIRECT_ERRORS, Refused, TokenError, bad_grant
from broker.plugin.grants import Tokens, decrypt_for_replay, encrypt_for_replay, new_tokens
from tests.plugin.driving import APPS, CHALLENGE, KIT, VERIFIER, Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")
DESCRIPTION = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]+")
"""RFC 6749 5.2."""


async def test_tokens_hold_256_random_bits(stand: Stand) -> None:
    """43 characters of base64url behind a prefix that scanners know, each its own."""
    made = [new_tokens() for _ in range(50)]
    texts = [token.reveal() for tokens in made for token in (tokens.access, tokens.refresh)]

    assert 100 == len(set(texts))
    assert all(re.fullmatch(r"tbp_[A-Za-z0-9_-]{43}", text) for text in texts)
    assert 43 == len(await stand.person.code())


async def test_pair_is_decrypted_with_its_own_token_alone() -> None:
    """Neither another token nor its hash, which the store holds, decrypts it; a damaged record is refused."""
    old, tokens = Secret("tbp_" + "o" * 43), new_tokens()

    encrypted = encrypt_for_replay(old, tokens)

    decrypted = decrypt_for_replay(old, encrypted)
    assert isinstance(decrypted, Tokens)
    assert (tokens.access, tokens.refresh) == (decrypted.access, decrypted.refresh)
    assert decrypt_for_replay(Secret("tbp_" + "x" * 43), encrypted) is None
    assert decrypt_for_replay(Secret(oauth.hashed(old)), encrypted) is None
    assert (
        decrypt_for_replay(old, encrypted[:20] + ("A" if encrypted[20] != "A" else "B") + encrypted[21:])
        is None
    )
    assert tokens.access.reveal() not in encrypted


async def test_encryption_key_comes_from_the_old_token() -> None:
    """HKDF-SHA256, frozen: a pair encrypted by an older program is decrypted; nothing in the store is its key."""
    old = "tbp_" + "o" * 43
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"tb/plugin-pair/1").derive(old.encode())
    raw = b"n" * 12 + AESGCM(key).encrypt(
        b"n" * 12, b'["tbp_a", "tbp_r"]', hashlib.sha256(old.encode()).hexdigest().encode()
    )

    decrypted = decrypt_for_replay(Secret(old), base64.urlsafe_b64encode(raw).decode())

    assert decrypted is not None
    assert ("tbp_a", "tbp_r") == (decrypted.access.reveal(), decrypted.refresh.reveal())


async def test_same_pair_is_encrypted_differently_each_time() -> None:
    """Equal records would tell that something is equal."""
    old, tokens = Secret("o"), new_tokens()

    assert encrypt_for_replay(old, tokens) != encrypt_for_replay(old, tokens)


async def test_descriptions_hold_only_what_they_may() -> None:
    """No quotes, backslashes or umlauts (RFC 6749 5.2)."""
    words: tuple[TokenError, ...] = get_args(TokenError)

    assert all(DESCRIPTION.fullmatch(text) for text in REDIRECT_ERRORS.values())
    assert DESCRIPTION.fullmatch(bad_grant("code").description)
    assert {400, 401, 500, 503} == {Refused(word, "x").status for word in words}


async def test_token_answer_is_not_cached(stand: Stand) -> None:
    """RFC 6749 5.1: both headers, also on errors."""
    code = await stand.person.code()

    answers = [await stand.client.redeem(code), await stand.client.redeem("wrong")]

    assert [("no-store", "no-cache")] * 2 == [
        (answer.headers["Cache-Control"], answer.headers["Pragma"]) for answer in answers
    ]


async def test_empty_and_unknown_parameters_change_nothing(stand: Stand) -> None:
    """RFC 6749 3.1 and 3.2, at both endpoints."""
    code = await stand.person.code(scope="", code_challenge="", tenant="x", prompt="consent")
    asked = {**KIT, "grant_type": "authorization_code", "code": code, "redirect_uri": APPS}

    answer = await stand.client.post(
        "/plugin/token", {**asked, "code_verifier": "", "scope": None, "odd": {"a": [1]}}
    )

    assert 200 == answer.status


async def test_verifier_has_its_length(stand: Stand) -> None:
    """RFC 7636 4.1: from 43 characters on, whatever its hash."""
    short = Secret("v" * 42)
    code = await stand.person.code(code_challenge=oauth.challenge_of(short), code_challenge_method="S256")

    refused = await stand.client.redeem(code, code_verifier=short.reveal())
    other = await stand.person.code(code_challenge=CHALLENGE, code_challenge_method="S256")
    taken = await stand.client.redeem(other, code_verifier=VERIFIER)

    assert ("invalid_grant", 200) == (refused.json["error"], taken.status)


async def test_tokens_do_not_print() -> None:
    """Nor does what holds them."""
    tokens = replace(new_tokens())

    assert tokens.access.reveal() not in repr(tokens)
    assert "***" in repr(tokens)
