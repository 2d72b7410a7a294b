"""R5 as a table: hundreds of written answers, and a generator for the rest."""

import base64
import json
import random
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from multidict import CIMultiDict

from broker.config.settings import DeadError
from broker.model import ENDLESS, Reason, Secret, TokenSet
from broker.oauth import is_usable
from broker.providers.answers import Reading
from broker.providers.classify import classify, cleaned, pause_seconds
from broker.providers.client import Answer, Lost, Reply
from broker.providers.dead_errors import dead_errors_of
from broker.providers.outcomes import Ambiguous, Granted, Paused, Refused, TokenOutcome, cause_of
from tests.providers.answers import TOKEN, Case, answer, body, every_case

NOW = 1_800_000_000.0
CASES = every_case()
READING = Reading("public", 172800.0, dead_errors=dead_errors_of("https://x.example/token", ()))


def jwt(**claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2ln"


def outcome_of(reply: Reply) -> TokenOutcome:
    return classify(reply, reading=READING, issued_at=NOW, now=NOW + 1)


def granted(**members: object) -> TokenSet:
    outcome = outcome_of(answer(200, body(**members)))
    assert isinstance(outcome, Granted)
    return outcome.tokens


def test_there_are_enough_of_them() -> None:
    """At least three hundred, each with a name of its own."""
    assert len(CASES) >= 300
    assert len(CASES) == len({case.name for case in CASES})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_written_answer(case: Case) -> None:
    """Each answer is classified as R5 says, and no token in it is lost."""
    outcome = outcome_of(case.reply)

    assert case.outcome == type(outcome).__name__
    if isinstance(outcome, Ambiguous):
        assert case.salvage == (outcome.salvage is not None)


@pytest.mark.parametrize(
    ("value", "life"),
    [
        (7200, 7200),
        ("7200", 7200),
        ("7200.0", 7200),
        (7200.5, 7200.5),
        (0, 60),
        (-5, 60),
        (None, 3600),
        (True, 3600),
        ("abc", 3600),
        ([], 3600),
        (10**12, 366 * 86400),
    ],
)
def test_life_of_a_token(value: object, life: float) -> None:
    """Digits and numbers are taken, nonsense is trusted for an hour at most, and nothing is for ever."""
    assert NOW + life == granted(access_token="at", expires_in=value).expires_at


def iso(seconds: float, form: str) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).strftime(form)


@pytest.mark.parametrize(
    ("members", "life"),
    [
        ({"expires_at": NOW + 30}, 30),
        ({"expires_at": int(NOW + 30) * 1000}, 30),
        ({"expires_at": str(int(NOW + 30))}, 30),
        ({"expires_on": str(int(NOW + 1800))}, 1800),
        ({"expires_on": iso(1800, "%m/%d/%Y %H:%M:%S +00:00")}, 1800),
        ({"expires_on": iso(1800, "%m/%d/%Y %I:%M:%S %p +00:00")}, 1800),
        ({"expires": 5183999}, 5183999),
        ({"expires": int(NOW + 60)}, 60),
        ({".expires": iso(600, "%a, %d %b %Y %H:%M:%S GMT"), "expires_in": 1199}, 600),
        ({"expiry": iso(600, "%Y-%m-%dT%H:%M:%S.0000000Z")}, 600),
        ({"expiry": iso(600, "%Y-%m-%d %H:%M:%S")}, 600),
        ({"expires_at": iso(600, "%Y-%m-%d %H:%M:%S UTC")}, 600),
        ({"expiration": iso(7800, "%Y-%m-%dT%H:%M:%S+02:00")}, 600),
        ({"expiry_date": int(NOW * 1000) + 600_000}, 600),
        ({"accessTokenExpiresIn": "600"}, 600),
        ({"access_token_expires_at": NOW + 600}, 600),
        ({"expiresIn": 600}, 600),
        ({"expires_in_sec": 600, "expires_in": 3600_000}, 600),
        ({"expires_in": "600s"}, 600),
        ({"expires_in": int(NOW) + 600}, 600),
        ({"exp": NOW + 600}, 600),
        ({"expires_in": " 600 "}, 600),
        ({"expires_in": "+600"}, 600),
        ({"expires_in": "10m"}, 600),
        ({"expires_in": "1h30m"}, 5400),
        ({"expires_in": "2 hours"}, 7200),
        ({"expires_in": "PT10M"}, 600),
        ({"expires_in": "00:10:00"}, 600),
        ({"expires_in_ms": 600_000}, 600),
        ({"expiresInMillis": "600000"}, 600),
        ({"ttl": 600}, 600),
        ({"token_lifetime": 600}, 600),
        ({"access_expires_in": 600}, 600),
        ({"oauth_token_expires": "600"}, 600),
        ({"remind_in": "600"}, 600),
        ({"valid_for": 600}, 600),
        ({"expires_time": NOW + 600}, 600),
        ({"expires_timestamp": (NOW + 600) * 1000}, 600),
        ({"tokenExpiryDate": (NOW + 600) * 1000}, 600),
        ({"notAfter": NOW + 600}, 600),
        ({"expirationTimestamp": iso(600, "%Y-%m-%dT%H:%M:%SZ")}, 600),
        ({"expirationDateTime": iso(600, "%Y-%m-%dT%H:%M:%S.0000000Z")}, 600),
        ({"expires_utc": iso(600, "%Y/%m/%d %H:%M:%S")}, 600),
        ({"valid_to": iso(600, "%Y%m%dT%H%M%SZ")}, 600),
        ({"expires_at": iso(600, "%Y-%m-%dt%H:%M:%Sz")}, 600),
        ({"expires_at": iso(600, "%Y-%m-%dT%H:%M:%SZ[UTC]")}, 600),
        ({"expires_on": iso(600, "%d/%m/%Y %H:%M:%S")}, 600),
        ({"validity": 600}, 600),
        ({"accessTokenValidity": "600"}, 600),
        ({"time_to_live": 600}, 600),
        ({"max_age": 600}, 600),
        ({"expires_in_minutes": 10}, 600),
        ({"expiryHours": "2"}, 7200),
        ({"expires_at_utc": iso(600, "%Y-%m-%d %H:%M:%S")}, 600),
        ({"seconds_to_expire": 600}, 600),
        ({"expires_in": "1,200"}, 1200),
        ({"expires_at": f"/Date({int(NOW + 600) * 1000})/"}, 600),
        ({"expires_at": f"/Date({int(NOW + 600) * 1000}+0200)/"}, 600),
        ({"expires_at": {"seconds": int(NOW + 600), "nanos": 0}}, 600),
        ({"expires_at": {"$date": iso(600, "%Y-%m-%dT%H:%M:%SZ")}}, 600),
        ({"expires_at": {"$date": {"$numberLong": str(int(NOW + 600) * 1000)}}}, 600),
        ({"expires_at": {"date": iso(600, "%Y-%m-%d %H:%M:%S.000000"), "timezone": "UTC"}}, 600),
        ({"expires_at": {"date": iso(7800, "%Y-%m-%d %H:%M:%S"), "timezone": "+02:00"}}, 600),
        ({"expires_at": {"date": iso(7800, "%Y-%m-%d %H:%M:%S"), "timezone": "Africa/Maputo"}}, 600),
        ({"expires_at": {"date": iso(600, "%Y-%m-%d %H:%M:%S"), "timezone": "Mars/Phobos"}}, 3600),
        ({"expires_at": iso(600, "%b %d, %Y %I:%M:%S %p")}, 600),
        ({"expires_at": iso(600, "%b %d, %Y, %I:%M:%S\u202f%p")}, 600),
        ({"expires_at": iso(57000, "%B %d, %Y %I:%M:%S %p")}, 57000),
        ({"expires_at": iso(57000, "%d %b %Y %I:%M:%S %p")}, 57000),
        ({"access_token": {"token": "at", "expires_in": 600}}, 600),
        ({"session_expires_in": 10, "device_ttl": 10, "rate_limit_exp": 10}, 3600),
        ({"expires_in": "10 parsecs", "ttl": "PT", "lifetime": "::"}, 3600),
        ({"access_token": jwt(exp=NOW + 600)}, 600),
        ({"access_token": jwt(exp=NOW + 90, iat=NOW - 500), "expires_in": 3600}, 90),
        ({"access_token": jwt(iat=NOW - 9000, exp=NOW - 8400)}, 600),
        ({"expires_in": 3600, "expires_at": NOW + 30}, 30),
        ({"expires_in": 30, "expires_at": NOW + 3600}, 30),
        ({"expires_in": 0, "expires_at": NOW + 600}, 600),
        ({"expires_at": NOW - 600}, 60),
        ({"expires_at": 1_000_000_000}, 60),
        ({"expires_at": 0}, 60),
        ({"refresh_token_expires_in": 10, "expires_in": 3000}, 3000),
        ({"refresh_token_expires_in": 10}, 3600),
        ({"refresh_expires_at": NOW + 10}, 3600),
        ({"ext_expires_in": 10}, 3600),
        ({"id_token_expires_in": 10, "code_expires_in": 10, "not_before": 10}, 3600),
        ({"issued_at": NOW, ".issued": iso(-600, "%a, %d %b %Y %H:%M:%S GMT")}, 3600),
        ({"expires_at": "soon", "expires_on": True, "expiry": [600]}, 3600),
        ({"access_token": "a.b.c"}, 3600),
        ({"access_token": jwt(exp="never")}, 3600),
    ],
)
def test_life_under_any_name_and_in_any_form(members: dict[str, object], life: float) -> None:
    """The shortest that is stated counts; what is stated of other things does not."""
    tokens = granted(**{"access_token": "at", "refresh_token": TOKEN} | members)

    assert NOW + life == tokens.expires_at


@pytest.mark.parametrize(
    ("members", "life"),
    [
        ({"expires_in": 0}, None),
        ({"expires_in": None}, None),
        ({"expires_in": -1}, None),
        ({"expires_in": "0"}, None),
        ({"expires_in": "never"}, None),
        ({"expires_at": 0}, None),
        ({"expires_at": "0001-01-01T00:00:00Z"}, None),
        ({"expiry": "1970-01-01T00:00:00Z", "expires_in": 0}, None),
        ({"expires_at": "1969-12-31T16:00:00-08:00"}, None),
        ({"expires_at": -62135596800}, None),
        ({"expires_at": 253402300799}, None),
        ({"expires_in": 2**31 - 1}, None),
        ({"expires_at": "9999-12-31T23:59:59Z"}, None),
        ({}, None),
        ({"expires_in": 3600}, 3600),
        ({"expires_at": NOW + 30}, 30),
        ({"expires_at": NOW - 30}, 60),
        ({"expires_in": 5 * 365 * 86400}, 5 * 365 * 86400),
        ({"access_token": jwt(exp=NOW + 600)}, 600),
        ({"refresh_token": TOKEN}, 3600),
        ({"refresh_token": TOKEN, "expires_in": 0}, 60),
    ],
)
def test_life_of_a_token_that_cannot_be_renewed(members: dict[str, object], life: float | None) -> None:
    """Where nobody states its end we do not either, but a configured default is a statement."""
    content = answer(200, body(**{"access_token": "at"} | members))

    for stated in (False, True):
        reading = replace(READING, renewable=False, default_is_stated=stated)
        outcome = classify(content, reading=reading, issued_at=NOW, now=NOW + 1)
        assert isinstance(outcome, Granted)
        expected = life if life is not None else 172800.0 if stated else ENDLESS
        assert NOW + expected == outcome.tokens.expires_at


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("BearerToken", "Bearer"),
        ("jwt-bearer", "Bearer"),
        ("User Access Token", "Bearer"),
        ("urn:ietf:params:oauth:token-type:jwt", "Bearer"),
        ("access_token", "Bearer"),
        ({"type": "Bearer"}, "Bearer"),
        ("b\nad", "Bearer"),
        (["Bearer token"], "Bearer"),
        ("bearer,dpop", "Bearer"),
        ("OAuth", "Bearer"),
        ("none", "Bearer"),
        (" DPoP", "DPoP"),
        ("Hawk", "Hawk"),
        ("HTTPSig", "HTTPSig"),
        ("PrivateToken", "PrivateToken"),
        ("OAuth2.0", "Bearer"),
        ("null", "Bearer"),
        ("dpop+jwt", "dpop+jwt"),
        (["DPoP"], "DPoP"),
        ("urn:ietf:params:oauth:pop", "urn:ietf:params:oauth:pop"),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256"),
        ("GNAP", "GNAP"),
        ("DPoP", "DPoP"),
        ("MAC", "MAC"),
        ("hmac-sha-256", "hmac-sha-256"),
        ("N_A", "N_A"),
    ],
)
def test_token_is_bearer_unless_another_scheme_is_meant(value: object, kind: str) -> None:
    """An odd neighbour does not make a good token unusable."""
    assert kind == granted(access_token="at", token_type=value).token_type
    reading = replace(READING, token_type="Bearer")
    content = answer(200, body(access_token="at", token_type=value))
    overridden = classify(content, reading=reading, issued_at=NOW, now=NOW)
    assert isinstance(overridden, Granted)
    assert ("Bearer", ()) == (overridden.tokens.token_type, overridden.tokens.flags[1:])


@pytest.mark.parametrize(
    ("pointer", "content"),
    [
        ("/data", body(data={"access_token": "at"}, included={"access_token": "other"})),
        ("/authed_user", body(access_token="bot", authed_user={"access_token": "at"})),
        ("/result/1", body(result=[{}, {"accessToken": "at"}], expires_in=600)),
        ("/nowhere", body(access_token="at")),
        ("/data/token", body(data={"token": "at", "refreshToken": "rt"}, access_token="other")),
        ("/jwt", body(jwt="at", expires_in=600)),
        ("/body", body(body=json.dumps({"access_token": "at"}), x={"access_token": "other"})),
        ("/Token", b"<Access_Token><Token>at</Token><Refresh_Token>rt</Refresh_Token></Access_Token>"),
        ("/a~1b", json.dumps({"a/b": {"access_token": "at"}, "c": {"access_token": "other"}}).encode()),
    ],
)
def test_tokens_are_where_the_pointer_says(pointer: str, content: bytes) -> None:
    """Or where they usually are, rather than nowhere."""
    reading = replace(READING, token_pointer=pointer)

    outcome = classify(answer(200, content), reading=reading, issued_at=NOW, now=NOW)

    assert isinstance(outcome, Granted)
    assert Secret("at") == outcome.tokens.access_token


X_TOKEN = {"error": "invalid_request", "error_description": "Value passed for the token was invalid."}
X_CODE = {
    "error": "invalid_request",
    "error_description": "Value passed for the authorization code was invalid.",
}
ATLASSIAN = {"error": "unauthorized_client", "error_description": "refresh_token is invalid"}
HUBSPOT = {"status": "grant_gone", "message": "missing or invalid refresh token"}
EVE = {"error": "invalid_grant: Token is expired or invalid."}


def firebase(message: str) -> dict[str, object]:
    return {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}


def baidu(description: str) -> dict[str, object]:
    return {"error": "expired_token", "error_description": description}


def passport(message: str) -> dict[str, object]:
    return {"error": "invalid_request", "message": message, "hint": "Token has been revoked"}


@pytest.mark.parametrize(
    ("url", "error", "refused"),
    [
        ("https://accounts.zoho.eu/oauth/v2/token", {"error": "invalid_code"}, True),
        ("https://zoho.example/token", {"error": "invalid_code"}, False),
        ("https://open.feishu.cn/token", {"code": 20037, "msg": "expired"}, True),
        ("https://open.feishu.cn/token", {"code": 20050, "msg": "try again"}, False),
        ("https://auth.openai.com/token", {"error": {"code": "token_expired"}}, True),
        ("https://open.larksuite.com/token", {"code": 20064, "message": "revoked"}, True),
        ("https://open.larkoffice.com/token", {"code": "20073"}, True),
        ("https://api.x.com/2/oauth2/token", X_TOKEN, True),
        ("https://api.twitter.com/2/oauth2/token", X_TOKEN, True),
        ("https://x.example/token", X_TOKEN, False),
        ("https://api.x.com/2/oauth2/token", X_CODE, False),
        ("https://auth.atlassian.com/oauth/token", ATLASSIAN, True),
        ("https://id.example/token", ATLASSIAN, False),
        ("https://auth.atlassian.com/oauth/token", {"error": "unauthorized_client"}, False),
        ("https://login.eveonline.com/v2/oauth/token", EVE, True),
        ("https://login.eveonline.com/v2/oauth/token", {"error": f"{EVE['error']} "}, False),
        ("https://securetoken.googleapis.com/v1/token?key=k", firebase("TOKEN_EXPIRED"), True),
        ("https://securetoken.googleapis.com/v1/token?key=k", firebase("USER_NOT_FOUND"), True),
        ("https://securetoken.googleapis.com/v1/token?key=k", firebase("INVALID_GRANT_TYPE"), False),
        ("https://id.example/token", firebase("TOKEN_EXPIRED"), False),
        ("https://openapi.baidu.com/oauth/2.0/token", baidu("refresh token has been used"), True),
        ("https://openapi.baidu.com/oauth/2.0/token", baidu("access token expired"), False),
        ("https://passport.example/token", passport("The refresh token is invalid."), True),
        ("https://passport.example/token", passport("The request is missing a parameter."), False),
        (
            "https://x.example/token",
            {"error": "invalid_request", "error_description": "Invalid Refresh Token"},
            True,
        ),
        ("https://own.example/token", HUBSPOT, False),
        ("https://own.example/token", HUBSPOT | {"error": "invalid_grant"}, True),
        (
            "https://own.example/token",
            {"errors": [{"errorType": "grant_gone", "message": "grant_gone"}]},
            False,
        ),
        ("https://own.example/token", {"type": "grant_gone", "message": "grant_gone"}, False),
        ("https://own.example/token", {"status": 400, "message": "grant_gone"}, False),
        ("https://own.example/token", {"errors": [{"category": "A", "code": "grant_gone"}]}, True),
        ("https://own.example/token", {"error": "grant_gone"}, True),
        ("https://own.example/token", {"error": "invalid_request", "message": "Gone."}, True),
        ("https://own.example/token", {"error": "invalid_request", "message": "Gone"}, False),
        ("https://own.example/token", {"error": "invalid_request"}, False),
    ],
)
def test_words_of_one_provider(url: str, error: dict[str, object], refused: bool) -> None:
    """Known by its host, or configured; elsewhere the same word means nothing."""
    own = (DeadError("grant_gone"), DeadError("invalid_request", "Gone."))
    reading = replace(READING, dead_errors=dead_errors_of(url, own if "own" in url else ()))

    outcome = classify(answer(200, body(**error)), reading=reading, issued_at=NOW, now=NOW)

    assert refused is isinstance(outcome, Refused)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("The redirect_uri must match.", "The redirect_uri must match."),
        ("AADSTS700082: expired on 2026-11-30", "AADSTS700082: expired on 2026-11-30"),
        ("Token ya29.a0Af is bad", "Token … is bad"),
        ("bad: xoxe-1-abcdefg", "bad: …"),
        ("key=0a1b2c3d, sorry", "…, sorry"),
        ("abcdefghijklmnopqrstuvwxyz", "…"),
        ("a\x00b\r\n\tc\u202e", "a b c"),
        ("word " * 100, ("word " * 100)[:200]),
    ],
)
def test_providers_text_is_cleaned(text: str, told: str) -> None:
    """What may be a token is left out, since some providers quote what they were sent."""
    assert told == cleaned(text)


def test_unknown_error_is_named() -> None:
    """With its status and what stands beside it, but never with what may be a token."""
    outcome = outcome_of(
        answer(200, body(error="consent_required", error_description=f"see\n{'x9' * 20} now"))
    )

    assert isinstance(outcome, Ambiguous)
    assert ("consent_required, status 200: see … now", Reason.UNKNOWN_ERROR) == (
        cause_of(outcome),
        outcome.reason,
    )


def test_missing_life_is_trusted_for_an_hour_at_most() -> None:
    """Never for ever: a token whose end nobody knows is renewed early."""
    tokens = granted(access_token="at")

    assert (NOW + 3600, ("expires_in_missing",)) == (tokens.expires_at, tokens.flags)


def test_providers_own_clock_is_ignored() -> None:
    """`created_at` lies; our clock when the request began counts (R12)."""
    assert NOW + 100 == granted(access_token="at", expires_in=100, created_at=1).expires_at


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a b", "ü", "a\x00", "x" * 65537])
def test_token_that_no_header_can_carry_is_kept_and_not_served(token: str) -> None:
    """It may be all that is left of the grant."""
    tokens = granted(access_token=token, refresh_token=TOKEN)

    assert tokens.access_token is not None
    assert not is_usable(tokens.access_token, tokens.token_type)


@pytest.mark.parametrize(
    ("content", "access"),
    [
        (body(access_token=" at\n", refresh_token=TOKEN), "at"),
        (body(access_token="Bearer at", refresh_token=TOKEN), "at"),
        (body(access_token="bearer  at", refresh_token=TOKEN), "at"),
        (body(access_token="Bearer", refresh_token=TOKEN), "Bearer"),
        (body(access_token=["at"], refresh_token=[TOKEN]), "at"),
        (body(access_token={"value": "at"}, refresh_token={"token": TOKEN}), "at"),
        (body(tokens={"accessToken": {"token": "at"}, "refreshToken": TOKEN}), "at"),
        (f"access_token=a+t/=&refresh_token={TOKEN}".encode(), "a+t/="),
    ],
)
def test_token_in_odd_wrapping(content: bytes, access: str) -> None:
    """What no header can carry around an access token is left out; `+` in a form is not a blank in a token."""
    outcome = outcome_of(answer(200, content))

    assert isinstance(outcome, Granted)
    assert Secret(access) == outcome.tokens.access_token
    assert Secret(TOKEN) == outcome.tokens.refresh_token


def test_scope_is_a_set() -> None:
    """Order means nothing; what is missing or new is flagged."""
    assert () == tuple(flag for flag in granted(access_token="a", scope="public", expires_in=1).flags)
    assert "scope_reduced" in granted(access_token="a", scope="other").flags
    assert "scope_grown" in granted(access_token="a", scope="more public").flags


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "999999"}, 3600),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:40 GMT"}, 40),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1),
        ({"Retry-After": "soon"}, 30),
        ({"x-ratelimit-reset": str(int(NOW) + 50)}, 50),
        ({"x-ratelimit-reset": "120"}, 120),
        ({"x-ratelimit-reset": str((int(NOW) + 50) * 1000)}, 50),
        ({"x-ratelimit-reset": str(int(NOW) - 50)}, 1),
        ({"x-ratelimit-reset": "99999"}, 3600),
        ({"RateLimit-Reset": "40"}, 40),
        ({"Retry-After": "300.5"}, 301),
        ({"Retry-After": "0.2"}, 1),
        ({"Retry-After": " 60 "}, 60),
        ({"Retry-After": "60, 60"}, 60),
        ({"Retry-After": "60s"}, 60),
        ({"Retry-After": str(int(NOW) + 70)}, 70),
        ({"Retry-After": "Friday, 15-Jan-27 08:00:40 GMT"}, 40),
        ({"Retry-After": "Fri Jan 15 08:00:40 2027"}, 40),
        ({"Retry-After": "2027-01-15T08:00:40Z"}, 40),
        ({"Retry-After": "-5"}, 30),
        ({"Retry-After": "Fri, 15 Jan 2027 08:01:60 GMT"}, 119),
        ({"Retry-After": "0120"}, 120),
        ({"Retry-After": "120;why=limit"}, 120),
        ({"Retry-After": "2 minutes"}, 120),
        ({"retry-after-ms": "120000"}, 120),
        ({"x-ratelimit-reset": "1m30s"}, 90),
        ({"RateLimit": "limit=9, remaining=0, reset=90"}, 90),
        ({"RateLimit": '"default";r=0;t=90'}, 90),
        ({"Retry-After": "9" * 400}, 30),
        ({"Retry-After": "9" * 20}, 3600),
        ({"Retry-After": '"120"'}, 120),
        ({"Retry-After": "1,200"}, 1),
        ({"Retry-After": "soon", "x-ratelimit-reset": "90"}, 90),
        ({"Retry-After": "", "RateLimit": "limit=9, remaining=0, reset=90"}, 90),
        ({"X-Retry-After": "90"}, 90),
        ({}, 30),
    ],
)
def test_how_long_a_provider_wants_to_be_left_alone(headers: dict[str, str], seconds: float) -> None:
    """Seconds, a date, or Kustomer's header; at least a second, at most an hour."""
    assert seconds == pause_seconds(CIMultiDict(headers), NOW)


def test_dates_do_not_depend_on_the_machines_zone() -> None:
    """The form of C's asctime names no zone; it is GMT all the same. West of it, east of it, and there."""
    code = f"""
import os, time
from broker.providers.classify import pause_seconds
for zone in ("EST5", "IST-5:30", "UTC0"):
    os.environ["TZ"] = zone
    time.tzset()
    print(time.timezone, pause_seconds({{"Retry-After": "Fri Jan 15 08:00:40 2027"}}, {NOW}))
"""

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert [b"18000 40.0", b"-19800 40.0", b"0 40.0"] == said.stdout.splitlines()


def generated(seed: int) -> Reply:
    """A random reply: JSON with odd members, cut, flipped or drowned in noise."""
    chance = random.Random(seed)
    values: list[object] = [
        "at",
        "",
        None,
        5,
        -1,
        True,
        [],
        {},
        "x" * 300,
        "\ud800",
        "ü",
        "a\nb",
        1e300,
        [[[]]],
        "7200",
    ]
    names = ["access_token", "refresh_token", "expires_in", "token_type", "scope", "error", "errors", "x"]
    members = {name: chance.choice(values) for name in chance.sample(names, chance.randint(0, 8))}
    if chance.random() < 0.5:
        members["refresh_token"] = TOKEN
    content = json.dumps(members).encode()
    match chance.randrange(4):
        case 0:
            content = content[: chance.randint(0, len(content))]
        case 1:
            position = chance.randint(0, max(0, len(content) - 1))
            content = content[:position] + bytes([chance.randrange(256)]) + content[position + 1 :]
        case 2:
            content = bytes(chance.randrange(256) for _ in range(chance.randint(0, 40))) + content
        case _:
            pass
    status = chance.choice([200, 200, 200, 201, 302, 400, 401, 403, 408, 429, 500, 503])
    if chance.random() < 0.3:
        return Lost("cut", chance.random() < 0.5, status, content)
    return Answer(
        status, {"Retry-After": chance.choice(["1", "x", ""])} if chance.random() < 0.2 else {}, content
    )


def check_generated(seeds: range) -> int:
    """No exception escapes, and a whole refresh token in a 2xx is never lost; how many held one."""
    held = 0
    for seed in seeds:
        reply = generated(seed)
        outcome = outcome_of(reply)
        content = (
            reply.body if isinstance(reply, Answer) else reply.prefix if isinstance(reply, Lost) else b""
        )
        status = reply.status if isinstance(reply, Answer | Lost) else None
        whole = f'"refresh_token": "{TOKEN}"'.encode() in content
        if status in (200, 201) and whole:
            held += 1
            assert _kept(outcome), (seed, outcome)
    return held


def _kept(outcome: TokenOutcome) -> bool:
    match outcome:
        case Granted(tokens):
            return tokens.refresh_token is not None and TOKEN == tokens.refresh_token.reveal()
        case Ambiguous():
            return outcome.salvage is not None and TOKEN == outcome.salvage.reveal()
        case _:
            return False


def test_generated_answers() -> None:
    """Three thousand, by seed."""
    assert check_generated(range(3_000)) > 300


@pytest.mark.proof
def test_generated_answers_in_bulk() -> None:
    """A hundred thousand, by seed."""
    assert check_generated(range(3_000, 103_000)) > 10_000


def test_paused_is_clamped() -> None:
    """The pause of a classified answer is the clamped one."""
    outcome = outcome_of(answer(429, b"", Retry_After="99999999"))

    assert Paused(3600.0) == outcome
