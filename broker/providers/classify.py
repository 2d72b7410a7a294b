"""What a token endpoint's reply means: the table of R5, and no other. Pure."""

import email.utils
import re
from collections.abc import Mapping

from broker import oauth
from broker.model import TokenSet
from broker.providers.client import Answer, Lost, Reply, Unsent
from broker.providers.interface import (
    Ambiguous,
    ClientRefused,
    Declined,
    Granted,
    NotSent,
    Paused,
    Refused,
    TokenOutcome,
)

ERROR_WORD = re.compile(r"[a-z_]{1,40}", re.ASCII)
"""What may go to the log of a provider's `error`; it could as well have echoed a token."""
MIN_PAUSE, MAX_PAUSE, DEFAULT_PAUSE = 1.0, 3600.0, 30.0


def classify(
    reply: Reply, *, asked_scope: str, issued_at: float, now: float, default_life: float
) -> TokenOutcome:
    """How a token request ended. `issued_at`: our clock when the request began; `now`: when the reply came."""
    match reply:
        case Unsent(why):
            return NotSent(why)
        case Lost(why, timed_out, status, prefix):
            whole = status is not None and 200 <= status < 300
            return Ambiguous(why, timed_out, oauth.salvage_refresh_token(prefix) if whole else None)
        case Answer(status, headers, body) if 200 <= status < 300:
            return _success(body, asked_scope, issued_at, default_life)
        case Answer(status, headers, body) if status == 429 or (status == 503 and "Retry-After" in headers):
            return Paused(pause_seconds(headers, now))
        case Answer(status, _, body) if 400 <= status < 500 and status not in (408, 425):
            return _client_error(status, body)
        case Answer(status) if 300 <= status < 400:
            return Declined(f"redirected ({status}), which is never followed; check the token URL")
        case Answer(status):
            return Ambiguous(f"answered {status}", timed_out=False)


def _success(body: bytes, asked_scope: str, issued_at: float, default_life: float) -> TokenOutcome:
    try:
        tokens: TokenSet = oauth.parse_token_answer(
            body, asked_scope=asked_scope, issued_at=issued_at, default_life=default_life
        )
    except oauth.Unreadable as exc:
        return Ambiguous(str(exc), timed_out=False, salvage=oauth.salvage_refresh_token(body))
    return Granted(tokens)


def _client_error(status: int, body: bytes) -> TokenOutcome:
    error = oauth.parse_error(body)
    if error is not None and error.error == "invalid_grant":
        return Refused(error.description)
    if error is not None and error.error == "invalid_client":
        return ClientRefused(not_installed=False)
    # Kustomer's words for "the app is not installed in this org", in any of its shapes.
    if status in (400, 401) and "invalid client" in oauth.error_texts(body).lower():
        return ClientRefused(not_installed=True)
    if error is None and status not in (401, 403):
        # A gateway's own page says nothing of what the provider behind it did with the request.
        return Ambiguous(f"answered {status} without an OAuth error", timed_out=False)
    word = error.error if error is not None and ERROR_WORD.fullmatch(error.error) else "no OAuth error"
    return Declined(f"answered {status} ({word})")


def pause_seconds(headers: Mapping[str, str], now: float) -> float:
    """Retry-After in seconds or as a date, or Kustomer's `x-ratelimit-reset`; clamped to 1 s … 1 h."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal() and text.isascii():
        seconds = float(text[:9])
    elif text:
        until = seconds_until_date(text, now)
        seconds = DEFAULT_PAUSE if until is None else until
    else:
        reset = headers.get("x-ratelimit-reset", "").strip()
        seconds = float(reset[:12]) - now if reset.isdecimal() and reset.isascii() else DEFAULT_PAUSE
    return min(max(seconds, MIN_PAUSE), MAX_PAUSE)


def seconds_until_date(text: str, now: float) -> float | None:
    """An HTTP date less `now`; None where it is none."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return None
