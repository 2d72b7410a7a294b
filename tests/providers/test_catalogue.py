"""The catalogue of refresh answers (2.1), row by row, each as a provider on a real socket would give it.

Rows that end above the provider (waiting, dying, breakers, the clock, a grant revoked in flight) are tested with
`tokens` and `store`; certificates, caps and addresses in `test_wire`.
"""

import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from broker.clock import SystemClock
from broker.config import load
from broker.model import Reason, Secret, TokenSet
from broker.oauth import is_usable
from broker.providers.client import ProviderClient
from broker.providers.oauth2 import OAuth2Provider
from broker.providers.outcomes import (
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
async def _ask(tmp_path: Path, upstream: Upstream, request: pytest.FixtureRequest) -> AsyncIterator[Ask]:
    """Renew at a Kustomer that answers as scripted; the parameter is the time-out in seconds."""
    (tmp_path / "config.toml").write_text(
        f'[providers.kustomer]\nclient_id = "c"\nclient_secret = "s"\ntoken_url = "{upstream.url}"\n'
        f'authorize_url = "{upstream.url}"\n'
    )
    settings = load(tmp_path / "config.toml", environ={}).providers["kustomer"]
    http = ProviderClient()
    provider = OAuth2Provider(
        settings=settings, http=http, clock=SystemClock(), timeout=getattr(request, "param", 60.0)
    )
    renewal = TokenRequest(Grant.REFRESH, Secret(OLD), "c", scope="a b")

    async def before_send() -> None:
        pass

    async def ask(scripted: Scripted) -> TokenOutcome:
        upstream.script([scripted])
        return await provider.request_token(renewal, before_send=before_send)

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
    """A gateway may hide a rotation."""
    assert isinstance(await ask(json_answer({"error": "server_error"}, status)), Ambiguous)


@pytest.mark.parametrize("status", [200, 302, 500, 503])
async def test_invalid_grant_refuses_at_any_status_less_quickly(ask: Ask, status: int) -> None:
    """Kit said 5xx to bad refresh tokens once; such a refusal needs more confirmation (R8)."""
    assert Refused("", usual=False) == await ask(json_answer({"error": "invalid_grant"}, status))


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


@pytest.mark.parametrize("ask", [0.5], indirect=True)
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
    ("value", "life"), [("7200", 7200), ("7200.0", 7200), (7200.5, 7200.5), (7200, 7200), (" 7200", 7200)]
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


@pytest.mark.parametrize("token", ["a\x00b", "a\r\nX-Evil: 1", "ü", "a b"])
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


TOKENS = b'{"access_token":"at","refresh_token":"rt-new"}'
LENGTH = b"Content-Length: %d\r\n" % len(TOKENS)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def with_header(*lines: bytes, status: bytes = OK) -> bytes:
    return status + b"".join(line + b"\r\n" for line in lines) + LENGTH + b"\r\n" + TOKENS


REFUSED = {
    "a long header": with_header(b"X: " + b"x" * 70_000),
    "a long name": with_header(b"x" * 70_000 + b": y"),
    "a long reason": with_header(status=b"HTTP/1.1 200 " + b"x" * 70_000 + b"\r\n"),
    "many headers": with_header(*[b"X: y"] * 1_200),
    "a long folded header": with_header(*[b"X: y", *[b" " + b"z" * 5_000] * 20]),
    "a folded header": with_header(b"X: a", b"\tb"),
    "a space in a name": with_header(b"X Y: z"),
    "a space behind a name": with_header(b"X : z"),
    "no name": with_header(b": z"),
    "brackets in a name": with_header(b"X(Y)[Z]: z"),
    "letters of a name": with_header("Ü: z".encode()),
    "no colon": with_header(b"nonsense"),
    "NUL in a value": with_header(b"X: a\x00b"),
    "control characters": with_header(b"X: \x01\x02\x7f"),
    "a lone CR": with_header(b"X: a\rb"),
    "not UTF-8": with_header(b"X: \xff\xfe"),
    "no reason": with_header(status=b"HTTP/1.1 200\r\n"),
    "two spaces": with_header(status=b"HTTP/1.1  200  OK\r\n"),
    "a small protocol": with_header(status=b"http/1.1 200 OK\r\n"),
    "another protocol": with_header(status=b"ICY 200 OK\r\n"),
    "another version": with_header(status=b"HTTP/2.0 200 OK\r\n"),
    "a version without a point": with_header(status=b"HTTP/2 200\r\n"),
    "a long version": with_header(status=b"HTTP/1.10 200 OK\r\n"),
    "an empty line first": b"\r\n" + with_header(),
    "no status line": TOKENS,
    "only line feeds": with_header().replace(b"\r\n", b"\n"),
    "only carriage returns": with_header().replace(b"\r\n", b"\r"),
    "a length that is no number": OK + b"Content-Length: many\r\n\r\n" + TOKENS,
    "a length with a sign": OK + b"Content-Length: +%d\r\n\r\n" % len(TOKENS) + TOKENS,
    "a negative length": OK + b"Content-Length: -1\r\n\r\n" + TOKENS,
    "an endless length": OK + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n" + TOKENS,
    "a length twice": with_header(LENGTH.strip()),
    "a length twice in one": OK + b"Content-Length: 46, 46\r\n\r\n" + TOKENS,
    "two lengths": with_header(b"Content-Length: 7"),
    "a length that is too long": OK + b"Content-Length: 999\r\n\r\n" + TOKENS,
    "a length that is too short": OK + b"Content-Length: 40\r\n\r\n" + TOKENS,
    "more than the length": with_header() + b"\r\nmore of it",
    "more behind the end": with_header(b"Connection: close") + with_header(),
    "a length and chunks": OK
    + LENGTH
    + b"Transfer-Encoding: chunked\r\n\r\n2e\r\n"
    + TOKENS
    + b"\r\n0\r\n\r\n",
    "chunked and not": CHUNKED + TOKENS,
    "an unknown transfer coding": with_header(b"Transfer-Encoding: identity"),
    "chunks inside": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n2e\r\n" + TOKENS + b"\r\n0\r\n\r\n",
    "no last chunk": CHUNKED + b"2e\r\n" + TOKENS + b"\r\n",
    "no end of trailers": CHUNKED + b"2e\r\n" + TOKENS + b"\r\n0\r\n",
    "a chunk that is too short": CHUNKED + b"10\r\n" + TOKENS + b"\r\n0\r\n\r\n",
    "a chunk that is too long": CHUNKED + b"ff\r\n" + TOKENS + b"\r\n",
    "a chunk with 0x": CHUNKED + b"0x2e\r\n" + TOKENS + b"\r\n0\r\n\r\n",
    "chunks with line feeds": CHUNKED + b"2e\n" + TOKENS + b"\n0\n\n",
    "no line behind a chunk": CHUNKED + b"2e\r\n" + TOKENS + b"0\r\n\r\n",
    "a chunk with an extension": CHUNKED + b"2e;a=\x01\r\n" + TOKENS + b"\r\n0\r\n\r\n",
    "a bad trailer": CHUNKED + b"2e\r\n" + TOKENS + b"\r\n0\r\nnonsense\r\n\r\n",
    "a long trailer": CHUNKED + b"2e\r\n" + TOKENS + b"\r\n0\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    "many chunks": CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in TOKENS) + b"0\r\n\r\n",
    "an offer to upgrade": with_header(b"Upgrade: h2,h2c", b"Connection: Upgrade"),
    "an upgrade": with_header(b"Upgrade: websocket", b"Connection: Upgrade"),
    "informational answers": b"HTTP/1.1 103 Early\r\nX: y\r\n\r\n" * 50 + with_header(b"X : y"),
    "odd cookies": with_header(b'Set-Cookie: a="b; c=\x80; =; Expires=never', b"Set-Cookie: ;"),
    "an odd type": with_header(b"Content-Type: ;;charset=\x00utf-9"),
}
"""What aiohttp's parsers refuse, place by place in their source, and what is near it."""


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
async def test_what_an_http_parser_refuses_does_not_cost_the_token(ask: Ask, raw: bytes) -> None:
    """The answer is there: it is read, whatever its envelope is like."""
    outcome = await ask(Raw(raw))

    assert isinstance(outcome, Granted), outcome
    assert Secret("rt-new") == outcome.tokens.refresh_token


def gzipped() -> bytes:
    return gzip.compress(TOKENS, mtime=0)


def raw_deflated(content: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(content) + deflater.flush()


BROTLI = base64.b64decode("ixaAeyJhY2Nlc3NfdG9rZW4iOiJhdCIsInJlZnJlc2hfdG9rZW4iOiJydC1uZXcifQM=")
ZSTD = base64.b64decode("KLUv/SAucQEAeyJhY2Nlc3NfdG9rZW4iOiJhdCIsInJlZnJlc2hfdG9rZW4iOiJydC1uZXcifQ==")


@pytest.mark.parametrize(
    ("label", "content"),
    [
        ("gzip", gzipped()),
        ("x-gzip", gzipped()),
        ("GZIP", gzipped()),
        ("gzip", gzip.compress(TOKENS[:20], mtime=0) + gzip.compress(TOKENS[20:], mtime=0)),
        ("gzip", gzipped() + b"\x00" * 20),
        ("gzip", gzipped()[:-8]),
        ("gzip", gzipped()[:-4] + b"junk"),
        ("deflate", zlib.compress(TOKENS)),
        ("deflate", raw_deflated(TOKENS)),
        ("deflate", gzipped()),
        ("gzip", zlib.compress(TOKENS)),
        ("gzip, gzip", gzip.compress(gzipped(), mtime=0)),
        ("deflate, gzip", gzip.compress(zlib.compress(TOKENS), mtime=0)),
        ("br", BROTLI),
        ("br", gzipped()),
        ("zstd", ZSTD),
        ("gzip", ZSTD),
        ("", gzipped()),
        ("identity", gzipped()),
        ("utf-8", gzipped()),
        ("gzip", TOKENS),
        ("br", TOKENS),
        ("zstd", TOKENS),
        ("deflate", TOKENS),
        ("utf-8", TOKENS),
        ("aws-chunked", TOKENS),
        ("none", TOKENS),
    ],
)
async def test_content_coding_does_not_cost_the_token(ask: Ask, label: str, content: bytes) -> None:
    """Nobody asked for one, and the label may be wrong."""
    outcome = await ask(Answer(200, JSON | {"Content-Encoding": label}, content))

    assert isinstance(outcome, Granted), outcome
    assert Secret("rt-new") == outcome.tokens.refresh_token


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (Answer(200, JSON | {"Content-Encoding": "gzip"}, gzipped()[:40]), "its gzip is cut or broken"),
        (Answer(200, JSON | {"Content-Encoding": "br"}, b"\xff" * 40), "it is not the br that it says it is"),
        (Answer(200, JSON | {"Content-Encoding": "compress"}, b"\x1f\x9d\x90"), "it is not the compress"),
        (Answer(200, JSON, b"[" + b" " * 70_000), "it is larger than 64 KiB"),
        (Raw(OK + b"nonsense\r\n\r\n{"), "(BadHttpMessage)"),
        (Raw(OK + b"Content-Length: x\r\n\r\n{"), "(BadHttpMessage)"),
        (Answer(200, JSON, b"<html>"), "the answer is not JSON"),
    ],
)
async def test_answer_that_cannot_be_read_is_told_as_one(ask: Ask, script: Scripted, why: str) -> None:
    """It came; that is another matter than one that never did."""
    outcome = await ask(script)

    assert isinstance(outcome, Ambiguous)
    assert why in outcome.why
    assert Reason.UNREADABLE == outcome.reason


async def test_bytes_that_come_behind_the_refusal_are_waited_for(ask: Ask, upstream: Upstream) -> None:
    """The parser refuses a header before the body has arrived."""
    outcome = await ask(Raw(with_header(b"X Y: z", b"X: " + b"x" * 300_000)))

    assert isinstance(outcome, Granted)


async def test_refusal_in_an_answer_that_the_parser_refused(ask: Ask) -> None:
    """Where its length says that it is whole; else nothing is concluded."""
    refusal = b'{"error":"invalid_grant"}'
    head = b"HTTP/1.1 400 Bad\r\nX Y: z\r\n"

    assert isinstance(await ask(Raw(head + b"Content-Length: 25\r\n\r\n" + refusal)), Refused)
    assert isinstance(await ask(Raw(head + b"\r\n" + refusal)), Ambiguous)
    assert isinstance(await ask(Raw(head + b"Content-Length: 99\r\n\r\n" + refusal)), Ambiguous)


def _life(tokens: TokenSet) -> float:
    return tokens.expires_at - tokens.issued_at
