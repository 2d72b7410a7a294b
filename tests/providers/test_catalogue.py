"""The catalogue of refresh answers (2.1), row by row, each as a provider on a real socket would give it.

Rows that end above the provider (waiting, dying, breakers, the clock, a grant revoked in flight) are tested with
`tokens` and `store`; certificates, caps and addresses in `test_wire`.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from broker.clock import SystemClock
from broker.config import load
from broker.model import Secret, TokenSet
from broker.oauth import is_usable
from broker.providers.client import ProviderClient
from broker.providers.interface import (
    Ambiguous,
    ClientRefused,
    Declined,
    Grant,
    Granted,
    Paused,
    Refused,
    TokenOutcome,
    TokenRequest,
)
from broker.providers.kustomer import KustomerProvider
from tests.fakes.upstream import JSON, Answer, Cut, Drop, Raw, Scripted, Stall, Upstream, json_answer

HTML = {"Content-Type": "text/html"}
OLD = "rt-old"
Ask = Callable[[Scripted], Awaitable[TokenOutcome]]


@pytest.fixture(name="upstream")
async def _upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream
        assert [] == upstream.violations


@pytest.fixture(name="ask")
async def _ask(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Ask]:
    """Renew at a Kustomer that answers as scripted."""
    (tmp_path / "config.toml").write_text(
        f'[providers.kustomer]\nclient_id = "c"\nclient_secret = "s"\ntoken_url = "{upstream.url}"\n'
        f'authorize_url = "{upstream.url}"\n'
    )
    settings = load(tmp_path / "config.toml", environ={}).providers["kustomer"]
    http = ProviderClient()
    provider = KustomerProvider(settings=settings, http=http, clock=SystemClock(), timeout=1.0)
    request = TokenRequest(Grant.REFRESH, Secret(OLD), "c", scope="a b")

    async def before_send() -> None:
        pass

    async def ask(scripted: Scripted) -> TokenOutcome:
        upstream.script([scripted])
        return await provider.request_token(request, before_send=before_send)

    yield ask
    await http.close()


async def granted(ask: Ask, **members: object) -> TokenSet:
    outcome = await ask(
        json_answer({"access_token": "at", "refresh_token": "rt", "expires_in": 100} | members)
    )
    assert isinstance(outcome, Granted)
    return outcome.tokens


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_invalid_grant_refuses(ask: Ask, status: int) -> None:
    """Auth0 sends it with 403; JSON says it, not the status."""
    outcome = await ask(json_answer({"error": "invalid_grant", "error_description": "why"}, status))

    assert Refused("why") == outcome


@pytest.mark.parametrize("status", [400, 401])
async def test_invalid_client_is_not_about_the_grant(ask: Ask, status: int) -> None:
    """Accounts are untouched."""
    assert ClientRefused(not_installed=False) == await ask(json_answer({"error": "invalid_client"}, status))


@pytest.mark.parametrize(
    "body",
    [
        b"Invalid Client",
        b'"Invalid Client"',
        b'{"error":"Invalid Client"}',
        b'{"message":"Invalid Client"}',
        b'{"errors":["Invalid Client"]}',
        b'{"errors":[{"code":"bad_request","message":"Invalid Client"}]}',
    ],
)
async def test_kustomer_says_that_the_app_is_not_installed(ask: Ask, body: bytes) -> None:
    """In any shape."""
    assert ClientRefused(not_installed=True) == await ask(Answer(400, JSON, body))


@pytest.mark.parametrize(
    "word",
    ["invalid_request", "invalid_scope", "unsupported_grant_type", "unauthorized_client", "never_heard_of"],
)
@pytest.mark.parametrize("status", [400, 401, 403])
async def test_other_oauth_errors_never_kill(ask: Ask, status: int, word: str) -> None:
    """Hydra says `invalid_request` where it means “again, please”."""
    outcome = await ask(json_answer({"error": word}, status))

    assert isinstance(outcome, Declined)
    assert word in outcome.why


async def test_bare_401_is_declined(ask: Ask) -> None:
    """No OAuth JSON, no verdict on the grant."""
    assert isinstance(await ask(Answer(401, {}, b"")), Declined)


async def test_html_403_is_declined(ask: Ask) -> None:
    """A firewall in front of the provider, even one that quotes the word."""
    assert isinstance(await ask(Answer(403, HTML, b"<html>invalid_grant</html>")), Declined)


@pytest.mark.parametrize("status", [400, 404, 405, 410, 422, 451])
async def test_other_4xx_without_an_oauth_error_is_ambiguous(ask: Ask, status: int) -> None:
    """R5's last line: nobody said what was done with the request."""
    assert isinstance(await ask(Answer(status, HTML, b"<html>invalid_grant</html>")), Ambiguous)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after": "7"}, 7),
        ({"RETRY-AFTER": " 7 "}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "100000"}, 3600),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1),
        ({"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, 3600),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 -0000"}, 3600),
        ({"Retry-After": "nonsense"}, 30),
        ({}, 30),
    ],
)
async def test_429_pauses_the_provider(ask: Ask, headers: dict[str, str], seconds: float) -> None:
    """Not processed; for as long as it says, between a second and an hour."""
    assert Paused(seconds) == await ask(Answer(429, headers, b'{"error":"invalid_grant"}'))


@pytest.mark.parametrize("status", [408, 425])
async def test_408_and_425_are_ambiguous(ask: Ask, status: int) -> None:
    """What stands behind the gateway may have it."""
    assert isinstance(await ask(json_answer({"error": "invalid_grant"}, status)), Ambiguous)


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 520])
async def test_5xx_is_ambiguous(ask: Ask, status: int) -> None:
    """Kit said 5xx to bad refresh tokens once, and a gateway may hide a rotation."""
    assert isinstance(await ask(json_answer({"error": "invalid_grant"}, status)), Ambiguous)


async def test_503_with_retry_after_pauses(ask: Ask) -> None:
    """The provider itself speaks, and says that it did nothing."""
    assert Paused(9.0) == await ask(Answer(503, {"Retry-After": "9"}, b""))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_3xx_is_declined(ask: Ask, status: int) -> None:
    """Not followed; a mistake in the configuration."""
    outcome = await ask(Answer(status, {"Location": "https://evil.example/"}, b""))

    assert isinstance(outcome, Declined)
    assert "evil" not in outcome.why


@pytest.mark.parametrize("body", [b"<html>ok</html>", b"", b"{", b"[]", b"null", b'["at"]', b"\xff\xfe"])
async def test_2xx_that_cannot_be_read_is_ambiguous(ask: Ask, body: bytes) -> None:
    """It may have rotated; its body is never told."""
    outcome = await ask(Answer(200, HTML, body))

    assert isinstance(outcome, Ambiguous)
    assert "html" not in outcome.why


async def test_2xx_json_under_any_content_type_is_read(ask: Ask) -> None:
    """A wrong header must not cost the token."""
    assert isinstance(await ask(Answer(200, HTML, b'{"access_token":"at"}')), Granted)


async def test_truncated_2xx_is_salvaged(ask: Ask) -> None:
    """A whole refresh token in what came is a spare."""
    outcome = await ask(Cut(200, JSON, b'{"refresh_token":"rt-new","access_token":"at"}', after=30))

    assert isinstance(outcome, Ambiguous)
    assert Secret("rt-new") == outcome.salvage


async def test_too_large_2xx_is_salvaged(ask: Ask) -> None:
    """Reading stops; what was read is not thrown away."""
    outcome = await ask(Answer(200, JSON, b'{"refresh_token":"rt-new","x":"' + b"y" * 100_000 + b'"}'))

    assert isinstance(outcome, Ambiguous)
    assert Secret("rt-new") == outcome.salvage


@pytest.mark.parametrize(
    ("name", "neighbour"),
    [
        ("deep JSON", b'"x":' + b"[" * 30_000 + b"]" * 30_000),
        ("integer of 5,000 digits", b'"x":' + b"9" * 5_000),
        ("lone surrogate", b'"x":"\\ud800"'),
        ("NaN", b'"x":NaN'),
        ("1e999", b'"expires_in":1e999'),
        ("duplicate members", b'"x":1,"x":2'),
        ("invalid UTF-8", b'"x":"\xff"'),
    ],
)
async def test_poisonous_neighbour_does_not_cost_the_token(ask: Ask, name: str, neighbour: bytes) -> None:
    """Granted, or at least salvaged; never an exception."""
    outcome = await ask(
        Answer(200, JSON, b'{"access_token":"at","refresh_token":"rt-new",' + neighbour + b"}")
    )

    match outcome:
        case Granted(tokens):
            assert Secret("rt-new") == tokens.refresh_token
        case Ambiguous():
            assert Secret("rt-new") == outcome.salvage
        case _:
            pytest.fail(f"{name}: {outcome}")


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ('"rt-1"', '""', "rt-1"),
        ('"rt-1"', "null", "rt-1"),
        ('"rt-1"', "5", "rt-1"),
        ('"rt-1"', '"rt-2"', "rt-2"),
    ],
)
async def test_repeated_refresh_token_is_not_lost(ask: Ask, first: str, second: str, kept: str) -> None:
    """The last usable one counts: an empty repetition throws nothing away."""
    body = f'{{"access_token":"at","refresh_token":{first},"refresh_token":{second}}}'

    outcome = await ask(Answer(200, JSON, body.encode()))

    assert isinstance(outcome, Granted)
    assert Secret(kept) == outcome.tokens.refresh_token


async def test_dropped_after_sending_is_ambiguous(ask: Ask) -> None:
    """ServerDisconnected, ClientOSError: the provider may have it."""
    outcome = await ask(Drop())

    assert isinstance(outcome, Ambiguous)
    assert not outcome.timed_out


async def test_timeout_after_sending_is_ambiguous(ask: Ask, upstream: Upstream) -> None:
    """And told apart: the provider may still be at it."""
    outcome = await ask(Stall())
    upstream.release()

    assert isinstance(outcome, Ambiguous)
    assert outcome.timed_out


async def test_missing_access_token_keeps_the_refresh_token(ask: Ask) -> None:
    """Stored as the successor, and due at once."""
    tokens = await granted(ask, access_token=None)

    assert (None, Secret("rt")) == (tokens.access_token, tokens.refresh_token)
    assert tokens.issued_at == tokens.expires_at


@pytest.mark.parametrize("refresh", [None, "", "  "])
async def test_missing_refresh_token_keeps_the_old(ask: Ask, refresh: str | None) -> None:
    """RFC 6749 section 6: None says that ours goes on."""
    assert (await granted(ask, refresh_token=refresh)).refresh_token is None


async def test_identical_refresh_token_is_fine(ask: Ask) -> None:
    """A provider that does not rotate."""
    assert Secret(OLD) == (await granted(ask, refresh_token=OLD)).refresh_token


async def test_missing_expires_in_is_trusted_for_an_hour(ask: Ask) -> None:
    """Of Kustomer's usual day."""
    outcome = await ask(json_answer({"access_token": "at"}))

    assert isinstance(outcome, Granted)
    assert (3600, ("expires_in_missing",)) == (_life(outcome.tokens), outcome.tokens.flags)


@pytest.mark.parametrize(
    ("value", "life"), [("7200", 7200), ("7200.0", 7200), (7200.5, 7200.5), (7200, 7200), (" 7200", 3600)]
)
async def test_expires_in_as_text_or_fraction_is_taken(ask: Ask, value: object, life: float) -> None:
    """Digits only and finite numbers, as many SDKs do."""
    assert life == _life(await granted(ask, expires_in=value))


@pytest.mark.parametrize(
    ("value", "life"),
    [(0, 60), (-1, 60), (True, 3600), (None, 3600), ([], 3600), ("1e9", 3600), (400 * 86400, 366 * 86400)],
)
async def test_expires_in_that_cannot_be_meant(ask: Ask, value: object, life: float) -> None:
    """Not positive: a minute; nonsense: an hour; longer than a year: a year. Flagged each time."""
    tokens = await granted(ask, expires_in=value)

    assert life == _life(tokens)
    assert any(flag.startswith("expires_in_") for flag in tokens.flags)


@pytest.mark.parametrize("value", ["bearer", "BEARER", "Bearer", None, ""])
async def test_token_type_in_any_case_is_bearer(ask: Ask, value: str | None) -> None:
    """RFC 6749 5.1: case-insensitive."""
    assert "Bearer" == (await granted(ask, token_type=value)).token_type


@pytest.mark.parametrize("value", ["mac", "N_A", "DPoP"])
async def test_other_token_type_is_stored_and_not_served(ask: Ask, value: str) -> None:
    """A Bearer header would be wrong for it."""
    tokens = await granted(ask, token_type=value)

    assert (value, ("token_type_unknown",)) == (tokens.token_type, tokens.flags)
    assert tokens.access_token is not None
    assert not is_usable(tokens.access_token, tokens.token_type)


@pytest.mark.parametrize("token", ["a\x00b", "a\r\nX-Evil: 1", "ü", "x" * 9000, "a b"])
async def test_token_that_would_inject_is_stored_and_not_served(ask: Ask, token: str) -> None:
    """Our callers put it into a header."""
    tokens = await granted(ask, access_token=token)

    assert Secret(token) == tokens.access_token
    assert not is_usable(Secret(token), tokens.token_type)


@pytest.mark.parametrize(
    ("scope", "flags"),
    [("a b", ()), ("b a", ()), ("a", ("scope_reduced",)), ("a b c", ("scope_grown",)), (None, ())],
)
async def test_changed_scope_is_stored_and_flagged(
    ask: Ask, scope: str | None, flags: tuple[str, ...]
) -> None:
    """RFC 6749 section 6 forbids it; the audit gets to know."""
    assert flags == (await granted(ask, scope=scope)).flags


async def test_answer_after_an_informational_one_is_read(ask: Ask) -> None:
    """`100 Continue` and `103 Early Hints` are no answers."""
    body = json.dumps({"access_token": "at", "refresh_token": "rt-new"}).encode()
    early = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"

    outcome = await ask(Raw(early + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)))

    assert isinstance(outcome, Granted)
    assert Secret("rt-new") == outcome.tokens.refresh_token


def _life(tokens: TokenSet) -> float:
    return tokens.expires_at - tokens.issued_at
