"""What a person reads at the end of an install, or where one cannot begin. Pure."""

import re
from typing import assert_never

from broker.http.pages import Action, Page
from broker.installs.exchange import PROVIDER_ERRORS, Visit
from broker.model import InstallOutcome

CONFLICTS = {
    "other_name": (
        "This account is connected already",
        "It is connected under another name, so nothing was changed.",
        "Ask whoever sent you the link; they can connect it again under its own name.",
    ),
    "other_subject": (
        "This account belongs to somebody else",
        "Another person of your company has connected it, so nothing was changed.",
        "Ask that person, or whoever runs this service.",
    ),
    "other_identity": (
        "This is another account than before",
        "The link is for an account that was connected earlier, and you signed in to a different one."
        " The old connection is untouched.",
        "Sign out at the provider, sign in with the right account, and open the link again.",
    ),
    "link_used": (
        "This link was used already",
        "Meanwhile it connected the account, or a newer link was made, so this time nothing was connected.",
        "If you have just connected the account, you are done. Otherwise ask for a new link.",
    ),
    "no_name": (
        "We could not tell which account this is",
        "The provider did not say whose account was connected, so nothing was kept.",
        "Ask for a link that names the account.",
    ),
}
FAILURES = {
    "client": (
        "The provider does not accept this app",
        "It refused the app's own credentials. That is not your mistake; nothing was connected.",
        "Whoever runs this service has to mend it. Then open the link again.",
    ),
    "not_installed": (
        "The app is not installed there yet",
        "The provider answered “Invalid Client”, which is how Kustomer says that your organisation has not installed"
        " the app. Nothing was connected.",
        "Have an administrator of your organisation install it from Kustomer's App Directory, then open the link"
        " again.",
    ),
    "token_unusable": (
        "The provider's token cannot be used",
        "The provider agreed, but sent an access token that no program can use. Nothing works with it yet; the broker"
        " tries again when that token ends.",
        "Whoever runs this service finds the reason at the account. Then open a new link.",
    ),
    "provider": (
        "The provider did not answer as it should",
        "Nothing was connected, and an earlier connection of this account, if there is one, goes on.",
        "Wait a moment, then begin again.",
    ),
}
UNUSABLE = {
    "unknown": (
        "This link leads nowhere",
        "It is not one of ours, it is too old to be remembered, or this browser did not keep our cookie.",
        404,
    ),
    "expired": (
        "This link has expired",
        "Links are good for a short time only, to keep your account safe.",
        410,
    ),
    "used": (
        "This link was used already",
        "Each link connects an account once. If you have just connected it, all is well.",
        410,
    ),
    "replaced": (
        "This link was replaced",
        "A newer link for this account was made after you opened this one. Nothing was connected.",
        410,
    ),
    "unfinished": (
        "We do not know how this ended",
        "An earlier request took the answer of the provider, and no result of that is noted. If it is still under"
        " way, it is shown here in a moment; if the service was interrupted, nothing was connected.",
        409,
    ),
    "issuer": (
        "This answer is not from the provider",
        "It names another issuer than the provider you were sent to, so nothing was connected.",
        400,
    ),
    "browser": (
        "This began in another browser",
        "For safety an install ends in the browser it began in.",
        400,
    ),
    "cookies": (
        "Cookies are off",
        "We need one cookie to know that it is still you. It is gone within the hour.",
        400,
    ),
    "malformed": ("This address is incomplete", "Something is missing from it, or there twice.", 400),
    "invitation": (
        "This app is installed by invitation",
        "Ask the company behind it for an install link.",
        403,
    ),
}
HINTS = {
    "replaced": "Open the newer link.",
    "unfinished": "Load this page again in a minute. If it says the same, open the link again.",
    "issuer": "Begin again. Whoever runs this service finds the issuer in the log, and sets `issuer` if it is right.",
    "cookies": "Allow cookies for this site, then open the link again.",
    "browser": "Open the link again, and stay in that browser.",
}


def unusable_page(why: str) -> Page:
    """Why a link or a callback leads nowhere."""
    title, line, status = UNUSABLE[why]
    hint = HINTS.get(why, "Ask for a new link, or begin again where you came from.")
    return Page(title=title, tone="bad", lines=(line,), hint=hint, status=status)


def provider_error_page(error: str, description: str) -> Page:
    """An error without a state: it belongs to no install that we know, so all there is to tell is what it says."""
    said = ": ".join(filter(None, (_plain(error, 64), _plain(description, 200))))
    lines = ["It did not say which install this is about. Nothing was connected."]
    if said:
        lines.insert(0, f"It said: “{said}”.")
    return Page(
        title="The provider reports an error",
        tone="bad",
        lines=tuple(lines),
        hint="Begin again where you came from. If it happens again, tell whoever runs this service what is said here.",
        status=400,
    )


def _plain(text: str, most: int) -> str:
    """What anybody could have put into an address, without what makes a link, a mark-up or a control character."""
    return re.sub(r"[^A-Za-z0-9 .,:;_()'-]+", " ", text)[:most].strip()


def visit_page(visit: Visit, provider_label: str, back: Action | None) -> Page:
    """How an install ended."""
    if visit.outcome not in set(InstallOutcome):
        line = f"A newer version of the broker says how it ended: {visit.outcome}."
        return Page(title="This has ended", tone="wait", lines=(line,), action=back)
    match visit.outcome:
        case InstallOutcome.CONNECTED:
            return _connected(visit, provider_label, back)
        case InstallOutcome.REFUSED:
            return Page(
                title="You said no",
                tone="wait",
                lines=(f"{provider_label} was not connected. Nothing was changed.",),
                hint="If that was a slip, begin again where you came from.",
                action=back,
            )
        case InstallOutcome.IDENTITY_PENDING:
            return _pending(visit, provider_label, back)
        case InstallOutcome.CONFLICT:
            title, line, hint = CONFLICTS.get(visit.why or "", CONFLICTS["other_name"])
            return Page(title=title, tone="bad", lines=(line,), hint=hint, action=back, status=409)
        case InstallOutcome.FAILED if visit.why in PROVIDER_ERRORS:
            said = _plain(visit.detail or visit.why, 200)
            line = f"{provider_label} answered with the error {said}. Nothing was connected."
            hint = "Begin again. If it happens again, tell whoever runs this service."
            return Page(
                title="The provider reports an error",
                tone="bad",
                lines=(line,),
                hint=hint,
                action=back,
                status=502,
            )
        case InstallOutcome.FAILED:
            title, line, hint = FAILURES.get(visit.why or "", FAILURES["provider"])
            return Page(title=title, tone="bad", lines=(line,), hint=hint, action=back, status=502)
        case _:
            assert_never(visit.outcome)


def _connected(visit: Visit, provider_label: str, back: Action | None) -> Page:
    lines = [f"{provider_label} is connected as {visit.account}."]
    if visit.without_refresh_token:
        lines.append(
            "The provider gave access for a short time only (no refresh token), so the connection ends when that"
            " time is over. Ask for the scope offline_access to keep it."
        )
    return Page(
        title="Connected",
        tone="wait" if visit.without_refresh_token else "good",
        lines=tuple(lines),
        hint="You can close this page.",
        action=back,
    )


def _pending(visit: Visit, provider_label: str, back: Action | None) -> Page:
    what = "storing the connection" if visit.why == "storage" else "checking which account this is"
    return Page(
        title="Almost done",
        tone="wait",
        lines=(f"{provider_label} said yes. We are still {what}, and go on by ourselves.",),
        hint="You can close this page.",
        action=back,
        status=202,
    )
