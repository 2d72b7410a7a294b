"""Hostile contents in sound messages: names, queries, bodies, and what happens around a request."""

import gzip
import json
import zlib
from collections.abc import Iterator
from functools import cache

from tests.hostile.messages import CANARY, CHUNKED, CLOSE, HEADERS, KEY, KNOWN, NEVER
from tests.hostile.wire import Raw

NAMES = (
    "%2e%2e%2fetc%2fpasswd",
    "..%2facme",
    "%00",
    "acme%00",
    "acme%0d%0aX:%20y",
    "%C0%AF",
    "%ED%A0%80",
    "%FF",
    "acme%",
    "acme%zz",
    "%61cme%2F",
    "ac%20me",
    "ACME",
    "acme/",
    "./acme",
    "acme;x=1",
    "acme%3Fmin_ttl=1",
    "acme%23x",
    "a" * 129,
    "a" * 7000,
    "%EF%BD%81cme",
    "\uff41cme",
    "acme\u0000",
    "*",
    "[a]",
    "'--",
    "{{7*7}}",
    "${jndi:ldap:x}",
    "-acme",
    ".acme",
    "%E2%80%AEacme",
)
"""Account names that are none; each is refused, and no account is looked up by it."""

QUERIES = (
    "a=%00",
    "a=%ff",
    "a=%ED%A0%80",
    "=",
    "&&&&",
    "a",
    "a=b=c",
    "%",
    "%zz=%zz",
    "a[]=1&a[]=2",
    "&".join(f"a{n}=1" for n in range(500)),
    "state=%ff&code=%ff",
    "state=%00&code=x",
    "state=a&state=b&code=x",
    "state=a;code=x",
    "state=" + "x" * 5000 + "&code=x",
    "ticket=%ff",
    "ticket=%ED%B0%80",
    "ticket=%00",
    "ticket=a&ticket=b",
    "ticket=",
    "ticket=" + "x" * 5000,
    "redirect=%ff",
    "redirect=https%3A%2F%2Fapp.kit.com%2Fapps%0d%0aX:y",
    "redirect=https://[::1",
    "redirect=" + "x" * 5000,
    "login_challenge=%ff&login_response=%ff",
    "login_challenge=x&login_response=a.b.c",
    "min_ttl=%D9%A5",
    "min_ttl=1e9",
    "min_ttl=-1",
    "min_ttl=nan",
    "min_ttl=" + "9" * 5000,
    "min_ttl=1&min_ttl=2",
    "limit=0&cursor=%ff",
    "cursor=%ED%A0%80",
    "cursor=%00",
    "subject=%ff",
    "provider=%ff",
    "provider=%00",
    "status=%ff",
    "expiring_within=9999999999999",
    "revoke=%ff",
    "purge=2",
    "after=%ff",
)
PATHS = {
    "internal": ("/token/acme", "/accounts", "/accounts/acme", "/metrics", "/nothing"),
    "public": ("/install/kit", "/callback/kit", "/callback/kit/", "/login/complete", "/install/%ff"),
    "admin": ("/events", "/callers", "/accounts", "/providers", "/check"),
}


def targets(listener: str) -> Iterator[Raw]:
    """Names and queries in every shape of percent-encoding, and in raw bytes."""
    known = KNOWN + CLOSE + b"\r\n"
    prefixes = {
        "internal": ("/token/", "/accounts/"),
        "public": ("/install/", "/callback/"),
        "admin": ("/accounts/",),
    }
    for prefix in prefixes[listener]:
        for name in NAMES:
            data = b"GET " + (prefix + name).encode() + b" HTTP/1.1\r\n" + known
            yield Raw(f"{prefix}{name[:30]}", data, NEVER)
    for path in PATHS[listener]:
        for query in QUERIES:
            raw = query.replace("%ff", "\xff").encode("latin-1", "replace")
            for sort, text in {"encoded": query.encode(), "raw": raw}.items():
                data = b"GET " + path.encode() + b"?" + text + b" HTTP/1.1\r\n" + known
                yield Raw(f"{sort} {path}?{query[:30]}", data)


def deep(opening: str, closing: str, levels: int) -> str:
    return opening * levels + closing * levels


BODIES: dict[str, str | bytes] = {
    "nothing": "",
    "null": "null",
    "array": "[]",
    "string": '"x"',
    "number": "5",
    "NaN": '{"provider": NaN}',
    "infinity": '{"rejected_generation": 1e999}',
    "minus zero": '{"rejected_generation": -0}',
    "minus one": '{"rejected_generation": -1}',
    "true for a number": '{"rejected_generation": true}',
    "5,000 digits": '{"rejected_generation": %s}' % ("9" * 5000),
    "64 bits and more": '{"rejected_generation": 18446744073709551616}',
    "caller for ever": '{"name": "x", "accounts": ["*"], "expires_in": NaN}',
    "caller without end": '{"name": "x", "accounts": ["*"], "expires_in": 1e999}',
    "caller for 400 digits": '{"name": "x", "accounts": ["*"], "expires_in": 1%s}' % ("0" * 400),
    "deep arrays": deep("[", "]", 8000),
    "deep objects": '{"provider":' * 1300 + "1" + "}" * 1300,
    "half of it": '{"provider": "kit", ',
    "two of them": '{"provider": "kit"}{"provider": "kit"}',
    "repeated member": '{"provider": "kit", "provider": "nobody"}',
    "unknown member": json.dumps({CANARY: CANARY}),
    "lone surrogate": '{"provider": "\\ud800"}',
    "lone surrogate as a name": '{"\\udfff": 1}',
    "surrogate in a label": '{"provider": "kit", "account": "\\ud800", "label": "\\udc00"}',
    "surrogate in return_to": '{"provider": "kit", "return_to": "https://x/\\ud800"}',
    "NUL": '{"provider": "kit\\u0000"}',
    "raw NUL": b'{"provider": "kit\x00"}',
    "control characters": b'{"provider": "k\x01t"}',
    "byte ff": b'{"provider": "\xff"}',
    "overlong slash": b'{"provider": "\xc0\xaf"}',
    "UTF-16": '{"provider": "nobody"}'.encode("utf-16"),
    "UTF-32": '{"provider": "nobody"}'.encode("utf-32"),
    "byte order mark": b'\xef\xbb\xbf{"provider": "nobody"}',
    "comment": '{"provider": "nobody" /* x */}',
    "single quotes": "{'provider': 'nobody'}",
    "form": f"provider=nobody&x={CANARY}",
    "repeated form fields": "provider=a&provider=b",
    "500 form fields": "&".join(f"a{n}=1" for n in range(500)),
    "multipart": f'--b\r\nContent-Disposition: form-data; name="provider"\r\n\r\n{CANARY}\r\n--b--\r\n',
    "multipart without end": '--b\r\nContent-Disposition: form-data; name="x"; filename="../../x"\r\n\r\n',
    "XML": f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;{CANARY}</x>',
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.",
    "markup in a name": '{"provider": "kit", "account": "<script>"}',
    "script as return_to": '{"provider": "kit", "return_to": "javascript:alert(1)"}',
    "return_to of broken brackets": '{"provider": "kit", "return_to": "https://[::1"}',
    "return_to with a port too high": '{"provider": "kit", "return_to": "https://x:99999/"}',
    "org of a path": '{"provider": "kustomer", "org": "../x"}',
    "17 KiB": json.dumps({"provider": "x" * 17_000}),
    "a megabyte": json.dumps({"provider": "x" * 1_000_000}),
}
TYPES = (
    b"application/json",
    b"application/json; charset=bogus",
    b"application/x-www-form-urlencoded; charset=\xff",
    b"multipart/form-data",
    b"multipart/form-data; boundary=b",
    b"text/plain; charset=utf-7",
)
OPERATIONS = {
    "internal": (b"POST /installs", b"POST /token/acme/refresh", b"PATCH /accounts/acme", b"GET /token/acme"),
    "public": (b"GET /install/kit", b"POST /install/kit", b"POST /callback/kit"),
    "admin": (b"POST /callers", b"POST /installs", b"PATCH /accounts/acme"),
}


def posted(operation: bytes, content: bytes, *fields: bytes) -> bytes:
    head = b"".join(field + b"\r\n" for field in fields)
    length = b"Content-Length: %d\r\n" % len(content)
    return operation + b" HTTP/1.1\r\n" + KNOWN + CLOSE + head + length + b"\r\n" + content


def bodies(listener: str) -> Iterator[Raw]:
    """What a body can be, whatever its type says it is; a key that is known gets it as far as it goes."""
    for number, (name, text) in enumerate(BODIES.items()):
        content = text if isinstance(text, bytes) else text.encode()
        for operation in OPERATIONS[listener]:
            kind = b"Content-Type: " + TYPES[number % len(TYPES)]
            yield Raw(f"{name} to {operation.decode()}", posted(operation, content, kind))
    operation = OPERATIONS[listener][0]
    for kind in TYPES:
        content = f"--b\r\n\r\n{CANARY}".encode()
        yield Raw(f"type {kind!r}", posted(operation, content, b"Content-Type: " + kind))
    # What a GET brings along is not even unpacked.
    allowed = None if operation.startswith(b"GET") else NEVER
    for name, (coding, content) in packed().items():
        yield Raw(name, posted(operation, content, b"Content-Encoding: " + coding), allowed)


@cache
def packed() -> dict[str, tuple[bytes, bytes]]:
    """Bodies under a coding."""
    bomb = gzip.compress(b"[" * 20_000_000, compresslevel=5)
    return {
        "gzip bomb": (b"gzip", bomb),
        "gzip bomb in a gzip bomb": (b"gzip, gzip", gzip.compress(bomb)),
        "deflate bomb": (b"deflate", zlib.compress(b"[" * 20_000_000, 5)),
        "broken gzip": (b"gzip", bomb[:100] + CANARY.encode() + bomb[120:]),
        "half of a gzip": (b"gzip", gzip.compress(b"{}" * 500)[:40]),
        "no gzip at all": (b"gzip", b'{"provider": "nobody"}'),
        "no deflate at all": (b"deflate", CANARY.encode()),
        "brotli": (b"br", b"\x1b\x03\x00\xf8"),
        "zstd": (b"zstd", b"(\xb5/\xfd\x04X"),
        "a bogus coding": (b"x-" + CANARY.encode(), CANARY.encode()),
    }


def connections(listener: str) -> Iterator[Raw]:
    """What happens around a request: many of them, half of one, and a change of protocol."""
    path = PATHS[listener][0].encode()
    good = b"GET " + path + b" HTTP/1.1\r\n" + HEADERS + b"\r\n"
    last = b"GET " + path + b" HTTP/1.1\r\n" + HEADERS + CLOSE + b"\r\n"
    upgrade = (
        b"GET " + path + b" HTTP/1.1\r\n" + HEADERS + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    yield Raw("nothing at all", b"", answers=0)
    yield Raw("nothing at all, half closed", b"", answers=0, half_close=True)
    yield Raw("200 in a row", good * 199 + last, answers=200)
    yield Raw("one, then nonsense", good + b"\x00nonsense\r\n\r\n")
    yield Raw("many, half closed", good * 20, half_close=True)
    yield Raw("upgrade with a request behind it", upgrade + last)
    yield Raw("upgrade with nonsense behind it", upgrade + b"\x81\x05hello" * 50)
    yield Raw("connect with a request behind it", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + last)
    yield Raw("half a request line", b"GET /tok", answers=0)
    yield Raw("half a header", good[:-6], answers=0)
    yield Raw("half a header, half closed", good[:-6], half_close=True)
    for name, (head, body) in {
        "body that never comes": (b"Content-Length: 10\r\n", b""),
        "half a body": (b"Content-Length: 1000\r\n", b"{" * 500),
        "half a chunk": (CHUNKED, b"ff\r\n{"),
        "body of a terabyte": (b"Content-Length: 1000000000000\r\n", b"{" * 1000),
        "body that waits for 100": (b"Content-Length: 10\r\nExpect: 100-continue\r\n", b""),
    }.items():
        data = OPERATIONS[listener][0] + b" HTTP/1.1\r\n" + KNOWN + head + b"\r\n" + body
        yield Raw(name, data)
        yield Raw(f"{name}, half closed", data, half_close=True)
    trailer = b"0\r\nAuthorization: Bearer " + KEY + b"\r\n\r\n"
    yield Raw(
        "credential in a trailer",
        OPERATIONS[listener][0] + b" HTTP/1.1\r\nHost: x\r\n" + CLOSE + CHUNKED + b"\r\n" + trailer,
    )
