"""What a person reads where a client may not ask them, or not any more. Pure."""

from broker.pages import Page
from broker.plugin.authorize import Why
from broker.plugin.consent import Gone

BEGIN_AGAIN = "Go back to where you came from and begin again."
UNREDIRECTABLE: dict[Why, tuple[str, str]] = {
    "malformed": ("This address is incomplete", "Something is missing from it, or it is garbled."),
    "client": (
        "We do not know who sent you",
        "The app that sent you here is not registered with this service, so nothing was allowed.",
    ),
    "redirect_uri": (
        "This app may not ask for that address",
        "You would have been sent back to an address that is not registered for the app, so nothing was allowed.",
    ),
}
GONE: dict[Gone, tuple[str, str, str]] = {
    "over": (
        "This question is over",
        "It was answered already, too many wrong codes were typed, ten minutes have passed, or this browser did not"
        " keep our cookie.",
        "If the app you came from says that it is connected, all is well. Else begin again there.",
    ),
    "cookies": (
        "Cookies are off",
        "We need one cookie to know that it is still you. It is gone within the hour.",
        "Allow cookies for this site, then begin again where you came from.",
    ),
    "browser": (
        "This began in another browser",
        "For safety it ends in the browser it began in.",
        BEGIN_AGAIN,
    ),
}
FOREIGN = Page(
    title="This did not come from our page",
    tone="bad",
    lines=("Another site tried to answer for you, so nothing was allowed.",),
    hint=BEGIN_AGAIN,
    status=403,
)


def unredirectable_page(why: Why) -> Page:
    """Why nobody is asked."""
    title, line = UNREDIRECTABLE[why]
    hint = "Whoever runs the app has to compare its client id and redirect URI with what was agreed here."
    return Page(title=title, tone="bad", lines=(line,), hint=hint, status=400)


def gone_page(why: Gone) -> Page:
    """Why the answer does not count."""
    title, line, hint = GONE[why]
    return Page(title=title, tone="bad", lines=(line,), hint=hint, status=410 if why == "over" else 400)
