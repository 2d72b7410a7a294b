"""Hostile messages, written out: framing, request lines, header fields."""

from collections.abc import Iterator

from tests.hostile.wire import Raw

CANARY = "canary-7d20e9"
KEY = b"@KEY@"
"""Stands for a caller's valid key, where a request is to get past the door."""
BAD = frozenset({400})
REFUSED = frozenset({400, 413})
NEVER = frozenset({400, 401, 403, 404, 405, 413})
"""A request that asks for nothing good gets nothing good."""

HEADERS = f"Host: x\r\nAuthorization: Bearer {CANARY}\r\n".encode()
KNOWN = b"Host: x\r\nAuthorization: Bearer " + KEY + b"\r\n"
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def framing() -> Iterator[Raw]:
    """Whose end nobody should have to guess: one refusal, and what hides behind it is not answered."""
    length, chunks = b"Content-Length: 5\r\n", b"0\r\n\r\n"
    heads = {
        "length and chunks": length + CHUNKED,
        "chunks and length": CHUNKED + length,
        "two lengths": length + b"Content-Length: 6\r\n",
        "same length twice": length * 2,
        "list of lengths": b"Content-Length: 5, 5\r\n",
        "list of other lengths": b"Content-Length: 5, 6\r\n",
        "length with a sign": b"Content-Length: +5\r\n",
        "negative length": b"Content-Length: -1\r\n",
        "length in hex": b"Content-Length: 0x5\r\n",
        "length with an underscore": b"Content-Length: 0_5\r\n",
        "length with a point": b"Content-Length: 5.0\r\n",
        "empty length": b"Content-Length:\r\n",
        "length of 5,000 digits": b"Content-Length: " + b"9" * 5000 + b"\r\n",
        "length beyond 64 bits": b"Content-Length: 18446744073709551621\r\n",
        "length in Arabic digits": "Content-Length: \u0665\r\n".encode(),
        "chunks twice": CHUNKED * 2,
        "chunked, chunked": b"Transfer-Encoding: chunked, chunked\r\n",
        "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n",
        "identity": b"Transfer-Encoding: identity\r\n",
        "xchunked": b"Transfer-Encoding: xchunked\r\n",
        "chunked with a parameter": b"Transfer-Encoding: chunked;q=1\r\n",
        "chunked in quotes": b'Transfer-Encoding: "chunked"\r\n',
        "chunked behind a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n",
        "chunked before NUL": b"Transfer-Encoding: chunked\x00\r\n",
        "chunked on a folded line": b"Transfer-Encoding:\r\n chunked\r\n",
        "chunked with a space before the colon": b"Transfer-Encoding : chunked\r\n",
        "chunked with a bare CR": b"Transfer-Encoding: chunked\rX: y\r\n",
        "chunked behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n",
        "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    }
    for name, head in heads.items():
        data = b"POST /installs HTTP/1.1\r\n" + HEADERS + head + b"\r\n" + chunks + SMUGGLED
        yield Raw(name, data, NEVER)
    for name, body in bad_chunks().items():
        data = b"POST /installs HTTP/1.1\r\n" + KNOWN + CHUNKED + b"\r\n" + body + SMUGGLED
        yield Raw(f"chunk: {name}", data, NEVER)
    for name, body in wasteful_chunks().items():
        data = b"POST /installs HTTP/1.1\r\n" + KNOWN + CHUNKED + b"\r\n" + body
        yield Raw(f"chunk: {name}", data, NEVER, 1)


def bad_chunks() -> dict[str, bytes]:
    return {
        "with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
        "negative": b"-5\r\nhello\r\n0\r\n\r\n",
        "with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
        "with an underscore": b"1_0\r\nhellohellohello!\r\n0\r\n\r\n",
        "with a leading space": b" 5\r\nhello\r\n0\r\n\r\n",
        "of no size": b"\r\nhello\r\n0\r\n\r\n",
        "no hex": b"zz\r\nhello\r\n0\r\n\r\n",
        "beyond 64 bits": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "longer than it says": b"3\r\nhello\r\n0\r\n\r\n",
        "shorter than it says": b"9\r\nhello\r\n0\r\n\r\n",
        "ended by LF": b"5\nhello\n0\n\n",
        "size ended by CR": b"5\rhello\r\n0\r\n\r\n",
        "extension with LF": b"5;x=\ny\r\nhello\r\n0\r\n\r\n",
        "trailer with a NUL": b"0\r\nX: \x00\r\n\r\n",
        "trailer without a colon": b"0\r\nnothing\r\n\r\n",
        "trailer with a length": b"0\r\nContent-Length: 5\r\n\r\n",
    }


def wasteful_chunks() -> dict[str, bytes]:
    """Sound, but nobody sends them for good."""
    return {
        "huge extension": b"5;" + b"x" * 20_000 + b"\r\nhello\r\n0\r\n\r\n",
        "trailers without end": b"0\r\n" + b"X: y\r\n" * 4000 + b"\r\n",
        "20,000 of one byte": b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n",
        "leading zeros": b"0" * 300 + b"5\r\nhello\r\n0\r\n\r\n",
    }


def lines() -> Iterator[Raw]:
    """Request lines that are none, and the forms of a target."""
    bad = {
        "HTTP/0.9 with a version": b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        "HTTP/3": b"GET / HTTP/3\r\nHost: x\r\n\r\n",
        "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
        "HTTP/11.1": b"GET / HTTP/11.1\r\nHost: x\r\n\r\n",
        "http/1.1": b"GET / http/1.1\r\nHost: x\r\n\r\n",
        "HTTPS/1.1": b"GET / HTTPS/1.1\r\nHost: x\r\n\r\n",
        "no target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
        "no method": b" / HTTP/1.1\r\nHost: x\r\n\r\n",
        "empty line only": b"\r\n\r\n\r\n\r\n" + b"\x00",
        "space in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        "tab for space": b"GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n",
        "NUL in the target": b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        "bare CR in the target": b"GET /\rX HTTP/1.1\r\nHost: x\r\n\r\n",
        "escape in the method": b"G\x1bT / HTTP/1.1\r\nHost: x\r\n\r\n",
        "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + CANARY.encode() + b"\r\n\r\n",
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "SOCKS": b"\x05\x01\x00\r\n\r\n",
        "PROXY protocol": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "line of 9,000 bytes": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "line of a megabyte": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    }
    for name, data in bad.items():
        yield Raw(name, data, REFUSED, 1)
    yield Raw("HTTP/0.9", b"GET /\r\n", answers=0)
    # The parser takes these for HTTP/1.0; there is nothing in them to get wrong.
    yield Raw("ICE/1.0", b"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n", NEVER)
    yield Raw("RTSP", b"OPTIONS rtsp://x RTSP/1.0\r\nCSeq: 1\r\n\r\n", NEVER)
    known = KNOWN + CLOSE + b"\r\n"
    for method in (b"GET", b"POST", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"PURGE", b"BREW", b"get"):
        for target in (
            b"/token/acme?a=@C@",
            b"http://evil.example/x?@C@",
            b"evil.example:80",
            b"*",
            b"//x/@C@",
        ):
            data = method + b" " + target.replace(b"@C@", CANARY.encode()) + b" HTTP/1.1\r\n" + known
            yield Raw(f"{method.decode()} {target.decode()}", data)


def headers() -> Iterator[Raw]:
    """Header fields that no program sends, or that it must not send twice."""
    bad = {
        "folded": b"X: a\r\n b\r\n",
        "folded first": b" X: a\r\n",
        "space before the colon": b"X : a\r\n",
        "no colon": b"nothing\r\n",
        "no name": b": a\r\n",
        "bare LF": b"X: a\nY: b\r\n",
        "bare CR": b"X: a\rY: b\r\n",
        "NUL in the value": b"X: a\x00b\r\n",
        "NUL in the name": b"X\x00: a\r\n",
        "control character in the name": b"X\x01: a\r\n",
        "byte ff in the name": b"X\xff: a\r\n",
        "brackets in the name": b"X(y): a\r\n",
        "field of 9,000 bytes": b"X: " + b"a" * 9000 + b"\r\n",
        "name of 9,000 bytes": b"X" * 9000 + b": a\r\n",
        "field of a megabyte": b"X: " + b"a" * 1_000_000 + b"\r\n",
        "129 fields": b"X: a\r\n" * 129,
        "10,000 fields": b"X: a\r\n" * 10_000,
        "two hosts": b"Host: y\r\n",
        "same host twice": b"Host: x\r\n",
    }
    for name, field in bad.items():
        yield Raw(name, b"GET /healthz HTTP/1.1\r\n" + HEADERS + field + b"\r\n" + SMUGGLED, REFUSED, 1)
    for name, host in {
        "no host": b"",
        "empty host": b"Host:\r\n",
        "host with a path": b"Host: x/y\r\n",
        "host with a user": b"Host: a@b\r\n",
        "host with spaces": b"Host: a b\r\n",
        "host with quotes": b'Host: "x"\r\n',
        "host with a port too high": b"Host: x:99999\r\n",
        "host of an odd port": b"Host: x:abc\r\n",
        "host of broken brackets": b"Host: [::1\r\n",
        "host with byte ff": b"Host: \xff\r\n",
        "host of 8,000 bytes": b"Host: " + b"x" * 8000 + b"\r\n",
    }.items():
        credential = f"Authorization: Bearer {CANARY}\r\n".encode()
        yield Raw(name, b"GET /token/acme HTTP/1.1\r\n" + host + CLOSE + credential + b"\r\n", NEVER)
    for name, field in odd_fields().items():
        for path in (b"/token/acme", b"/install/kit?ticket=" + CANARY.encode(), b"/healthz"):
            data = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + CLOSE + field + b"\r\n"
            yield Raw(f"{name} on {path[:8].decode()}", data)


def odd_fields() -> dict[str, bytes]:
    """Well-formed for the parser; the broker has to make something of them."""
    canary = CANARY.encode()
    return {
        "credential with byte ff": b"Authorization: Bearer \xff" + canary + b"\r\n",
        "credential in Latin-1": b"Authorization: Bearer t\xf6ken\r\n",
        "credential that looks like a key": b"Authorization: Bearer tbk_000000000000_" + canary * 3 + b"\r\n",
        "credential with a tab": b"Authorization: Bearer\t" + canary + b"\r\n",
        "credential of 8,000 bytes": b"Authorization: Bearer " + b"a" * 8000 + b"\r\n",
        "two credentials": b"Authorization: Bearer " + canary + b"\r\nAuthorization: Bearer x\r\n",
        "two credentials, one of them good": b"Authorization: Bearer "
        + KEY
        + b"\r\nAuthorization: Basic eDp5\r\n",
        "credential of a bogus JWT": b"Authorization: Bearer eyJhbGciOiJub25lIn0.e30." + canary + b"\r\n",
        "credential of nothing": b"Authorization: \r\n",
        "request id of byte ff": b"X-Request-Id: \xff\xff\xff\xff\xff\xff\xff\xff\xff\r\n",
        "request id with markup": b"X-Request-Id: <script>alert(1)</script>\r\n",
        "two request ids": b"X-Request-Id: aaaaaaaaaa\r\nX-Request-Id: bbbbbbbbbb\r\n",
        "cookie of byte ff": b"Cookie: broker_browser=" + b"\xff" * 43 + b"\r\n",
        "cookie of nonsense": b"Cookie: ;;=;=;\x7f=;broker_browser\r\n",
        "1,000 cookies": b"Cookie: " + b"a=b; " * 1000 + b"\r\n",
        "cookie with unknown escapes": b'Cookie: broker_browser="\\777\\"; x="\r\n',
        "range": b"Range: bytes=0-0,1-1,-1\r\n",
        "accept of nonsense": b"Accept: \xff;q=banana,,,;\r\n",
        "accept encoding": b"Accept-Encoding: gzip;q=nan, br, *;q=1e999\r\n",
        "condition of nonsense": b'If-None-Match: W/"\xff", *, "\r\nIf-Modified-Since: tomorrow\r\n',
        "websocket": b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
        "h2c": b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "forwarded": b"X-Forwarded-For: 127.0.0.1, \xff\r\nForwarded: for=_x\r\nX-Forwarded-Proto: ftp\r\n",
        "method override": b"X-HTTP-Method-Override: DELETE\r\nX-Original-URL: /token/acme\r\n",
        "prefetch of nonsense": b"Sec-Purpose: \xff\r\n",
        "expectation": b"Expect: " + canary + b"\r\n",
    }
