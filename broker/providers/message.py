"""Read an HTTP/1 answer that the HTTP library rejected, and undo content codings that were not asked for. No I/O.

The tokens of an answer may exist nowhere else, so faulty headers or codings must not lose them.
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
"""The beginning of JSON and forms."""
MOST_CODINGS = 4


@dataclass(frozen=True, slots=True)
class Message:
    """An HTTP answer, read as tolerantly as possible."""

    status: int | None
    """None if there is no status line."""
    headers: dict[str, str] = field(repr=False)
    """Names in lower case, with the first value of repeated ones."""
    body: bytes = field(repr=False)
    framed: bool | None
    """True if the body is complete by its length or last chunk; None if it states no end."""


def read_message(raw: bytes) -> Message:
    """Read the last answer in `raw`, after any informational ones."""
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
    headers: dict[str, str] = {}
    lengths = set()
    for field_line in re.split(rb"[\r\n]+", head)[1:]:
        name, colon, value = field_line.partition(b":")
        if colon:
            name = name.strip().lower()
            headers.setdefault(name.decode("latin-1"), value.strip().decode("latin-1"))
            if name == b"content-length":
                lengths |= {one.strip() for one in value.split(b",")}
    if end is None:
        return Message(status, headers, b"", False)
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return Message(status, headers, *_unchunked(rest))
    length = lengths.pop() if len(lengths) == 1 else b""
    if not re.fullmatch(rb"\d{1,9}", length):
        return Message(status, headers, rest, None)
    body = rest[: int(length)]
    # Too small a length cuts JSON, but the rest of it is there.
    is_cut = len(rest) > len(body) and not body.rstrip().endswith((b"}", b"]"))
    return Message(status, headers, rest if is_cut else body, len(rest) >= int(length))


def decoded(body: bytes, codings: str, most: int) -> tuple[bytes, str | None]:
    """Undo `Content-Encoding`. Return at most about `most` bytes of content, and a problem in words, or None.

    The first bytes decide, not the header: a body that is not encoded is returned as it is.
    """
    names = [name.strip().lower().removeprefix("x-") for name in codings.split(",") if name.strip()]
    problem: str | None = None
    for name in [*reversed(names[:MOST_CODINGS]), ""]:
        body, wrong = _undone(body, name, most)
        problem = problem or wrong
    return body, problem


def unchunked(body: bytes, coding: str) -> bytes:
    """Undo chunks that were left in a body because `Transfer-Encoding` named another coding too."""
    return _unchunked(body)[0] if "chunked" in coding.lower() and CHUNK_SIZE.match(body) else body


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
    # The sizes are wrong, so remove the lines with sizes.
    return CHUNK_SIZES.sub(b"", data), None


def _undone(body: bytes, name: str, most: int) -> tuple[bytes, str | None]:
    if body.startswith(GZIP):
        return _inflated(body, 31, most, "gzip")
    if body.startswith(ZSTD):
        return _with_library(body, "zstd", most)
    is_zlib = len(body) > 2 and body[0] & 0x8F == 8 and int.from_bytes(body[:2]) % 31 == 0
    if is_zlib or name == "deflate":
        window = zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
        content, wrong = _inflated(body, window, most, "deflate")
        is_encoded = content and not (wrong and PLAIN.match(body))
        return (content, wrong) if is_encoded else _unencoded(body, name)
    return _with_library(body, "br", most) if name == "br" else _unencoded(body, name)


def _unencoded(body: bytes, name: str) -> tuple[bytes, str | None]:
    """Return text that is labelled as encoded."""
    if name in ("", "identity") or not body or PLAIN.match(body):
        return body, None
    return body, f"it is not the {name[:20]} that it says it is"


def _inflated(body: bytes, window: int, most: int, name: str) -> tuple[bytes, str | None]:
    inflater = zlib.decompressobj(window)
    content, is_sound = _in_pieces(body, most, inflater.decompress)
    if is_sound and inflater.eof and inflater.unused_data.startswith(GZIP):
        more, wrong = _inflated(inflater.unused_data, window, most - len(content), name)
        return content + more, wrong
    return content, None if is_sound and inflater.eof else f"its {name} is cut or broken"


def _with_library(body: bytes, name: str, most: int) -> tuple[bytes, str | None]:
    if not (HAS_BROTLI if name == "br" else HAS_ZSTD):
        wrong = f"it is encoded with {name}, which this installation cannot decode"
        return body, None if PLAIN.match(body) else wrong
    decompressor = BrotliDecompressor() if name == "br" else ZSTDDecompressor()
    content, is_sound = _in_pieces(body, most, decompressor.decompress_sync)
    if not content and not is_sound:
        return _unencoded(body, name)
    return content, None if is_sound else f"its {name} is cut or broken"


def _in_pieces(body: bytes, most: int, decompress: Callable[[bytes, int], bytes]) -> tuple[bytes, bool]:
    """Decompress byte by byte to keep what comes before a fault. Return the content, and False if there was one."""
    content = bytearray()
    for at in range(len(body)):
        try:
            content += decompress(body[at : at + 1], most + 1 - len(content))
        except Exception:  # noqa: BLE001 - each library has errors of its own
            return bytes(content), False
        if len(content) > most:
            break
    return bytes(content), True
