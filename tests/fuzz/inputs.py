"""What is generated: JSON that is nearly right, addresses, records; and how each is damaged."""

import json
import random
from typing import Any

from hypothesis import strategies as st

CANARY = "canary-90aa31"
OURS = (
    "provider",
    "account",
    "return_to",
    "rejected_generation",
    "replace",
    "expires_in",
    "accounts",
    "permissions",
)
THEIRS = (
    "access_token",
    "refresh_token",
    "token_type",
    "scope",
    "error",
    "error_description",
    "errors",
    "message",
)
WORDS = (*OURS, *THEIRS, "created_at")
ODD_TEXTS = (
    "",
    " ",
    "bearer",
    "invalid_grant",
    "invalid_client",
    "Invalid Client",
    CANARY,
    "7200",
    "-1",
    "1e999",
    "a\r\nb",
    "\x00",
    "\ud800",
    "kit",
    "https://app.kit.com/apps",
    "x" * 9000,
)
ODD_NUMBERS = (0, -1, 2**53, 2**63, 2**64, 10**25, 10**400, 1e308, float("inf"), float("nan"))
texts = st.one_of(st.text(max_size=12), st.sampled_from(ODD_TEXTS))
leaves = st.one_of(texts, st.integers(), st.floats(), st.booleans(), st.none(), st.sampled_from(ODD_NUMBERS))
values = st.one_of(
    leaves,
    st.lists(leaves, max_size=3),
    st.dictionaries(st.sampled_from(WORDS), leaves, max_size=3),
)
objects = st.dictionaries(st.one_of(st.sampled_from(WORDS), texts), values, max_size=6)


def _as_json(value: Any) -> bytes:
    """With NaN and infinities as they are."""
    return json.dumps(value).encode()


def _as_raw_json(value: Any) -> bytes:
    """With lone surrogates as no decoder likes them."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


known = st.dictionaries(st.sampled_from(OURS), values, min_size=1, max_size=2)
grants = st.fixed_dictionaries(
    {"access_token": texts},
    optional={"refresh_token": texts, "expires_in": leaves, "token_type": values, "scope": values},
)
refusals = st.fixed_dictionaries({"error": texts}, optional={"error_description": texts, "errors": values})
bodies = st.one_of(
    known.map(_as_json),
    grants.map(_as_json),
    refusals.map(_as_json),
    objects.map(_as_json),
    objects.map(_as_raw_json),
    values.map(_as_json),
    st.binary(max_size=60),
)
BITS = (
    b'"',
    b"{",
    b"[" * 5000,
    b'{"a":' * 2000,
    b"}",
    b"]",
    b":",
    b"\\u0000",
    b"\\ud83d",
    b"\\",
    b",",
    b"\xef\xbb\xbf",
    b"9" * 5000,
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"e400",
    b'"refresh_token":"x",',
    b'"expires_in":',
    b"\xff",
    b"\xed\xa0\x80",
    b"\x00",
    b"\r\n",
    b"%00",
    b"%",
    b"&",
    b";",
    b"=",
    b" ",
)


def damaged(chance: random.Random, data: bytes) -> bytes:
    """One to four cuts, insertions, repetitions and changes."""
    for _ in range(chance.randint(1, 4)):
        # What a parser meets first it is not yet prepared for.
        at, to = chance.choice((0, chance.randint(0, len(data)))), chance.randint(0, 6)
        match chance.randrange(5):
            case 0:
                data = data[:at] + chance.choice(BITS) + data[at:]
            case 1:
                data = data[:at] + data[at + to :]
            case 2:
                data = data[:at] + chance.randbytes(to) + data[at + to :]
            case 3:
                data = data[:at] + data[at // 2 : at] + data[at:]
            case _:
                data = data[:at]
    return data


def damaged_text(chance: random.Random, text: str) -> str:
    """The same for text; what is no UTF-8 any more comes as aiohttp gives it, in surrogates."""
    return damaged(chance, text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogateescape")


ADDRESS_PIECES = [
    "https://",
    "http://",
    "HTTPS:",
    "//",
    "/",
    "\\",
    "app.kit.com",
    "app.kit.com.",
    "evil.example",
    "@",
    ":",
    ":443",
    "/apps",
    "/apps/",
    "/apps/717",
    "..",
    "/..",
    "/./",
    "%2e",
    "%2E%2e",
    "%2f",
    "%5c",
    "%252e",
    "?",
    "#",
    "&",
    "redirect=",
    "%09",
    "%00",
    ";",
    "\t",
    "\n",
    "\u3002",
    "\uff0f",
    "\u0430pp",
]
PATH_PIECES = ["/717", "/..", "/../", "/.", "/%2e%2e", "/.%2E", "%2f..", "\\", "\\..", "?x=1", "#x", "@", "x"]
pieces = st.lists(st.one_of(st.text(max_size=4), st.sampled_from(ADDRESS_PIECES)), max_size=8).map("".join)
tails = st.lists(st.sampled_from(PATH_PIECES), max_size=5).map("".join)
addresses = st.one_of(
    pieces,
    pieces.map(lambda tail: "https://app.kit.com/apps" + tail),
    tails.map(lambda tail: "https://app.kit.com/apps" + tail),
)
queries = st.one_of(addresses, addresses.map(lambda url: "redirect=" + url))


def damaged_address(chance: random.Random, text: str) -> str:
    """Pieces of addresses go in as well."""
    at = chance.randint(0, len(text))
    if chance.random() < 0.7:
        return text[:at] + chance.choice((*ADDRESS_PIECES, *PATH_PIECES)) + text[at + chance.randint(0, 3) :]
    return damaged_text(chance, text)
