"""Written provider answers: hundreds, each with the class that R5 gives it."""

import itertools
import json
from dataclasses import dataclass, replace

from broker.providers.client import Answer, Lost, Reply
from broker.providers.outcomes import NotSent

TOKEN = "rt-0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Case:
    """One reply and what it must be."""

    name: str
    reply: Reply
    outcome: str
    salvage: bool = False


def body(**members: object) -> bytes:
    return json.dumps(members).encode()


def answer(status: int, content: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def successes() -> list[Case]:
    """Any usable token in a 2xx is kept, however odd its neighbours are."""
    odd: dict[str, list[object]] = {
        "expires_in": [
            None,
            0,
            -5,
            True,
            [],
            {},
            "",
            "7200",
            "7200.0",
            "abc",
            1e300,
            10**30,
            0.5,
            "-1",
            "1e9",
        ],
        "token_type": [None, "bearer", "BEARER", "mac", "", 5, ["Bearer"], "b\nad", "x" * 500],
        "scope": [None, "", "public", "a b  c", ["a", "b"], 5, {}, "x" * 9000, "\ud800"],
        "created_at": [None, 0, -1, "yesterday", 10**40],
        "extra": [None, [], {}, [[[[1]]]], "x" * 5000, "\u0000", 1e308],
    }
    cases = []
    for status, (member, values) in itertools.product((200, 201), odd.items()):
        for number, value in enumerate(values):
            content = body(access_token="at", refresh_token=TOKEN, **{member: value})
            cases.append(Case(f"{status} {member} {number}", answer(status, content), "Granted"))
    tokens: list[object] = [
        "at",
        "a b",
        "a\nb",
        "ü",
        "x" * 9000,
        "a\x00b",
        " at ",
        None,
        "",
        "   ",
        5,
        [],
        {},
        True,
        "\ud800",
    ]
    for number, access in enumerate(tokens):
        content = body(access_token=access, refresh_token=TOKEN)
        cases.append(Case(f"access token {number}", answer(200, content), "Granted"))
    for number, refresh in enumerate(tokens):
        content = body(access_token="at", refresh_token=refresh)
        cases.append(Case(f"refresh token {number}", answer(200, content), "Granted"))
    raw = {
        "NaN neighbour": b'{"access_token":"at","expires_in":NaN}',
        "Infinity neighbour": b'{"access_token":"at","expires_in":-Infinity}',
        "5000 digits": b'{"access_token":"at","expires_in":' + b"9" * 5000 + b"}",
        "1e999": b'{"access_token":"at","expires_in":1e999}',
        "byte order mark": b'\xef\xbb\xbf{"access_token":"at"}',
        "white space around": b'\n\n  {"access_token":"at"}  \n',
        "repeated neighbour": b'{"access_token":"at","x":1,"x":2}',
        "only a refresh token": body(refresh_token=TOKEN),
        "only an access token": body(access_token="at"),
    }
    cases += [Case(name, answer(200, content), "Granted") for name, content in raw.items()]
    return cases


def unreadable() -> list[Case]:
    """A 2xx that holds no token to be read is ambiguous; a whole refresh token in it is salvaged."""
    contents: dict[str, tuple[bytes, bool]] = {
        "empty": (b"", False),
        "html": (b"<html>ok</html>", False),
        "array": (b"[]", False),
        "array of tokens": (b'["at"]', False),
        "string": (b'"at"', False),
        "null": (b"null", False),
        "number": (b"5", False),
        "no token": (body(scope="x"), False),
        "both blank": (body(access_token=" ", refresh_token=""), False),
        "cut behind the refresh token": (
            b'{"access_token":"at","refresh_token":"' + TOKEN.encode() + b'"',
            True,
        ),
        "cut inside the refresh token": (b'{"access_token":"at","refresh_token":"' + TOKEN.encode(), False),
        "cut before it": (b'{"access_token":"at","refr', False),
        "deep nesting": (b'{"refresh_token":"' + TOKEN.encode() + b'","x":' + b"[" * 100_000, True),
        "trailing garbage": (b'{"refresh_token":"' + TOKEN.encode() + b'"} garbage', True),
        "two objects": (body(access_token="a", refresh_token=TOKEN) * 2, True),
        "gzip bytes": (b"\x1f\x8b\x08\x00" + b"\x00" * 40, False),
        "cut form": (b"access_token=at&refresh_token=" + TOKEN.encode() + b"&expires_in=3600<", True),
        "tokens of two": (body(a={"access_token": "at"}, b={"access_token": "at"}), False),
        "unknown error": (body(error="consent_required"), False),
        "temporary error": (body(error="temporarily_unavailable"), False),
        "XML of blanks": (b"<access_token>" + b" " * 60_000, False),
        "form of brackets": (b"a=b&" + b"[" * 60_000 + b"]=c", False),
        "call of braces": (b"call(" + b"{}" * 30_000, False),
        "no error": (body(error=None, code=0, error_code=False), False),
    }
    return [
        Case(f"{status} {name}", answer(status, content), "Ambiguous", salvage)
        for status in (200, 201)
        for name, (content, salvage) in contents.items()
    ]


def _nested(value: dict[str, object], depth: int) -> dict[str, object]:
    for _ in range(depth):
        value = {"x": value}
    return value


def encodings() -> list[Case]:
    """Tokens in any encoding and nesting; a token is ASCII, so a neighbour's encoding must not cost it."""
    plain = json.dumps({"access_token": "at", "refresh_token": TOKEN, "name": "Zoë"}, ensure_ascii=False)
    form = f"access_token=at&refresh_token={TOKEN}&expires_in=3600&scope=a+b"
    contents = {
        "UTF-8 with a mark": plain.encode("utf-8-sig"),
        "UTF-16 with a mark": plain.encode("utf-16"),
        "UTF-16LE": plain.encode("utf-16-le"),
        "UTF-16BE": plain.encode("utf-16-be"),
        "UTF-32": plain.encode("utf-32"),
        "Latin-1": plain.encode("latin-1"),
        "Windows-1252": plain.replace("ë", "€").encode("cp1252"),
        "a broken neighbour": b'{"refresh_token":"' + TOKEN.encode() + b'","x":"\xff"}',
        "form": form.encode(),
        "form with a newline": form.encode() + b"\r\n",
        "form in UTF-16": form.encode("utf-16"),
        "form with escapes": f"refresh_token={TOKEN}&token_type=bearer&x=%7B%22%C3%BC".encode(),
        "form with an empty repetition": f"{form}&refresh_token=".encode(),
        "JSON in a JSON string": json.dumps(plain).encode(),
        "camel case": body(accessToken="at", refreshToken=TOKEN),
        "other spelling": json.dumps({"Access-Token": "at", "REFRESH_TOKEN": TOKEN}).encode(),
        "inside data": body(data={"access_token": "at", "refresh_token": TOKEN}, code=0),
        "deeper inside": body(response={"result": [{"accessToken": "at", "refreshToken": TOKEN}]}),
        "in a list": json.dumps([{"access_token": "at", "refresh_token": TOKEN}]).encode(),
        "beside an error": body(error="invalid_grant", refresh_token=TOKEN),
        "form with many fields": f"{form}&{'&'.join(f'x{n}={n}' for n in range(2_000))}".encode(),
        "form with JSON in it": f'{form}&user={{"id":1}}'.encode(),
        "form behind a question mark": f"?{form}".encode(),
        "form of objects": f"data[access_token]=at&data[refresh_token]={TOKEN}".encode(),
        "form in quotes": f'access_token="at"&refresh_token="{TOKEN}"'.encode(),
        "form with semicolons": form.replace("&", ";").encode(),
        "form on lines": form.replace("&", "\r\n").encode(),
        "form with a colon in a name": f"x:y=1&{form}".encode(),
        "behind a warning": b"<br />\n<b>Warning</b>: x in <b>/a.php</b>\n" + plain.encode(),
        "behind a notice": b"Deprecated: y in a.php on line 3\n\n" + plain.encode(),
        "behind an empty object": b"{}&&" + plain.encode(),
        "in a comment": b"/*" + plain.encode() + b"*/",
        "assigned": b"var token = " + plain.encode() + b";",
        "a call behind a comment": b"/**/ cb(" + plain.encode() + b");",
        "JSON in a member": body(statusCode=200, body=plain),
        "JSON in a member of a member": body(data=[{"d": plain}]),
        "XML with attributes": f'<r><refreshToken x="">{TOKEN}</refreshToken></r>'.encode(),
        "XML of CDATA": f"<refresh_token><![CDATA[{TOKEN}]]></refresh_token>".encode(),
        "a call": b"callback( " + plain.encode() + b" );",
        "kept from running": b")]}',\n" + plain.encode(),
        "kept in a loop": b"for(;;);" + plain.encode(),
        "NULs behind it": plain.encode() + b"\x00\x00",
        "two marks": b"\xef\xbb\xbf" + plain.encode("utf-8-sig"),
        "control characters": b'{"x":"a\tb\nc","refresh_token":"' + TOKEN.encode() + b'"}',
        "very deep inside": body(**_nested({"refresh_token": TOKEN}, 100)),
        "XML": f"<OAuth><access_token>at</access_token>\n<refreshToken>{TOKEN}</refreshToken></OAuth>".encode(),
    }
    cases = [Case(f"200 {name}", answer(200, content), "Granted") for name, content in contents.items()]
    whole = plain.encode()
    cases += [
        Case("cut behind the JSON", Lost("x", False, 200, whole), "Granted"),
        Case("cut behind the JSON, without a status", Lost("x", True, None, whole, arrived=True), "Granted"),
        Case("cut behind the JSON of a 500", Lost("x", False, 500, whole), "Ambiguous"),
        Case("a form that may be cut", Lost("x", False, 200, form.encode()), "Ambiguous", True),
    ]
    return cases


def own_words() -> list[Case]:
    """An exact word for a dead grant in a member `error`, `code` or `error_code`, wherever it stands, refuses."""
    contents = {
        "GitHub": (200, body(error="bad_refresh_token", error_description="incorrect or expired")),
        "GitHub's form": (200, b"error=bad_refresh_token&error_description=incorrect+or+expired"),
        "Slack": (200, body(ok=False, error="invalid_refresh_token")),
        "OpenAI": (401, body(error={"message": "m", "type": "t", "code": "refresh_token_reused"})),
        "Supabase": (400, body(code=400, error_code="refresh_token_not_found", msg="m")),
        "Exact": (401, body(error="unauthorized_client", error_description="Old refresh token used.")),
        "DeviantArt": (400, body(error="invalid_request", error_description="The refresh_token is invalid.")),
        "Yahoo": (400, body(error="INVALID_REFRESH_TOKEN", error_description="Failed to decode")),
        "Strava": (400, body(message="Bad", errors=[{"resource": "RefreshToken", "code": "invalid"}])),
        "Dub": (401, body(error={"code": "unauthorized", "message": "Refresh token not found."})),
        "standard word in a 200": (200, body(error="invalid_grant")),
        "standard word in a 500": (500, body(error="invalid_grant")),
        "standard word in a 302": (302, body(error="invalid_grant")),
        "standard word in a form": (400, b"error=invalid_grant&error_description=x"),
        "standard word inside": (400, body(error={"code": "invalid_grant"})),
        "standard word in a list": (422, body(errors=[{"code": "x"}, {"error_code": "invalid_grant"}])),
        "standard word in UTF-16": (400, '[{"error":"invalid_grant"}]'.encode("utf-16")),
        "null beside it": (400, body(error=None, code="invalid_grant")),
        "standard word far inside": (400, body(**_nested({"error": "invalid_grant"}, 100))),
        "standard word in a call": (400, b'callback({"error":"invalid_grant"})'),
        "GitHub's word in a 500": (500, body(error="bad_refresh_token")),
        "Slack's word in a 404": (404, body(error={"error": "invalid_refresh_token"})),
        "a sentence beside it": (
            400,
            body(error="invalid_grant", errors={"refresh_token": ["It has expired."]}),
        ),
        "false beside it": (422, body(error=False, error_code="bad_refresh_token")),
    }
    return [Case(f"own words: {name}", answer(*content), "Refused") for name, content in contents.items()]


def never_kills() -> list[Case]:
    """What looks like a refusal and is none: a grant's life hangs on each."""
    dead = body(error="bad_refresh_token")
    contents = {
        "a substring": (200, body(error="bad_refresh_token_format"), "Ambiguous"),
        "another case": (400, body(error="Invalid_Grant"), "Declined"),
        "white space": (400, body(error=" invalid_grant"), "Declined"),
        "a description": (400, body(error="invalid_request", error_description="invalid_grant"), "Declined"),
        "a message": (400, body(message="bad_refresh_token"), "Ambiguous"),
        "another member": (400, body(status="invalid_grant", errorType="invalid_grant"), "Ambiguous"),
        "a member's name": (400, body(invalid_grant=True), "Ambiguous"),
        "a list of words": (400, body(errors=["invalid_grant"]), "Ambiguous"),
        "a page": (400, b'<html>{"error":"invalid_grant"}</html>', "Ambiguous"),
        "a text": (400, b"invalid_grant", "Ambiguous"),
        "a token beside it": (400, body(error="invalid_grant", access_token="at"), "Ambiguous"),
        "a token inside": (400, body(error="invalid_grant", data={"refreshToken": "rt"}), "Ambiguous"),
        "a token far inside": (
            400,
            body(error="invalid_grant", x=_nested({"access_token": "at"}, 100)),
            "Ambiguous",
        ),
        "another token": (400, body(error="invalid_grant", new_access_token="at"), "Ambiguous"),
        "an id token": (400, body(error="invalid_grant", id_token="at"), "Ambiguous"),
        "tokens": (400, body(error="invalid_grant", access_token=["at"]), "Ambiguous"),
        "a token as an object": (400, body(error="invalid_grant", access_token={"token": "at"}), "Ambiguous"),
        "a text with a token": (400, body(error="invalid_grant", data='{"access_token":"at"}'), "Ambiguous"),
        "a form's object": (400, b"error=invalid_grant&data[access_token]=at", "Ambiguous"),
        "XML": (400, b"<OAuth><error>invalid_grant</error></OAuth>", "Ambiguous"),
        "a text with an error": (400, body(message='{"error":"invalid_grant"}'), "Ambiguous"),
        "the provider's state inside": (
            400,
            body(error="invalid_grant", x={"code": "server_error"}),
            "Ambiguous",
        ),
        "our client beside it": (200, body(error="invalid_client", code="invalid_grant"), "ClientRefused"),
        "our client inside": (401, body(code="invalid_grant", x={"error": "invalid_client"}), "Declined"),
        "a token in the form": (400, b"refresh_token=rt&error=invalid_grant", "Ambiguous"),
        "408": (408, dead, "Ambiguous"),
        "425": (425, dead, "Ambiguous"),
        "429": (429, dead, "Paused"),
        "the provider's own state": (400, body(error="server_error", code="invalid_grant"), "Declined"),
        "its own state in a 200": (
            200,
            body(error="temporarily_unavailable", errors=[{"code": "invalid_grant"}]),
            "Ambiguous",
        ),
        "another's description": (
            401,
            body(error="unauthorized_client", error_description="Old refresh token used. Sorry."),
            "Declined",
        ),
        "the description elsewhere": (
            401,
            body(error="unauthorized_client", x={"error_description": "Old refresh token used."}),
            "Declined",
        ),
        "Strava's client": (400, body(errors=[{"resource": "Application", "code": "invalid"}]), "Ambiguous"),
        "OpenAI's word elsewhere": (401, body(error={"code": "token_expired"}), "Declined"),
        "Zoho's word elsewhere": (200, body(error="invalid_code"), "Ambiguous"),
        "invalid_client in a 200": (200, body(error="invalid_client"), "ClientRefused"),
    }
    for word in ("unauthorized_client", "invalid_request", "access_denied", "server_error"):
        contents[f"{word} in a 200"] = (200, body(error=word), "Ambiguous")
    cases = [
        Case(f"never kills: {name}", answer(status, content), outcome)
        for name, (status, content, outcome) in contents.items()
    ]
    # A token in what is no refusal is kept.
    cases = [replace(case, salvage="a token in" in case.name) for case in cases]
    retry = Answer(503, {"Retry-After": "1"}, dead)
    cut = Lost("x", False, 200, dead)
    return [*cases, Case("never kills: 503", retry, "Paused"), Case("never kills: cut", cut, "Ambiguous")]


def refusals() -> list[Case]:
    """`invalid_grant` in JSON with a 4xx refuses; nothing else does."""
    cases = [
        Case(
            f"invalid_grant {status}",
            answer(status, body(error="invalid_grant", error_description="x")),
            "Refused",
        )
        for status in (400, 401, 403, 404, 409, 422)
    ]
    for status in (400, 401, 403):
        cases.append(
            Case(f"invalid_client {status}", answer(status, body(error="invalid_client")), "ClientRefused")
        )
    shapes = [
        body(errors=[{"code": "bad_request", "message": "Invalid Client"}]),
        body(error="Invalid Client"),
        body(message="Invalid Client"),
        body(errors=["Invalid Client"]),
        b"Invalid Client",
        b"<h1>invalid client</h1>",
    ]
    cases += [Case(f"Kustomer {n}", answer(400, shape), "ClientRefused") for n, shape in enumerate(shapes)]
    words = [
        "invalid_request",
        "invalid_scope",
        "unsupported_grant_type",
        "unauthorized_client",
        "server_error",
    ]
    words += ["temporarily_unavailable", "slow_down", "made_up", "invalid_grant_reuse", "INVALID_GRANT"]
    for status, word in itertools.product((400, 401, 403), words):
        cases.append(Case(f"{word} {status}", answer(status, body(error=word)), "Declined"))
    odd = [
        b"",
        b"<html>WAF</html>",
        b"invalid_grant",
        b'{"error":["invalid_grant"]}',
        b'{"error":5}',
        b"[]",
        b"{",
    ]
    for status, (number, content) in itertools.product(
        (400, 401, 403, 404, 405, 410, 422, 451), enumerate(odd)
    ):
        kind = "Declined" if status in (401, 403) else "Ambiguous"
        cases.append(Case(f"no OAuth error {status} {number}", answer(status, content), kind))
    for status in (300, 301, 302, 303, 304, 307, 308):
        cases.append(
            Case(f"redirect {status}", answer(status, b"", Location="https://evil.example/"), "Declined")
        )
    return cases


def pauses() -> list[Case]:
    """429, and 503 with Retry-After, were not processed."""
    forms = ["5", "0", "-1", "99999999", "soon", "", "Wed, 21 Oct 2015 07:28:00 GMT", "1e9", "٣"]
    cases = [Case(f"429 {form!r}", answer(429, b"", Retry_After=form), "Paused") for form in forms]
    cases += [Case(f"503 {form!r}", answer(503, b"", Retry_After=form), "Paused") for form in forms]
    cases.append(Case("429 bare", answer(429), "Paused"))
    cases.append(Case("429 with invalid_grant", answer(429, body(error="invalid_grant")), "Paused"))
    return cases


def ambiguous() -> list[Case]:
    """Everything else after the first byte."""
    contents = [b"", b"<html>", body(error="server_error"), body(access_token="at")]
    cases = [
        Case(f"{status} {number}", answer(status, content), "Ambiguous")
        for status in (500, 501, 502, 503, 504, 507, 520, 599, 408, 425, 100, 199, 600)
        for number, content in enumerate(contents)
    ]
    cases += [
        Case(f"{status} with a refusal", answer(status, body(error="invalid_grant")), "Ambiguous")
        for status in (408, 425, 100, 199, 600)
    ]
    whole = b'{"refresh_token":"' + TOKEN.encode() + b'"'
    cases += [
        Case("dropped", Lost("x", False), "Ambiguous"),
        Case("timed out", Lost("x", True), "Ambiguous"),
        Case("cut 200 with a whole token", Lost("x", False, 200, whole), "Ambiguous", True),
        Case("cut 200 without", Lost("x", False, 200, b'{"refresh_tok'), "Ambiguous"),
        Case("cut 400 with a token", Lost("x", False, 400, whole), "Ambiguous"),
        Case(
            "too large 200 with a whole token",
            Lost("x", False, 200, whole + b"x" * 70_000),
            "Ambiguous",
            True,
        ),
        Case("escaped token", Lost("x", False, 200, b'{"refresh_token":"a\\u002fb"'), "Ambiguous", True),
    ]
    return cases


def every_case() -> list[Case]:
    unsent = [Case("not sent", NotSent("x"), "NotSent")]
    words = [*own_words(), *never_kills()]
    return [*successes(), *encodings(), *unreadable(), *words, *refusals(), *pauses(), *ambiguous(), *unsent]
