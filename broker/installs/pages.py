"""The texts of the pages that end an install or refuse to begin one. No I/O."""

import re
from typing import assert_never

from broker.http.pages import Action, Page, ShownError, Tone
from broker.installs.exchange import PROVIDER_ERRORS, InstallResult
from broker.model import InstallOutcome

CONFLICTS = {
    "other_name": (
        "This account is connected already",
        "It is connected under another name, so nothing was changed.",
        "Ask whoever sent you the link; they can connect it again under its own name.",
    ),
    "other_subject": (
        "This account belongs to somebody else",
        "Another user of your company has connected it, so nothing was changed.",
        "Ask that user, or whoever runs this service.",
    ),
    "other_identity": (
        "This is another account than before",
        "The link is for an account that was connected earlier, and you signed in to a different one."
        " The old connection is untouched.",
        "Sign out at the provider, sign in with the right account, and open the link again.",
    ),
    "unknown_identity": (
        "We could not tell which account this is",
        "The provider did not say whose account you signed in to, so nothing was changed.",
        "Open the same link again. If it happens again, tell whoever sent it to you.",
    ),
    "link_used": (
        "This link was used already",
        "It has connected the account already, or a newer link was made. This time nothing was connected.",
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
        "It refused the app's own credentials. That is not your mistake. Nothing was connected.",
        "Tell whoever runs this service. When it is corrected, open the link again.",
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
        "The provider agreed, but sent an access token that no program can use. The broker tries again when that"
        " token expires.",
        "Tell whoever runs this service; the account shows the reason. Then open a new link.",
    ),
    "provider": (
        "The provider did not answer as it should",
        "Nothing was connected. An earlier connection of this account still works.",
        "Wait a moment, then start again from the link or page where you began.",
    ),
}
UNUSABLE = {
    "unknown": (
        "This link is not known",
        "It is not one of ours, it is too old, or this browser did not keep our cookie.",
        404,
    ),
    "expired": (
        "This link has expired",
        "Links are good for a short time only, to keep your account safe.",
        410,
    ),
    "used": (
        "This link was used already",
        "Each link connects an account once. If you have just connected it, you are done.",
        410,
    ),
    "replaced": (
        "This link was replaced",
        "A newer link for this account was made after you opened this one. Nothing was connected.",
        410,
    ),
    "unfinished": (
        "We do not know how this ended",
        "An earlier request received the provider's answer, and its result is not known yet. If it is still under"
        " way, it is shown here in a moment. If the service was interrupted, nothing was connected.",
        409,
    ),
    "issuer": (
        "This answer is not from the provider",
        "It names another issuer than the provider that you were sent to, so nothing was connected.",
        400,
    ),
    "malformed": ("This address is incomplete", "A part of it is missing or repeated.", 400),
    "invitation": (
        "This app is installed by invitation",
        "Ask the company behind it for an install link.",
        403,
    ),
}
HINTS = {
    "replaced": "Open the newer link.",
    "unfinished": "Load this page again in a minute. If it says the same, open the link again.",
    "issuer": "Start again. If it happens again, tell whoever runs this service: the log names the issuer.",
}


def unusable(why: str) -> ShownError:
    """Return the error page of a link or a callback that cannot be used; `why` is a key of `UNUSABLE`."""
    title, line, status = UNUSABLE[why]
    hint = HINTS.get(why, "Ask for a new link, or start again from the page where you began.")
    return ShownError(_bad(title, line, hint, status=status))


def provider_error(error: str, description: str) -> ShownError:
    """Return the error page of a provider's error without a state, which belongs to no known install."""
    said = ": ".join(filter(None, (_plain(error, 64), _plain(description, 200))))
    lines = [f"It said: “{said}”."] if said else []
    return ShownError(
        _bad(
            "The provider reports an error",
            *lines,
            "It did not say which install this is about. Nothing was connected.",
            "Start again from the link or page where you began. If it happens again, tell whoever runs this service"
            " what is said here.",
            status=400,
        )
    )


def result_page(result: InstallResult, provider_label: str, back: Action | None) -> Page:
    """Return the page that shows how an install ended."""
    if result.outcome not in set(InstallOutcome):
        line = f"A newer version of the broker says how it ended: {result.outcome}."
        return Page(title="This has ended", tone="wait", lines=(line,), action=back)
    why = result.why or ""
    match result.outcome:
        case InstallOutcome.CONNECTED:
            lines = [f"{provider_label} is connected as {result.account}."]
            if result.without_refresh_token:
                lines.append(
                    "The provider gave access for a short time only (no refresh token), so the connection ends when"
                    " that time is over. Ask for the scope offline_access to keep it."
                )
            tone: Tone = "wait" if result.without_refresh_token else "good"
            return Page("Connected", tone, tuple(lines), back, "You can close this page.")
        case InstallOutcome.REFUSED:
            line = f"{provider_label} was not connected. Nothing was changed."
            hint = "Changed your mind? Start again from the link or page where you began."
            return Page("You declined access", "wait", (line,), back, hint)
        case InstallOutcome.IDENTITY_PENDING:
            what = "storing the connection" if why == "storage" else "checking which account this is"
            line = f"{provider_label} agreed. We are still {what}; you need not wait for it."
            return Page("Almost done", "wait", (line,), back, "You can close this page.", 202)
        case InstallOutcome.CONFLICT:
            return _bad(*CONFLICTS.get(why, CONFLICTS["other_name"]), status=409, action=back)
        case InstallOutcome.FAILED if why in PROVIDER_ERRORS:
            said = _plain(result.detail or why, 200)
            return _bad(
                "The provider reports an error",
                f"{provider_label} answered with the error {said}. Nothing was connected.",
                "Start again. If it happens again, tell whoever runs this service.",
                status=502,
                action=back,
            )
        case InstallOutcome.FAILED:
            return _bad(*FAILURES.get(why, FAILURES["provider"]), status=502, action=back)
        case _:
            assert_never(result.outcome)


def _bad(title: str, *lines_and_hint: str, status: int, action: Action | None = None) -> Page:
    *lines, hint = lines_and_hint
    return Page(title, "bad", tuple(lines), action, hint, status)


def _plain(text: str, most: int) -> str:
    """Return a text that anybody may have written, without links, mark-up and control characters."""
    return re.sub(r"[^A-Za-z0-9 .,:;_()'-]+", " ", text)[:most].strip()
