"""Read the answers of token endpoints: tokens in any encoding and nesting, errors in any dialect. No I/O."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl

from broker import oauth
from broker.config.settings import DeadError
from broker.model import ENDLESS, Secret, TokenSet
from broker.providers import lifetimes

NON_POSITIVE_LIFE = 60.0
OTHER_SCHEMES = {
    *("mac", "n_a", "hoba", "hok", "gnap", "signature", "basic", "digest", "negotiate", "hawk", "httpsig"),
    *("mutual", "scram", "vapid", "privatetoken"),
}
"""Token types that are not Bearer, as the first word of a name; N_A (RFC 8693) is not an access token at all."""
PROVEN = frozenset({"dpop", "pop", "hmac"})
"""Token types that are not Bearer, as any word of a name."""
WHOLE_STRING = re.compile(r'"refresh_?[tT]oken"\s*:\s*"((?:[^"\\\x00-\x1f]|\\.){1,65536})"')
WHOLE_PAIR = re.compile(rb"(?:^|[&?\s])refresh_token=([^&\s\"'<>{}]{1,65536})[&\r\n]")
FORM = re.compile(r"[\s&?]*[\w.:%+\[\]-]{1,256}=[^<>\x00-\x09\x0b\x0c\x0e-\x1f]*", re.ASCII)
WRAPPED = re.compile(
    r"(?:\)\]\}',?|while\s*\(1\);|for\s*\(;;\);|[\w.$]{1,64}\()\s*(\{.*\})[\s);]*", re.ASCII | re.DOTALL
)
"""JSON in a call (QQ's `callback({…});`), or after a prefix that keeps browsers from running it."""
BEHIND_TEXT = re.compile(r"(?:\{\}\s*&&)?[^{}]{0,4096}(\{.*\})[\s);*/]*", re.ASCII | re.DOTALL)
"""JSON after a warning of PHP, `{}&&`, an assignment or the beginning of a comment."""
ELEMENT = re.compile(r"<([\w.:-]{1,64})(?:\s[^<>]*)?>(?:<!\[CDATA\[)?([^<>&]*?)(?:\]\]>)?</\1>", re.ASCII)
"""An element of an answer in XML, which Salesforce and Concur can send."""
SCHEME = re.compile(r"bearer\s+(?=\S)", re.IGNORECASE)
SURROGATE = re.compile("[\ud800-\udfff]")
ERROR_MEMBERS = ("error", "code", "error_code")
DESCRIPTIONS = (
    *("error_description", "error_message", "description", "message"),
    *("msg", "reason", "detail", "resource"),
)
TOKEN_NAME = re.compile("(.*access|.*refresh|id|bearer|oauth|auth|jwt)?token|jwt")
BLAMES_OTHERS = frozenset({"server_error", "temporarily_unavailable", "invalid_client"})
"""Errors of the provider or of our client. In an answer with one of them, no other error ends the grant."""


class Unreadable(Exception):
    """The body is not a token answer; the message says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class OAuthError:
    """An error of RFC 6749 5.2, or of a provider's own dialect."""

    error: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings for reading one provider's token answers."""

    asked_scope: str = ""
    default_life: float = oauth.UNKNOWN_LIFE_TRUST
    default_is_stated: bool = False
    """True if an operator configured the default; then it also limits a token that cannot be renewed."""
    renewable: bool = True
    """True if there is a refresh token even if the answer has none."""
    token_pointer: str = ""
    token_type: str | None = None
    dead_errors: tuple[DeadError, ...] = ()


def parse_token_answer(body: bytes, reading: Reading, *, issued_at: float, forms: bool = True) -> TokenSet:
    """Return the tokens in a 2xx answer. Raises Unreadable only if it holds no usable token at all.

    Other members may be malformed; each problem is added to `flags`. Times are epoch seconds by our clock (R12):
    `created_at` and `Date` of the provider are ignored.
    """
    value = read_value(body, forms=forms)
    found = _tokens_of(value, reading.token_pointer)
    if found is None:
        if not isinstance(value, dict):
            raise Unreadable("the answer is JSON, but not an object")
        raise Unreadable("the answer holds neither an access token nor a refresh token")
    if isinstance(value, dict):
        # Members around the tokens, and in an access token's own object, apply to the tokens too.
        own = _member(found, "access_token")
        found = {**(own if isinstance(own, dict) else {}), **value, **found}
    flags: list[str] = []
    access, refresh = _token(found, "access_token", flags), _token(found, "refresh_token", flags)
    if refresh is not None:
        reading = replace(reading, renewable=True)
    life = _life(found, access, reading, issued_at, flags)
    if access is None:
        # The new refresh token is kept, but there is no access token to serve, so a renewal is due now.
        flags.append("access_token_missing")
        life = 0.0
    refresh_life = lifetimes.refresh_lifetime(found, issued_at)
    return TokenSet(
        access_token=access,
        refresh_token=refresh,
        token_type=reading.token_type or _token_type(_member(found, "token_type"), flags),
        scope=_scope(_member(found, "scope"), reading.asked_scope, flags),
        issued_at=issued_at,
        expires_at=issued_at + life,
        flags=tuple(flags),
        refresh_expires_at=None if refresh_life is None else issued_at + refresh_life,
    )


def salvage_refresh_token(prefix: bytes) -> Secret | None:
    """Return a complete `refresh_token` in a truncated or malformed 2xx body, or None."""
    text = prefix.replace(b"\x00", b"").decode("utf-8", "replace")
    value: Any = None
    if found := WHOLE_STRING.search(text):
        with suppress(ValueError):
            value = json.loads(f'"{found[1]}"')
    elif pair := WHOLE_PAIR.search(prefix):
        value = dict(_pairs(f"refresh_token={pair[1].decode('latin-1')}")).get("refresh_token")
    return Secret(value) if _storable(value) else None


def parse_error(body: bytes) -> OAuthError | None:
    """Return the OAuth error of an answer, or None if the body is not JSON with a string `error`."""
    answer = _value_or_none(body, forms=False)
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, str):
        return None
    description = answer.get("error_description")
    return OAuthError(error[:100], description[:300] if isinstance(description, str) else "")


def stated_errors(body: bytes) -> list[OAuthError]:
    """Return every error in a member `error`, `code` or `error_code` at any depth, outermost first.

    Null, false, 0, the empty string, lists and descriptions are not errors.
    """
    errors = []
    for one in _objects(_value_or_none(body)):
        for member in ERROR_MEMBERS:
            word = one.get(member)
            if isinstance(word, int | float) and not isinstance(word, bool) and word and math.isfinite(word):
                word = str(word)
            if isinstance(word, str) and word not in ("", "0"):
                texts = [text for name in DESCRIPTIONS if isinstance(text := one.get(name), str) and text]
                errors += [OAuthError(word, text) for text in texts or [""]]
    return errors


def refusal_in(body: bytes, dead_errors: tuple[DeadError, ...]) -> OAuthError | None:
    """Return the error of a complete answer that exactly matches one of `dead_errors`, or None.

    A match may end a grant, so an answer with a token in it, or with an error of BLAMES_OTHERS, does not count.
    """
    errors = stated_errors(body)
    if any(one.error in BLAMES_OTHERS for one in errors) or holds_token(body):
        return None
    for said in errors:
        for dead in dead_errors:
            if said.error == dead.error and dead.description in ("", said.description):
                return said
    return None


def holds_token(body: bytes) -> bool:
    """Return whether any member of an answer may be a token, also in JSON inside a string."""
    try:
        objects = list(_objects(read_value(body)))
    except Unreadable:
        return salvage_refresh_token(body) is not None
    return any(_may_be_token(name, value) for one in objects for name, value in one.items())


def _may_be_token(name: str, value: object) -> bool:
    plain = lifetimes.plain_name(name)
    if plain in ("accesstoken", "refreshtoken") and _storable(value):
        return True
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        return holds_token(value.encode("utf-8", "replace"))
    texts = value if isinstance(value, list) else [_bare(value)]
    # A sentence about a token is not a token: `{"errors": {"refresh_token": ["It has expired."]}}`.
    return bool(TOKEN_NAME.fullmatch(plain)) and any(
        isinstance(text, str) and oauth.USABLE_TOKEN.fullmatch(text) for text in texts
    )


def error_texts(body: bytes) -> str:
    """Return all error sentences of a body, in any form that Kit and Kustomer use, to search for words in them.

    These are `errors` (strings, arrays or objects), `error_description`, `error` and `message`, else the plain
    text. It is the provider's text and may hold anything.
    """
    answer = _value_or_none(body, forms=False)
    if not isinstance(answer, dict):
        return body[:1000].decode("utf-8", "replace")
    parts = [answer.get(key) for key in ("errors", "error_description", "error", "message")]
    return json.dumps([part for part in parts if part is not None])[:1000]


def read_value(body: bytes, *, forms: bool = True) -> Any:
    """Return a JSON value in any Unicode encoding or Latin-1, or a form as an object. Raises Unreadable.

    A token is ASCII, so the encoding of other members must not lose it.
    """
    problem = ""
    for encoding in dict.fromkeys(("utf-8-sig", json.detect_encoding(body), "latin-1")):
        try:
            text = body.decode(encoding).strip("\ufeff\x00 \t\r\n")
        except UnicodeError as exc:
            problem = problem or type(exc).__name__
            continue
        try:
            wrapped = WRAPPED.fullmatch(text)
            value = _ANSWERS.decode(wrapped[1] if wrapped else text)
            # JSON in a JSON string, of servers that encode twice.
            return _ANSWERS.decode(value) if isinstance(value, str) and value.strip()[:1] == "{" else value
        except (ValueError, RecursionError, OverflowError) as exc:
            if forms and FORM.fullmatch(text):
                return _members(_pairs(text))
            if forms and (found := _amid_text(text)) is not None:
                return found
            problem = problem or type(exc).__name__
    raise Unreadable(f"the answer is not JSON ({problem})")


def _value_or_none(body: bytes, *, forms: bool = True) -> Any:
    try:
        return read_value(body, forms=forms)
    except Unreadable:
        return None


def pointed(value: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer (RFC 6901), or None."""
    try:
        for step in pointer.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return value


def text_at(body: bytes, pointer: str) -> str | None:
    """Return the printable text or the integer at a JSON pointer of a JSON body, as text; None if there is none."""
    value = pointed(_value_or_none(body, forms=False), pointer)
    text = "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value).strip()
    return text if text and text.isprintable() else None


def _amid_text(text: str) -> object | None:
    """Return the tokens in XML, or in JSON after other text."""
    elements = {name: value.strip() for name, value in ELEMENT.findall(text)} if text[:1] == "<" else {}
    if _has_token(elements):
        return elements
    ending = BEHIND_TEXT.fullmatch(text)
    value = _json_in(ending[1]) if ending else None
    return value if _tokens_of(value, "") else None


def _json_in(text: object) -> Any:
    """Return the value of a string that is a JSON object or array, or None."""
    if not isinstance(text, str) or text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return _ANSWERS.decode(text.strip())
    except (ValueError, RecursionError, OverflowError):
        return None


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value, outermost first."""
    level: list[Any] = [value]
    while level:
        yield from (one for one in level if isinstance(one, dict))
        inner = (
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)
        )
        level = list(chain.from_iterable(inner))


def _tokens_of(value: object, pointer: str) -> dict[str, Any] | None:
    """Return the object that holds the tokens: at the pointer, else the outermost one, else the only inner one."""
    if pointer:
        found = pointed(value, pointer)
        found = _json_in(found) or found
        if isinstance(found, dict) and _has_token(found):
            return found
        around = pointed(value, pointer.rpartition("/")[0])
        if _storable(found) and isinstance(around, dict):
            # The pointer leads to the access token itself, under a name of the provider's own.
            return {**around, "access_token": found}
    if isinstance(value, dict) and _has_token(value):
        return value
    inner = [one for one in _objects(value) if _has_token(one)]
    if not inner:
        texts = [_json_in(text) for one in _objects(value) for text in one.values()]
        inner = [one for one in _objects(texts) if _has_token(one)]
    return inner[0] if len(inner) == 1 else None


def _has_token(answer: Mapping[str, Any]) -> bool:
    return any(_storable(_bare(_member(answer, name))) for name in ("access_token", "refresh_token"))


def _bare(value: Any) -> Any:
    """Return a token that is the only item of a list, or a member of an object of its own."""
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    if isinstance(value, dict):
        return next((value[name] for name in ("token", "value") if name in value), None)
    return value


def _member(answer: Mapping[str, Any], name: str) -> Any:
    """Return a member by its name, also in another spelling such as `accessToken` or `Access-Token`."""
    if name in answer:
        return answer[name]
    plain = lifetimes.plain_name(name)
    return next((value for other, value in answer.items() if lifetimes.plain_name(other) == plain), None)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Return the fields of a form, also one a line: without quotes, and `data[access_token]` as `access_token`."""
    text = re.sub(r"[\r\n]+", "&", text.strip().lstrip("&?"))
    found = []
    for name, value in parse_qsl(text, keep_blank_values=True, separator="&" if "&" in text else ";"):
        last = name.removesuffix("]").rpartition("[")[2] or name if name.endswith("]") else name
        bare = value.strip('"')
        # A token has no blanks, so this is a `+` that was not encoded.
        is_token = lifetimes.plain_name(last).endswith("token")
        found.append((last, bare.replace(" ", "+") if is_token else bare))
    return found


def _members(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object. The last of repeated members counts, except that an empty one does not replace a text."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if _storable(value) or not _storable(members.get(name)):
            members[name] = value
    return members


def _storable(value: object) -> bool:
    """Return whether it is a text, not blank, and without a lone surrogate, which cannot be stored."""
    return isinstance(value, str) and bool(value.strip()) and not SURROGATE.search(value)


_ANSWERS = json.JSONDecoder(
    strict=False,
    object_pairs_hook=_members,
    parse_constant=lambda _: None,
    # Python rejects integers of more than 4,300 digits, and such a member must not lose the token.
    parse_int=lambda digits: int(digits) if len(digits) < 300 else math.inf,
)


def _token(answer: Mapping[str, Any], member: str, flags: list[str]) -> Secret | None:
    value = _bare(_member(answer, member))
    if _storable(value):
        # A refresh token is sent back unchanged; an access token goes into a header, without blanks and scheme.
        return Secret(SCHEME.sub("", value.strip(), count=1) if member == "access_token" else value)
    if value not in (None, ""):
        flags.append(f"{member}_unusable")
    return None


def _life(
    answer: Mapping[str, Any],
    access: Secret | None,
    reading: Reading,
    issued_at: float,
    flags: list[str],
) -> float:
    """Return the shortest lifetime stated, else the default, or ENDLESS if the token cannot be renewed."""
    stated = dict(lifetimes.stated_lifetimes(answer, access.reveal() if access else None, issued_at))
    positive = [seconds for seconds in stated.values() if seconds > 0]
    if not reading.renewable and positive and min(positive) > lifetimes.MOST_LIFE:
        # The year 9999, or 2**31 - 1 seconds: from a provider without renewals this means no end.
        flags.append("expires_in_clamped")
        return min(reading.default_life, lifetimes.MOST_LIFE) if reading.default_is_stated else ENDLESS
    if positive:
        most = oauth.MAX_LIFE if reading.renewable else lifetimes.MOST_LIFE
        if min(positive) > most:
            flags.append("expires_in_clamped")
        return min(*positive, most)
    # An end in the past counts as expired; a duration of zero or less means no end.
    ended = any(seconds < 0 for seconds in stated.values())
    if stated:
        flags.append("expires_in_not_positive")
    else:
        flags.append("expires_in_unreadable" if "expires_in" in answer else "expires_in_missing")
    if not reading.renewable and not ended:
        return min(reading.default_life, lifetimes.MOST_LIFE) if reading.default_is_stated else ENDLESS
    return NON_POSITIVE_LIFE if stated else min(reading.default_life, oauth.UNKNOWN_LIFE_TRUST)


def _token_type(value: object, flags: list[str]) -> str:
    """Return Bearer, also for `BearerToken`, `jwt` and nonsense, unless the name is that of another scheme."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    name = value.strip() if isinstance(value, str) else ""
    if value is None or (isinstance(value, str) and name.lower() in ("", "bearer")):
        return "Bearer"
    flags.append("token_type_unknown")
    words = re.findall(r"n_a|[a-z0-9]+", name.lower())
    if words and "bearer" not in words and (words[0] in OTHER_SCHEMES or PROVEN & set(words)):
        return name[:32] if oauth.USABLE_TOKEN.fullmatch(name) else "unknown"
    return "Bearer"


def _scope(value: object, asked: str, flags: list[str]) -> str | None:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = " ".join(value)
    if not isinstance(value, str) or not _storable(value):
        return None
    granted, wanted = oauth.scope_set(value), oauth.scope_set(asked)
    if wanted - granted:
        flags.append("scope_reduced")
    if wanted and granted - wanted:
        flags.append("scope_grown")
    return " ".join(value.split())[:4096]
