"""What the bytes of a token endpoint mean: tokens in any encoding and nesting, and errors in anybody's words. Pure."""

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
from broker.providers import lives

NON_POSITIVE_LIFE = 60.0
OTHER_SCHEMES = {
    *("mac", "n_a", "hoba", "hok", "gnap", "signature", "basic", "digest", "negotiate", "hawk", "httpsig"),
    *("mutual", "scram", "vapid", "privatetoken"),
}
PROVEN = frozenset({"dpop", "pop", "hmac"})
"""Token types that a Bearer header would be wrong for, the latter anywhere in a name; N_A (RFC 8693) is no access token
at all."""
WHOLE_STRING = re.compile(r'"refresh_?[tT]oken"\s*:\s*"((?:[^"\\\x00-\x1f]|\\.){1,65536})"')
WHOLE_PAIR = re.compile(rb"(?:^|[&?\s])refresh_token=([^&\s\"'<>{}]{1,65536})[&\r\n]")
FORM = re.compile(r"[\s&?]*[\w.:%+\[\]-]{1,256}=[^<>\x00-\x09\x0b\x0c\x0e-\x1f]*", re.ASCII)
WRAPPED = re.compile(
    r"(?:\)\]\}',?|while\s*\(1\);|for\s*\(;;\);|[\w.$]{1,64}\()\s*(\{.*\})[\s);]*", re.ASCII | re.DOTALL
)
"""JSON in a call (QQ's `callback({…});`), or behind what keeps browsers from running it."""
BEHIND_TEXT = re.compile(r"(?:\{\}\s*&&)?[^{}]{0,4096}(\{.*\})[\s);*/]*", re.ASCII | re.DOTALL)
"""JSON behind a warning of PHP, `{}&&`, an assignment or the beginning of a comment."""
ELEMENT = re.compile(r"<([\w.:-]{1,64})(?:\s[^<>]*)?>(?:<!\[CDATA\[)?([^<>&]*?)(?:\]\]>)?</\1>", re.ASCII)
"""Of an answer in XML, as Salesforce and Concur can give."""
SCHEME = re.compile(r"bearer\s+(?=\S)", re.IGNORECASE)
SURROGATE = re.compile("[\ud800-\udfff]")
ERROR_MEMBERS = ("error", "code", "error_code")
DESCRIPTIONS = (
    *("error_description", "error_message", "description", "message"),
    *("msg", "reason", "detail", "resource"),
)
TOKEN_NAME = re.compile("(.*access|.*refresh|id|bearer|oauth|auth|jwt)?token|jwt")
BLAMES_OTHERS = frozenset({"server_error", "temporarily_unavailable", "invalid_client"})
"""Errors of the provider's state or of our client: beside one, nothing is concluded about the grant."""


class Unreadable(Exception):
    """A body that holds no token answer; the message says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class OAuthError:
    """An error answer of RFC 6749 5.2, or of a provider that speaks its own dialect."""

    error: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read one provider's token answers."""

    asked_scope: str = ""
    default_life: float = oauth.UNKNOWN_LIFE_TRUST
    default_is_stated: bool = False
    """An operator configured the default, so it counts as stated for a token that cannot be renewed."""
    renewable: bool = True
    """A refresh token is there even if this answer brings none."""
    token_pointer: str = ""
    token_type: str | None = None
    dead_errors: tuple[DeadError, ...] = ()


def parse_token_answer(body: bytes, reading: Reading, *, issued_at: float, forms: bool = True) -> TokenSet:
    """What a 2xx of a token endpoint gave; raises Unreadable only where it holds no usable token at all.

    A usable `access_token` or `refresh_token` is kept however odd its neighbours are; what was odd is flagged.
    Times are epoch seconds by our clock (R12): `created_at` and `Date` of the provider are ignored.
    """
    value = read_value(body, forms=forms)
    found = _tokens_of(value, reading.token_pointer)
    if found is None:
        if not isinstance(value, dict):
            raise Unreadable("the answer is JSON, but not an object")
        raise Unreadable("the answer holds neither an access token nor a refresh token")
    if isinstance(value, dict):
        # What is said around the tokens is said of them, and so is what an access token's own object says.
        own = _member(found, "access_token")
        found = {**(own if isinstance(own, dict) else {}), **value, **found}
    flags: list[str] = []
    access, refresh = _token(found, "access_token", flags), _token(found, "refresh_token", flags)
    if refresh is not None:
        reading = replace(reading, renewable=True)
    life = _life(found, access, reading, issued_at, flags)
    if access is None:
        # The successor is safe, but there is nothing to serve: due at once.
        flags.append("access_token_missing")
        life = 0.0
    refresh_life = lives.refresh_life(found, issued_at)
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
    """A whole `refresh_token` in a cut or broken 2xx body, or None."""
    text = prefix.replace(b"\x00", b"").decode("utf-8", "replace")
    value: Any = None
    if found := WHOLE_STRING.search(text):
        with suppress(ValueError):
            value = json.loads(f'"{found[1]}"')
    elif pair := WHOLE_PAIR.search(prefix):
        value = dict(_pairs(f"refresh_token={pair[1].decode('latin-1')}")).get("refresh_token")
    return Secret(value) if _storable(value) else None


def parse_error(body: bytes) -> OAuthError | None:
    """The OAuth error of an answer, or None where the body is not JSON with a string `error`."""
    try:
        answer = read_value(body, forms=False)
    except Unreadable:
        return None
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, str):
        return None
    description = answer.get("error_description")
    return OAuthError(error[:100], description[:300] if isinstance(description, str) else "")


def stated_errors(body: bytes) -> list[OAuthError]:
    """Every error that an answer states in a member `error`, `code` or `error_code`, at any depth, outermost first.

    Null, false, 0 and the empty string are no error; a list is none either, nor is a description.
    """
    try:
        value = read_value(body)
    except Unreadable:
        return []
    errors = []
    for one in _objects(value):
        for member in ERROR_MEMBERS:
            word = one.get(member)
            if isinstance(word, int | float) and not isinstance(word, bool) and word and math.isfinite(word):
                word = str(word)
            if isinstance(word, str) and word not in ("", "0"):
                texts = [text for name in DESCRIPTIONS if isinstance(text := one.get(name), str) and text]
                errors += [OAuthError(word, text) for text in texts or [""]]
    return errors


def refusal_in(body: bytes, dead_errors: tuple[DeadError, ...]) -> OAuthError | None:
    """The error of a whole answer that says that the grant is dead, exactly; None where it does not.

    A grant's life hangs on it: a body that holds a token anywhere is no refusal, and neither is one that blames the
    provider's own state.
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
    """Whether any member of an answer may be a token, also in JSON inside a string."""
    try:
        objects = list(_objects(read_value(body)))
    except Unreadable:
        return salvage_refresh_token(body) is not None
    return any(_may_be_token(name, value) for one in objects for name, value in one.items())


def _may_be_token(name: str, value: object) -> bool:
    plain = lives.plain_name(name)
    if plain in ("accesstoken", "refreshtoken") and _storable(value):
        return True
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        return holds_token(value.encode("utf-8", "replace"))
    texts = value if isinstance(value, list) else [_bare(value)]
    # A sentence about a token is none: `{"errors": {"refresh_token": ["It has expired."]}}`.
    return bool(TOKEN_NAME.fullmatch(plain)) and any(
        isinstance(text, str) and oauth.USABLE_TOKEN.fullmatch(text) for text in texts
    )


def error_texts(body: bytes) -> str:
    """All error sentences of a body, in any of the shapes that Kit and Kustomer use, for recognising words.

    Shapes: `errors` (strings, arrays or objects), then `error_description`, then `error` and `message`, else
    the plain text. For matching only; it is the provider's text and may hold anything.
    """
    try:
        answer = read_value(body, forms=False)
    except Unreadable:
        answer = None
    if not isinstance(answer, dict):
        return body[:1000].decode("utf-8", "replace")
    parts = [answer.get(key) for key in ("errors", "error_description", "error", "message")]
    return json.dumps([part for part in parts if part is not None])[:1000]


def read_value(body: bytes, *, forms: bool = True) -> Any:
    """A JSON object or array, in whatever Unicode or in Latin-1, or a form as an object; raises Unreadable.

    A token is ASCII, so a neighbour's encoding must not cost it.
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


def pointed(value: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901), or None where there is none."""
    try:
        for step in pointer.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return value


def text_at(body: bytes, pointer: str) -> str | None:
    """The text or number at a JSON pointer of a JSON body, as text and whole; None where there is none."""
    try:
        value = pointed(read_value(body, forms=False), pointer)
    except Unreadable:
        return None
    text = "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value).strip()
    return text if text and text.isprintable() else None


def _amid_text(text: str) -> object | None:
    """Tokens in XML, or in JSON behind text."""
    if text.startswith("<") and _has_token(
        elements := {name: value.strip() for name, value in ELEMENT.findall(text)}
    ):
        return elements
    ending = BEHIND_TEXT.fullmatch(text)
    value = _written(ending[1]) if ending else None
    return value if _tokens_of(value, "") else None


def _written(text: object) -> Any:
    """The value of a string that is JSON, or None."""
    if not isinstance(text, str) or text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return _ANSWERS.decode(text.strip())
    except (ValueError, RecursionError, OverflowError):
        return None


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value, outermost first."""
    level: list[Any] = [value]
    while level:
        yield from (one for one in level if isinstance(one, dict))
        inner = (
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)
        )
        level = list(chain.from_iterable(inner))


def _tokens_of(value: object, pointer: str) -> dict[str, Any] | None:
    """The object that holds the tokens: at the pointer, else the outermost; where several inner ones do, none."""
    if pointer:
        found = pointed(value, pointer)
        found = _written(found) or found
        if isinstance(found, dict) and _has_token(found):
            return found
        around = pointed(value, pointer.rpartition("/")[0])
        if _storable(found) and isinstance(around, dict):
            # The access token itself, under a name of the provider's own.
            return {**around, "access_token": found}
    if isinstance(value, dict) and _has_token(value):
        return value
    inner = [one for one in _objects(value) if _has_token(one)]
    if not inner:
        texts = [_written(text) for one in _objects(value) for text in one.values()]
        inner = [one for one in _objects(texts) if _has_token(one)]
    return inner[0] if len(inner) == 1 else None


def _has_token(answer: Mapping[str, Any]) -> bool:
    return any(_storable(_bare(_member(answer, name))) for name in ("access_token", "refresh_token"))


def _bare(value: Any) -> Any:
    """A token that is alone in a list, or named again in an object of its own."""
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    if isinstance(value, dict):
        return next((value[name] for name in ("token", "value") if name in value), None)
    return value


def _member(answer: Mapping[str, Any], name: str) -> Any:
    """A member by its name, or by that in another spelling: `accessToken`, `Access-Token`."""
    if name in answer:
        return answer[name]
    plain = lives.plain_name(name)
    return next((value for other, value in answer.items() if lives.plain_name(other) == plain), None)


def _pairs(text: str) -> list[tuple[str, str]]:
    """The fields of a form, also on lines of their own; the last name of `data[access_token]`, and no quotes."""
    text = re.sub(r"[\r\n]+", "&", text.strip().lstrip("&?"))
    pairs = parse_qsl(text, keep_blank_values=True, separator="&" if "&" in text else ";")
    found = []
    for name, value in pairs:
        last = name.removesuffix("]").rpartition("[")[2] or name if name.endswith("]") else name
        bare = value.strip('"')
        # No token holds a blank, so this was a `+` that nobody encoded.
        is_token = lives.plain_name(last).endswith("token")
        found.append((last, bare.replace(" ", "+") if is_token else bare))
    return found


def _members(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The last of repeated members counts, but an empty repetition must not cost a token."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if _storable(value) or not _storable(members.get(name)):
            members[name] = value
    return members


def _storable(value: object) -> bool:
    """Whether it is a text, not blank and without a lone surrogate, which no store takes."""
    return isinstance(value, str) and bool(value.strip()) and not SURROGATE.search(value)


_ANSWERS = json.JSONDecoder(
    strict=False,
    object_pairs_hook=_members,
    parse_constant=lambda _: None,
    # Python refuses integers of more than 4,300 digits; a neighbour's digits must not cost the token.
    parse_int=lambda digits: int(digits) if len(digits) < 300 else math.inf,
)


def _token(answer: Mapping[str, Any], member: str, flags: list[str]) -> Secret | None:
    value = _bare(_member(answer, member))
    if _storable(value):
        # A refresh token goes back as it came; around an access token a header could carry none of this.
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
    """The shortest life that the answer states; without one, the default, or none where the token cannot be renewed."""
    stated = dict(lives.stated_lives(answer, access.reveal() if access else None, issued_at))
    positive = [seconds for seconds in stated.values() if seconds > 0]
    if not reading.renewable and positive and min(positive) > lives.MOST_LIFE:
        # The year 9999, or 2**31 - 1 seconds: nobody who renews nothing means an end by that.
        flags.append("expires_in_clamped")
        return min(reading.default_life, lives.MOST_LIFE) if reading.default_is_stated else ENDLESS
    if positive:
        most = oauth.MAX_LIFE if reading.renewable else lives.MOST_LIFE
        if min(positive) > most:
            flags.append("expires_in_clamped")
        return min(*positive, most)
    # A past end is one; a duration of zero or less says that there is none.
    ended = any(seconds < 0 for seconds in stated.values())
    if stated:
        flags.append("expires_in_not_positive")
    else:
        flags.append("expires_in_unreadable" if "expires_in" in answer else "expires_in_missing")
    if not reading.renewable and not ended:
        return min(reading.default_life, lives.MOST_LIFE) if reading.default_is_stated else ENDLESS
    return NON_POSITIVE_LIFE if stated else min(reading.default_life, oauth.UNKNOWN_LIFE_TRUST)


def _token_type(value: object, flags: list[str]) -> str:
    """Bearer, unless another scheme is really meant: `BearerToken`, `jwt` and nonsense are names for the same."""
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
