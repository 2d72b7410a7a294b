"""Each thing that reads what others wrote, and what must hold whatever they wrote."""

import json
import math
import random
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hypothesis import strategies as st
from yarl import URL

from broker import oauth
from broker.encryption.keyring import (
    DecryptionFailed,
    Keyring,
    Master,
    Place,
    Purpose,
    UnknownKey,
    WrongMaster,
    kid_of,
)
from broker.errors import InvalidRequest
from broker.http.operations import object_of
from broker.installs.routes import is_allowed, kit_redirect
from broker.model import Secret
from broker.providers import answers
from broker.providers.classify import classify
from broker.providers.client import Answer, Lost, Reply
from broker.providers.dead_errors import dead_errors_of
from broker.providers.outcomes import Ambiguous, Declined, Granted, Paused, Refused
from broker.store.retained import grants_spool, renewals_spool
from tests.fuzz.harness import Target
from tests.fuzz.inputs import (
    CANARY,
    bodies,
    damaged,
    damaged_address,
    damaged_text,
    queries,
    texts,
)

NOW = 1_800_000_000.0
READING = answers.Reading("public", dead_errors=dead_errors_of("https://x.example/token", ()))
STATUSES = (200, 201, 204, 302, 400, 401, 403, 408, 425, 429, 500, 502, 503)


def replies() -> "st.SearchStrategy[Reply]":
    """How a token request can end, as far as the parser sees."""
    headers = st.dictionaries(st.sampled_from(["Retry-After", "x-ratelimit-reset", "Content-Type"]), texts)
    answers = st.builds(Answer, st.sampled_from(STATUSES), headers, bodies)
    lost = st.builds(Lost, st.just("cut"), st.booleans(), st.sampled_from((None, *STATUSES)), bodies)
    return st.one_of(answers, lost)


def damaged_reply(chance: random.Random, reply: Reply) -> Reply:
    match reply:
        case Answer():
            return replace(reply, body=damaged(chance, reply.body))
        case Lost():
            return replace(reply, prefix=damaged(chance, reply.prefix))
        case _:
            return reply


def check_token_answer(reply: Reply) -> None:
    """Nothing escapes, no usable token is lost, nothing odd is served, only invalid_grant refuses."""
    outcome = classify(reply, reading=READING, issued_at=NOW, now=NOW + 1)
    if isinstance(reply, Answer) and 200 <= reply.status < 300:
        plain = _plain_object(reply.body)
        wanted = plain.get("refresh_token")
        if isinstance(wanted, str) and wanted.strip() and _is_text(wanted):
            assert isinstance(outcome, Granted)
            assert outcome.tokens.refresh_token is not None
    match outcome:
        case Granted(tokens):
            assert NOW <= tokens.expires_at <= NOW + oauth.MAX_LIFE
            assert math.isfinite(tokens.expires_at)
            for token in (tokens.access_token, tokens.refresh_token):
                assert (
                    token is None
                    or (token.reveal().encode() and token.reveal() not in repr(tokens))
                    or len(token.reveal()) < 20
                )
            assert tokens.scope is None or len(tokens.scope.encode()) <= 4 * 4096
            assert oauth.USABLE_TOKEN.fullmatch(tokens.token_type)
        case Refused(usual=usual):
            assert isinstance(reply, Answer)
            error = answers.parse_error(reply.body)
            if usual:
                assert 400 <= reply.status < 500
                assert error is not None
                assert error.error == "invalid_grant"
            assert reply.status not in (408, 425, 429)
            assert not answers.holds_token(reply.body)
        case Paused(seconds):
            assert 1 <= seconds <= 3600
        case Declined(why) | Ambiguous(why):
            assert CANARY not in why
            assert why.isascii()
        case _:
            pass


def _plain_object(body: bytes) -> Mapping[str, object]:
    """What the standard library makes of it, where it is sure."""
    repeated = []

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        repeated.append(len(dict(pairs)) != len(pairs))
        return dict(pairs)

    try:
        value = json.loads(body.decode(), object_pairs_hook=members)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and not any(repeated) else {}


def _is_text(value: str) -> bool:
    try:
        return bool(value.encode())
    except UnicodeEncodeError:
        return False


ALLOWED: Mapping[str, type | tuple[type, ...]] = {
    "provider": str,
    "account": str,
    "return_to": str,
    "replace": bool,
    "rejected_generation": int,
    "expires_in": (int, float),
    "accounts": list,
    "permissions": list,
}


def check_body(body: bytes) -> None:
    """An object of known members of the right types, fit for the store; or InvalidRequest; nothing else."""
    _check_form(body)
    answers.error_texts(body).encode("utf-8", "surrogatepass")
    salvaged = answers.salvage_refresh_token(body)
    assert salvaged is None or salvaged.reveal().strip().encode()
    try:
        value = object_of(body, ALLOWED)
    except InvalidRequest as exc:
        assert CANARY not in exc.detail
        return
    assert value.keys() <= ALLOWED.keys()
    for name, member in value.items():
        assert isinstance(member, ALLOWED[name])
        if isinstance(member, str):
            assert member.encode() is not None
            assert member.isprintable()
        if isinstance(member, int | float):
            assert abs(float(member)) <= 2**53


def _check_form(body: bytes) -> None:
    try:
        parameters = oauth.single_parameters(body.decode("utf-8", "surrogateescape"))
    except ValueError:
        return
    assert len(parameters) <= 32


def check_redirect(query: str) -> None:
    """Whatever may be followed leads to Kit's host below /apps, also as a browser would read it."""
    url = kit_redirect(query)
    for candidate in (url, query):
        if candidate is not None and is_allowed(candidate):
            _check_address(candidate)


def _check_address(url: str) -> None:
    assert url.isascii()
    assert url.isprintable()
    assert not set(url) & set(' \\"')
    # As the URL standard has it: everything up to the first of / ? # is the authority, whatever is in it.
    rest = url.removeprefix("https://")
    assert rest != url
    authority = rest.split("/")[0].split("?")[0].split("#")[0]
    assert authority == "app.kit.com"
    path = rest[len(authority) :].split("?")[0].split("#")[0]
    assert _without_dots(path)[:2] == ["", "apps"]
    assert URL(url, encoded=True).host == "app.kit.com"


def _without_dots(path: str) -> list[str]:
    """Its segments as a browser resolves them; %2e is a dot to it."""
    kept: list[str] = []
    for segment in path.split("/"):
        plain = segment.lower().replace("%2e", ".")
        if plain == "..":
            kept[1:] = kept[1:-1]
        elif plain != ".":
            kept.append(unquote(segment))
    return kept


KID = "00112233aabbccdd"
RING = Keyring(active=KID, keys={KID: b"k" * 32}, index_key=b"i" * 32)
PLACE = Place("accounts", "acme", 1, 7, "refresh_token")
SECRET = Secret(f"{CANARY}-ü")
MASTER = Master(b"m" * 32)
records = st.one_of(st.builds(lambda _: RING.encrypt(PLACE, SECRET), st.none()), st.text(max_size=80))
places = st.one_of(
    st.just(PLACE),
    st.builds(
        Place,
        st.sampled_from(["accounts", "spares", "account", ""]),
        texts.filter(_is_text),
        st.integers(0, 2),
        st.integers(0, 8),
        st.sampled_from(["refresh_token", "access_token", "refresh_token\0"]),
    ),
)


def check_record(given: tuple[str, Place]) -> None:
    """A record is decrypted in its own place, or says DecryptionFailed or UnknownKey, quoting nothing."""
    record, place = given
    try:
        assert len(kid_of(record)) == 16
        opened = RING.decrypt(place, record)
    except (DecryptionFailed, UnknownKey) as exc:
        assert CANARY not in str(exc)
    else:
        assert (place, SECRET.reveal()) == (PLACE, opened.reveal())
    wrapped = MASTER.wrap(b"d" * 32, kid=KID, purpose=Purpose.DATA, created_at=0)
    object.__setattr__(wrapped, "wrapped", record)
    try:
        MASTER.unwrap(wrapped)
    except WrongMaster:
        return
    raise AssertionError("a record was taken for a wrapped key")


def damaged_record(chance: random.Random, given: tuple[str, Place]) -> tuple[str, Place]:
    return damaged_text(chance, given[0]), given[1]


def check_spool(content: bytes) -> None:
    """Whatever lies in the spool, a start reads past it."""
    with tempfile.TemporaryDirectory() as folder:
        for spool, suffix in ((renewals_spool, ".tokens"), (grants_spool, ".grant")):
            path = Path(folder) / f"x{suffix}"
            path.write_bytes(content)

            assert len(spool((Path(folder),)).read()) <= 1
            assert path.exists()


TARGETS: tuple[Target[Any], ...] = (
    Target("token answers", replies(), damaged_reply, check_token_answer),
    Target("bodies", bodies, damaged, check_body),
    Target("redirects", queries, damaged_address, check_redirect),
    Target("records", st.tuples(records, places), damaged_record, check_record),
    Target("spool", bodies, damaged, check_spool),
)
