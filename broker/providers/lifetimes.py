"""Read how long a token is valid, under every name and in every form that providers use. No I/O.

RFC 6749 knows `expires_in` alone. Other names and forms are those that client libraries have met:
`expires` as a duration or an epoch (league/oauth2-client), `expires_at` (Square, Strava), `expires_on` as an epoch or
a date (Azure), `expiry_date` in milliseconds (Google's clients), `.expires` as an HTTP date (ASP.NET's OWIN),
`expiry` in ISO 8601 (Go's oauth2), `expires_in_sec` (Zoho), `accessTokenExpiresIn` (camel-case APIs).
"""

import base64
import binascii
import email.utils
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MOST_LIFE = 3660 * 86400.0
"""Ten years in seconds; a larger number is not a duration."""
STATED = re.compile(
    "(x|oauth|access|bearer|accesstoken|oauthtoken|bearertoken|token)?"
    "((expir(e|es|ed|y|ing|ation)(in|at|on|after|date|time|datetime|timestamp|sec)?|exp|validuntil|validto|validtill"
    "|validthrough|notafter)(utc)?"
    "|ttl|lifetime|timetolive|maxage|validity|validityperiod|validfor|remindin|secondsto(expiry|expire))"
    "(in)?(s|sec|secs|seconds|ms|millis|milliseconds|minutes|hours|days)?"
)
"""Names for the access token's life or end, without case and punctuation. Not `ext_expires_in` (Microsoft's for an
outage), and nothing that says refresh, id or code."""
REFRESH_STATED = (
    "refreshtokenexpiresin",
    "refreshexpiresin",
    "xrefreshtokenexpiresin",
    "refreshtokenexpiresat",
)
"""Names for the lifetime of a refresh token: Google and GitHub, Keycloak, Intuit, Square."""
MOST_EPOCH = 253402300800.0
"""An epoch from here on counts milliseconds or less. In seconds it is the end of the year 9999, which means never."""
SKEW = 86400.0
DURATION = re.compile(
    ".*((in|after|for|ttl|lifetime|timetolive|maxage|validity|validityperiod|secondsto(expiry|expire))"
    "(s|sec|secs|seconds|ms|millis|milliseconds)?|minutes|hours|days)"
)
UNIT_OF_NAME = re.compile(".*?(ms|millis|milliseconds|minutes|hours|days)")
UNITS = {
    unit: seconds
    for seconds, units in (
        (0.001, ("ms", "milli", "millisecond")),
        (1.0, ("", "s", "sec", "second")),
        (60.0, ("m", "min", "minute")),
        (3600.0, ("h", "hr", "hour")),
        (86400.0, ("d", "day")),
    )
    for unit in units
}
NUMBER = re.compile(r"([+-]?(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,40})(?:\.\d{0,9})?) ?([a-z]*)", re.ASCII)
WCF_DATE = re.compile(r"\\?/Date\((-?\d{1,17})(?:[+-]\d{4})?\)\\?/", re.ASCII)
SPAN = re.compile(r"P?(?:(\d{1,5})D)?T?(?:(\d{1,5})H)?(?:(\d{1,6})M)?(?:(\d{1,9})(?:\.\d+)?S)?", re.ASCII)
CLOCK = re.compile(r"(?:(\d{1,5})\.)?(\d\d):(\d\d):(\d\d)(?:\.\d+)?", re.ASCII)
"""Durations: `PT1H` (ISO 8601), `1h30m` (Go), `01:00:00` (.NET)."""
US_DATE = re.compile(
    r"(\d\d?)/(\d\d?)/(\d{4}),? (\d\d?):(\d\d):(\d\d) ?(AM|PM)?(?: ?\+00:00| UTC)?", re.ASCII
)
TWELVE_HOURS = re.compile(
    r"(\w{1,9}) (\w{1,9}),? (\d{4}),? (\d\d?):(\d\d(?::\d\d)?)\s([AP]M)(?: (?:UTC|GMT))?", re.IGNORECASE
)


def plain_name(name: str) -> str:
    """Return a member's name without case and punctuation, so that `accessToken` and `access_token` are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def stated_lifetimes(
    answer: Mapping[str, Any], token: str | None, issued_at: float
) -> Iterator[tuple[str, float]]:
    """Yield every lifetime that the answer states: the member's name, and seconds from `issued_at`."""
    for name, value in answer.items():
        plain = plain_name(name)
        if STATED.fullmatch(plain):
            is_end = not DURATION.fullmatch(plain)
            unit = None if is_end else UNIT_OF_NAME.fullmatch(plain)
            told = _stated(value)
            number = as_number(told) if unit else None
            if unit and number is not None and str(told).strip().strip("+-.0123456789") == "":
                told = number * (_seconds_of(unit[1]) or 1.0)
            seconds = seconds_until(told, issued_at, is_end=is_end)
            if seconds is not None:
                yield name, seconds
    claimed = None if token is None else _claimed_lifetime(token, issued_at)
    if claimed is not None:
        yield "exp", claimed


def refresh_lifetime(answer: Mapping[str, Any], issued_at: float) -> float | None:
    """Return the stated lifetime of the refresh token in seconds, or None. Zero means no end at some providers."""
    named = {plain_name(name): value for name, value in answer.items()}
    for name in REFRESH_STATED:
        seconds = seconds_until(named.get(name), issued_at, is_end=name.endswith("at"))
        if seconds is not None and 0 < seconds <= 5 * MOST_LIFE:
            return seconds
    return None


def seconds_until(value: object, now: float, *, is_end: bool = True) -> float | None:
    """Return a duration, an epoch or a date as seconds from `now`, negative if past; None for other values.

    The size decides between durations and epochs. Unless `is_end`, only an epoch near `now` counts as one.
    """
    number = as_number(value)
    if number is None:
        return seconds_until_date(value, now) if isinstance(value, str) else None
    if number <= MOST_LIFE:
        return max(number, 0.0)
    end = number
    while end > MOST_EPOCH:
        end /= 1000.0
    return end - now if is_end or now - SKEW <= end <= now + MOST_LIFE else number


def _stated(value: object) -> object:
    """Return the number or text in a library's form of a date: Mongo's, Protobuf's and PHP's objects, WCF's text."""
    for _ in range(2):
        if isinstance(value, dict):
            named = {plain_name(name): inner for name, inner in value.items()}
            inner = next(
                (named[name] for name in ("date", "numberlong", "seconds", "epochsecond") if name in named),
                None,
            )
            zone = named.get("timezone")
            value = f"{inner}[{zone}]" if isinstance(inner, str) and isinstance(zone, str) else inner
    if isinstance(value, str) and (found := WCF_DATE.fullmatch(value.strip())):
        return int(found[1]) / 1000.0
    return value


def _seconds_of(unit: str) -> float | None:
    return UNITS.get(unit) or UNITS.get(unit.removesuffix("s"))


def as_number(value: object) -> float | None:
    """Return a number, a text with a number and maybe a unit, or a span of time, in seconds; else None."""
    if isinstance(value, str) and len(value) <= 64:
        text = value.strip()
        if number := NUMBER.fullmatch(text.lower()):
            unit = _seconds_of(number[2])
            return None if unit is None else float(number[1].replace(",", "")) * unit
        if span := SPAN.fullmatch(text.upper()) or CLOCK.fullmatch(text):
            parts = zip(span.groups(), (86400.0, 3600.0, 60.0, 1.0), strict=True)
            return sum(int(part or 0) * unit for part, unit in parts) or None
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def seconds_until_date(text: str, now: float) -> float | None:
    """Return the seconds from `now` to a date: ISO 8601, RFC 9110 or Azure's, UTC without a zone; else None."""
    if len(text) > 64:
        return None
    for read in (_iso_date, _us_date, _named_month):
        try:
            # RFC 9110 allows a leap second, which Python does not know.
            date = read(re.sub(r"(\d\d:\d\d):60\b", r"\1:59", text.strip()))
            end = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
            # The first day of an epoch (1970 or the year 1) means no end.
            return end - now if end > SKEW else 0.0
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _iso_date(text: str) -> datetime:
    text, _, zone = re.sub(r"^(\d{4})/(\d\d)/", r"\1-\2-", text).removesuffix("]").partition("[")
    if not re.match(r"\d{4}-?\d\d-?\d\d", text, re.ASCII):
        raise ValueError("not ISO 8601")
    date = datetime.fromisoformat(re.sub(r" (UTC|GMT)$", "", text.upper()))
    if date.tzinfo is not None or zone.upper() in ("", "Z", "UTC", "GMT"):
        return date
    if zone[0] in "+-":
        return datetime.fromisoformat(f"{date.isoformat()}{zone}")
    try:
        return date.replace(tzinfo=ZoneInfo(zone))
    except (ZoneInfoNotFoundError, OSError) as exc:
        raise ValueError("no zone of this machine") from exc


def _named_month(text: str) -> datetime:
    """Read a date of RFC 9110 or RFC 5322, or Java's with AM or PM: `Jan 15, 2027 8:10:00 AM`."""
    clock = TWELVE_HOURS.fullmatch(text)
    if clock is None:
        return email.utils.parsedate_to_datetime(text)
    one, other, year, hour, rest, half = clock.groups()
    month, day = (one, other) if other.isdigit() else (other, one)
    return email.utils.parsedate_to_datetime(
        f"{day} {month[:3]} {year} {int(hour) % 12 + 12 * (half.upper() == 'PM')}:{rest} GMT"
    )


def _us_date(text: str) -> datetime:
    found = US_DATE.fullmatch(text)
    if found is None:
        raise ValueError("not Azure's form")
    month, day, year, hour, minute, second = map(int, found.groups()[:6])
    if month > 12:
        month, day = day, month
    # App Service writes 00 PM.
    if found[7] == "PM" and hour < 12:
        hour += 12
    elif found[7] == "AM" and hour == 12:
        hour = 0
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def _claimed_lifetime(token: str, issued_at: float) -> float | None:
    """Return the lifetime that a JWT states, or None. Zero or less is ignored: the clocks may differ."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > 65536:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    end = as_number(claims.get("exp")) if isinstance(claims, dict) else None
    if end is None:
        return None
    start = as_number(claims.get("iat"))
    stated = [end - issued_at, *([] if start is None else [end - start])]
    return min((seconds for seconds in stated if 0 < seconds <= MOST_LIFE), default=None)
