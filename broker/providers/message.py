"""Reads an HTTP/1 answer that the HTTP library refused, and undoes content codings that nobody asked for. Pure.

A token answer may exist nowhere else, so nothing about its envelope may cost its contents.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp.compression_utils import HAS_BROTLI, HAS_ZSTD, BrotliDecompressor, ZSTDDecompressor

STATUS_LINE = re.compile(rb"\s*[A-Za-z]{2,8}\s*/?\s*[\d.]*\s+(\d{3})(?!\d)")
HEAD_END = re.compile(rb"\r?\n[ \t]*\r?\n|\r\r")
CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?(?:\r\n|\n|\r)")
CHUNK_SIZES = re.compile(rb"(?:\A|(?:\r\n|\n))[ \t]*(?:0x)?[0-9a-fA-F]{1,8}[ \t]*(?:;[^\r\n]*)?(?:\r\n|\n)")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PLAIN = re.compile(rb"\s*[{\[\"]|[\w.+%-]+=|\xef\xbb\xbf|\xff\xfe|\xfe\xff|\x00?[{\[]")
"""How JSON and forms begin."""
MOST_CODINGS = 4


@dataclass(frozen=True, slots=True)
class Message:
    """What bytes of a connection say, read as generously as possible."""

    status: int | None
    """None: there is no status line."""
    headers: dict[str, str] = field(repr=False)
    """Names in lower case; the first of repeated ones."""
    body: bytes = field(repr=False)
    framed: bool | None
    """Whether the body ends where its length or its last chunk says; None: nothing says where it ends."""


def read_message(raw: bytes) -> Message:
    """Read the last answer in `raw`, behind informational ones."""
    while True:
        line = STATUS_LINE.match(raw)
        end = HEAD_END.search(raw)
        if line is None:
            return Message(None, {}, raw, None)
        head, rest = (raw, b"") if end is None else (raw[: end.start()], raw[end.end() :])
        status = int(line[1])
        if not 100 <= status < 200 or status == 101 or not rest:
            break
        raw = rest
    lengths, headers = _headers(head)
    if end is None:
        return Message(status, headers, b"", False)
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return Message(status, headers, *_unchunked(rest))
    return Message(status, headers, *_measured(rest, lengths))


def decoded(body: bytes, codings: str, most: int) -> tuple[bytes, str | None]:
    """Undo `Content-Encoding`; the content, and what is wrong with it.

    The bytes count for more than the label: what is not encoded as it says is taken as it is.
    """
    names = [name.strip().lower().removeprefix("x-") for name in codings.split(",") if name.strip()]
    problem: str | None = None
    for name in [*reversed(names[:MOST_CODINGS]), ""]:
        body, wrong = _undone(body, name, most)
        problem = problem or wrong
    return body, problem


def unchunked(body: bytes, coding: str) -> bytes:
    """A body whose chunks were left in it, because another coding was named beside them."""
    return _unchunked(body)[0] if "chunked" in coding.lower() and CHUNK_SIZE.match(body) else body


def _headers(head: bytes) -> tuple[set[bytes], dict[str, str]]:
    """The different values of Content-Length, and all headers."""
    headers: dict[str, str] = {}
    lengths = set()
    for line in re.split(rb"[\r\n]+", head)[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            continue
        name = name.strip().lower()
        if name == b"content-length":
            lengths |= {one.strip() for one in value.split(b",")}
        headers.setdefault(name.decode("latin-1"), value.strip().decode("latin-1"))
    return lengths, headers


def _measured(rest: bytes, lengths: set[bytes]) -> tuple[bytes, bool | None]:
    length = next(iter(lengths)) if len(lengths) == 1 else b""
    if not re.fullmatch(rb"\d{1,9}", length):
        return rest, None
    if len(rest) < int(length):
        return rest, False
    body = rest[: int(length)]
    # A length that is too short cuts the JSON; the rest of it is there.
    return (body, True) if len(rest) == int(length) or body.rstrip().endswith((b"}", b"]")) else (rest, True)


def _unchunked(data: bytes) -> tuple[bytes, bool | None]:
    body, at = bytearray(), 0
    while size := CHUNK_SIZE.match(data, at):
        length, at = int(size[1], 16), size.end()
        if length == 0:
            return bytes(body), True
        body += data[at : at + length]
        if len(data) < at + length:
            return bytes(body), False
        at += length
        at += 2 if data[at : at + 2] == b"\r\n" else 1 if data[at : at + 1] in (b"\r", b"\n") else 0
    if at >= len(data):
        return bytes(body), False
    # The sizes are wrong: without them, what is left is the content.
    return CHUNK_SIZES.sub(b"", data), None


def _undone(body: bytes, name: str, most: int) -> tuple[bytes, str | None]:
    if body.startswith(GZIP):
        return _inflated(body, 31, most, "gzip")
    if body.startswith(ZSTD):
        return _with_library(body, "zstd", most)
    if _is_zlib(body) or name == "deflate":
        window = zlib.MAX_WBITS if _is_zlib(body) else -zlib.MAX_WBITS
        content, wrong = _inflated(body, window, most, "deflate")
        as_it_is = not content or (wrong and PLAIN.match(body))
        return _as_it_is(body, name) if as_it_is else (content, wrong)
    return _with_library(body, "br", most) if name == "br" else _as_it_is(body, name)


def _as_it_is(body: bytes, name: str) -> tuple[bytes, str | None]:
    """Text that is labelled as something else."""
    if name in ("", "identity") or not body or PLAIN.match(body):
        return body, None
    return body, f"it is not the {name[:20]} that it says it is"


def _is_zlib(body: bytes) -> bool:
    return len(body) > 2 and body[0] & 0x8F == 8 and int.from_bytes(body[:2]) % 31 == 0


def _inflated(body: bytes, window: int, most: int, name: str) -> tuple[bytes, str | None]:
    inflater = zlib.decompressobj(window)
    content, whole = _in_pieces(body, most, inflater.decompress)
    if whole and inflater.eof and inflater.unused_data.startswith(GZIP):
        more, wrong = _inflated(inflater.unused_data, window, most - len(content), name)
        return content + more, wrong
    return content, None if whole and inflater.eof else f"its {name} is cut or broken"


def _with_library(body: bytes, name: str, most: int) -> tuple[bytes, str | None]:
    if not (HAS_BROTLI if name == "br" else HAS_ZSTD):
        wrong = f"it is encoded with {name}, which this installation cannot decode"
        return body, None if PLAIN.match(body) else wrong
    decompressor = BrotliDecompressor() if name == "br" else ZSTDDecompressor()
    content, whole = _in_pieces(body, most, decompressor.decompress_sync)
    if not content and not whole:
        return _as_it_is(body, name)
    return content, None if whole else f"its {name} is cut or broken"


def _in_pieces(body: bytes, most: int, decompress: Callable[[bytes, int], bytes]) -> tuple[bytes, bool]:
    """Decompress byte by byte, so that what comes before a fault is kept; whether there was none."""
    content = bytearray()
    for at in range(len(body)):
        try:
            content += decompress(body[at : at + 1], most + 1 - len(content))
        except Exception:  # noqa: BLE001 - each library has errors of its own
            return bytes(content), False
        if len(content) > most:
            return bytes(content), True
    return bytes(content), True
