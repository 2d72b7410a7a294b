"""What a refresh token is worth at this moment, in each mode of rotation, without I/O."""

from dataclasses import dataclass
from enum import StrEnum

from broker.sandbox.faults import Mode, Switches


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """One refresh token as stored. Times are epoch seconds by the sandbox's clock."""

    sha256: str
    grant_id: int
    last_used_at: float
    superseded_at: float | None
    revoked: bool
    """Itself or its whole grant."""


class Verdict(StrEnum):
    """What happens to a renewal that presents it."""

    GOOD = "good"
    AGAIN = "again"
    """Used before, and the grace still runs."""
    REPLAY = "replay"
    DEAD = "dead"


def judge(token: RefreshToken, switches: Switches, now: float) -> Verdict:
    """What a renewal with this token gets, by the mode that is switched on now."""
    if token.superseded_at is not None and switches.rotation is Mode.FAMILY:
        return Verdict.REPLAY
    if token.revoked or _idle(token, switches, now):
        return Verdict.DEAD
    if token.superseded_at is None:
        return Verdict.GOOD
    match switches.rotation:
        case Mode.NONE | Mode.ON_USE:
            return Verdict.GOOD
        case Mode.GRACE_SAME | Mode.GRACE_SIBLING | Mode.GRACE_LATEST:
            return Verdict.AGAIN if now < token.superseded_at + switches.grace else Verdict.DEAD
        case Mode.STRICT | Mode.FAMILY:
            return Verdict.REPLAY


def _idle(token: RefreshToken, switches: Switches, now: float) -> bool:
    return switches.idle_expiry is not None and now >= token.last_used_at + switches.idle_expiry


def is_live(token: RefreshToken, switches: Switches, now: float) -> bool:
    """Whether a renewal with this token would be answered with tokens."""
    return judge(token, switches, now) in (Verdict.GOOD, Verdict.AGAIN)
