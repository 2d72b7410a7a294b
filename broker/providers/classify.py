"""Map the reply of a token endpoint to its outcome, by the table of R5. No I/O."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from broker.config.settings import DeadError
from broker.model import Reason
from broker.providers import answers, lifetimes
from broker.providers.answers import OAuthError, Reading
from broker.providers.client import Answer, Lost, Reply
from broker.providers.outcomes import (
    Ambiguous,
    ClientRefused,
    Declined,
    Granted,
    NotSent,
    Paused,
    Refused,
    TokenOutcome,
)

ERROR_WORD = re.compile(r"[A-Za-z_.]{1,64}|\d{1,8}", re.ASCII)
"""The values of a provider's `error` that may be logged; others may be an echoed token."""
PLAIN_WORD = re.compile(r"[A-Za-z_./:-]{1,23}|[\d.:/-]{1,23}|[A-Z]{2,8}\d{2,8}", re.ASCII)
"""A word, a number, a date, or the number of an error (AADSTS700082); no token has these forms."""
TOKEN_LIKE = re.compile(r"[A-Za-z0-9_.~+/=-]{8,}", re.ASCII)
MIN_PAUSE, MAX_PAUSE, DEFAULT_PAUSE = 1.0, 3600.0, 30.0
RESETS = ("x-ratelimit-reset", "ratelimit-reset", "x-rate-limit-reset", "x-ratelimit-reset-after")
RESET_OF_A_LIMIT = re.compile(r"\b(?:reset|t)=(\d{1,9})\b", re.ASCII)
"""The seconds until the limit resets, in `RateLimit` of the IETF drafts."""


def classify(reply: Reply, *, reading: Reading, issued_at: float, now: float) -> TokenOutcome:
    """Return the outcome of a token request that began at `issued_at` and was answered at `now` (epoch seconds)."""
    match reply:
        case NotSent():
            return reply
        case Lost():
            return _lost(reply, reading, issued_at)
        case Answer(status, headers, body) if 200 <= status < 300:
            return _success(status, body, reading, issued_at)
        case Answer(status, headers, body) if status == 429 or (status == 503 and "Retry-After" in headers):
            return Paused(pause_seconds(headers, now), f"answered {status}")
        case Answer(status, _, body) if status in (408, 425) or not 300 <= status < 600:
            return Ambiguous(f"answered {status}", timed_out=False)
        case Answer(status, _, body):
            return _error(status, body, reading)


def _lost(reply: Lost, reading: Reading, issued_at: float) -> TokenOutcome:
    """Use the tokens in an incomplete 2xx, or in an answer without a status."""
    reason = Reason.UNREADABLE if reply.arrived else Reason.UNCERTAIN
    outcome = Ambiguous(reply.why, reply.timed_out, reason=reason)
    if not (reply.prefix and (reply.status is None or 200 <= reply.status < 300)):
        return outcome
    try:
        # A JSON object with its end is complete, whatever was to follow. The end of a form cannot be recognized.
        return Granted(answers.parse_token_answer(reply.prefix, reading, issued_at=issued_at, forms=False))
    except answers.Unreadable:
        return replace(outcome, salvage=answers.salvage_refresh_token(reply.prefix))


def _success(status: int, body: bytes, reading: Reading, issued_at: float) -> TokenOutcome:
    try:
        return Granted(answers.parse_token_answer(body, reading, issued_at=issued_at))
    except answers.Unreadable as exc:
        problem = str(exc)
    if (refusal := answers.refusal_in(body, reading.dead_errors)) is not None:
        return Refused(cleaned(refusal.description), _answered(status, refusal), usual=False)
    salvage = answers.salvage_refresh_token(body)
    errors = answers.stated_errors(body)
    if not errors:
        return Ambiguous(problem, timed_out=False, salvage=salvage, reason=Reason.UNREADABLE)
    if errors[0].error == "invalid_client" and salvage is None:
        return ClientRefused(False, _answered(status, errors[0]), cleaned(errors[0].description))
    # The refresh token may have been rotated all the same.
    return Ambiguous(
        f"{_word(errors[0])}, status {status}",
        timed_out=False,
        salvage=salvage,
        reason=Reason.UNKNOWN_ERROR,
        description=cleaned(errors[0].description),
    )


def _error(status: int, body: bytes, reading: Reading) -> TokenOutcome:
    """Map a complete answer that is neither a 2xx nor a pause."""
    error = answers.parse_error(body)
    is_client_error = 400 <= status < 500
    description = cleaned(error.description) if error else ""
    if is_client_error and error is not None and error.error == "invalid_grant":
        if answers.refusal_in(body, (DeadError("invalid_grant"),)) is None:
            return Ambiguous(
                _answered(status, error), timed_out=False, salvage=answers.salvage_refresh_token(body)
            )
        return Refused(description, _answered(status, error))
    if is_client_error and error is not None and error.error == "invalid_client":
        return ClientRefused(False, _answered(status, error), description)
    # Kustomer's words for "the app is not installed in this org", in any of its shapes.
    if status in (400, 401) and "invalid client" in answers.error_texts(body).lower():
        return ClientRefused(True, _answered(status, error), description)
    if (refusal := answers.refusal_in(body, reading.dead_errors)) is not None:
        return Refused(cleaned(refusal.description), _answered(status, refusal), usual=False)
    if status < 400:
        return Declined(f"redirected ({status}), which is never followed; check the token URL")
    if status >= 500:
        return Ambiguous(_answered(status, error), timed_out=False, description=description)
    if error is None and status not in (401, 403):
        # A gateway's own page does not tell what the provider behind it did with the request.
        why = f"answered {status} without an OAuth error"
        return Ambiguous(why, timed_out=False, salvage=answers.salvage_refresh_token(body))
    return Declined(_answered(status, error), description)


def _answered(status: int, error: OAuthError | None) -> str:
    return f"answered {status} ({_word(error) if error else 'no OAuth error'})"


def answered(error: str, description: str) -> str:
    """Return a provider's error and its description, safe for the log."""
    return ": ".join(filter(None, (_word(OAuthError(error)), cleaned(description))))


def _word(error: OAuthError) -> str:
    return error.error if ERROR_WORD.fullmatch(error.error) else "an error that is no word"


def cleaned(text: str, *hidden: str) -> str:
    """Return a provider's text as one line of at most 200 characters, without `hidden` and anything like a token."""
    for secret in hidden:
        text = text.replace(secret, "…") if secret else text
    text = " ".join("".join(char if char.isprintable() else " " for char in text[:1000]).split())
    return TOKEN_LIKE.sub(lambda found: found[0] if PLAIN_WORD.fullmatch(found[0]) else "…", text)[:200]


def pause_seconds(headers: Mapping[str, str], now: float) -> float:
    """Return the seconds to wait, from Retry-After or the reset of the rate limit, from 1 second to 1 hour."""
    for name in ("Retry-After", "X-Retry-After", *RESETS):
        text = headers.get(name, "").strip().strip('"')
        seconds = lifetimes.seconds_until(
            re.split("[,;]", text)[0].strip() if text[:1].isdigit() else text, now
        )
        if seconds is not None and not text.startswith("-"):
            break
    else:
        milliseconds = lifetimes.as_number(
            headers.get("Retry-After-Ms") or headers.get("X-Ms-Retry-After-Ms")
        )
        seconds = DEFAULT_PAUSE if milliseconds is None else milliseconds / 1000.0
        if limit := RESET_OF_A_LIMIT.search(headers.get("RateLimit", "")):
            seconds = float(limit[1])
    return min(max(float(math.ceil(seconds)), MIN_PAUSE), MAX_PAUSE)
