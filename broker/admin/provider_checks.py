"""What `broker check` says of the providers: reached, in time, as they describe themselves, what to enter there."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

from broker.admin.checks import Check
from broker.config.settings import ProviderSettings, Settings
from broker.providers.interface import NotSent, Reached
from broker.providers.oauth2 import OAuth2Provider

SKEW = 30.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


async def provider_checks(providers: Mapping[str, OAuth2Provider]) -> list[Check]:
    """Whether each provider answers, and what its clock and metadata say; never a problem, only a warning."""
    checks: list[Check] = []
    for provider in providers.values():
        checks += _reached_checks(provider.name, await provider.reach(), provider.route)
    return checks


def address_checks(settings: Settings) -> list[Check]:
    """What browsers are told, and what is to be entered at the providers."""
    url = settings.server.public_url
    checks = [_public_check(settings)]
    checks += [_entry_check(provider, url) for provider in settings.providers.values()]
    return checks


async def reachable_check(url: str, probe: Callable[[str], Awaitable[str | None]]) -> Check:
    """Whether `server.public_url` leads back here; from here only, so never a problem."""
    if why := await probe(url):
        return Check(
            "public_url from here",
            "warning",
            why,
            "no matter if only the outside can reach it; else check name, proxy and server.public",
        )
    return Check("public_url from here", "ok", f"{url} leads to this broker")


def _public_check(settings: Settings) -> Check:
    url = settings.server.public_url
    on_loopback = urlsplit(url).hostname in LOOPBACK
    if url.startswith("https://"):
        return Check("server.public_url", "ok", url)
    if not on_loopback:
        return Check(
            "server.public_url", "problem", f"{url} is http: codes and tickets could be read", "use https"
        )
    if settings.sandbox.enabled or not settings.providers:
        return Check("server.public_url", "ok", f"{url}: for browsers on this machine")
    return Check(
        "server.public_url",
        "warning",
        f"{url}: only browsers on this machine reach it",
        "for real installs name the https address that people and Kit reach",
    )


def _entry_check(provider: ProviderSettings, url: str) -> Check:
    entry = f"redirect URI {url}/callback/{provider.name}"
    if provider.type == "kit":
        entry += f" and Authorization URL {url}/install/{provider.name}"
    return Check(f"{provider.name} app", "ok", f"entered at the provider should be: {entry}")


def _reached_checks(name: str, reached: Reached | NotSent, route: str | None) -> list[Check]:
    what, by = f"provider {name}", f" ({route})" if route else ""
    match reached:
        case NotSent(why):
            mend = "check the network and the provider's status page"
            return [Check(what, "warning", f"not reached{by}: {why}", mend)]
        case Reached(skew, differences):
            return [
                Check(what, "ok", f"answers{by}"),
                *([] if skew is None else [_clock_check(name, skew)]),
                *_metadata_checks(name, differences),
            ]


def _clock_check(name: str, skew: float) -> Check:
    if abs(skew) > SKEW:
        told = f"the clocks of {name} and of this machine differ by {round(skew)} s"
        return Check("clock", "warning", told, "set the time (NTP)")
    return Check("clock", "ok", f"as that of {name}, within {SKEW:.0f} s")


def _metadata_checks(name: str, differences: Sequence[str] | None) -> list[Check]:
    what = f"metadata of {name}"
    if differences is None:
        return [Check(what, "ok", "it publishes none (RFC 8414), so there is nothing to compare")]
    if not differences:
        return [Check(what, "ok", "it says of itself what the configuration says")]
    mend = f"look into its documents; keys of [providers.{name}] replace what is built in"
    return [Check(what, "warning", difference, mend) for difference in differences]
