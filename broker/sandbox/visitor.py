"""A scripted user with a browser: open an install link, sign in, click, and report where it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Literal

import aiohttp
from yarl import URL

HOME = frozenset({"127.0.0.1", "localhost", "::1"})
MOVED = frozenset({301, 302, 303, 307, 308})
STEPS = 20
LOGIN, CONSENT, INSTALL = "sandbox-login", "sandbox-consent", "sandbox-install"
PLUGIN = "plugin-consent"
"""The broker's own consent page, which comes before Kit's."""
Decision = Literal["allow", "deny"]


class LostError(Exception):
    """The browser was redirected too often, or to another machine."""


@dataclass(frozen=True, slots=True)
class Visit:
    """The end of an install: a page of the broker, or the address outside that the browser was sent to."""

    final_url: str
    status: int
    text: str


@dataclass(frozen=True, slots=True)
class _Step:
    """The next request of the browser."""

    url: URL
    form: Mapping[str, str] | None = None


async def install(
    install_url: str,
    *,
    decision: Decision = "allow",
    login_as: str = "demo-user",
    answers: Mapping[str, str] | None = None,
    plugin: Decision = "allow",
    connect_code: str | None = None,
    connector: aiohttp.BaseConnector | None = None,
) -> Visit:
    """Go through an install to its end without leaving this machine.

    `answers` fills fields of the consent page: `account`, `name`, `email` at Kit, `org` at Kustomer. `plugin` is
    the decision where Kit asks for access to the broker first, with a `connect_code` where one is wanted. `connector`
    sets the source address and the trusted certificates.
    Raises LostError, TimeoutError and aiohttp's ClientError.
    """
    asked = {"connect_code": connect_code} if connect_code else {}
    forms = {
        LOGIN: {"login_as": login_as, "decision": "allow"},
        CONSENT: {**(answers or {}), "decision": decision},
        PLUGIN: {**asked, "decision": plugin},
    }
    jar = aiohttp.CookieJar(unsafe=True)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=timeout) as session:
        step = _Step(URL(install_url, encoded=True))
        for number in range(STEPS):
            seen = await _take(session, step)
            match _next(seen, forms, begins=number == 0):
                case Visit() as end:
                    return end
                case _Step() as step:
                    pass
    # Without the address: it holds a ticket, and this text is logged.
    raise LostError(f"more than {STEPS} pages, and no end")


@dataclass(frozen=True, slots=True)
class _Seen:
    url: URL
    status: int
    location: str | None
    text: str


async def _take(session: aiohttp.ClientSession, step: _Step) -> _Seen:
    if step.url.host not in HOME:
        raise LostError(f"{step.url.host} is not on this machine")
    method = "GET" if step.form is None else "POST"
    async with session.request(method, step.url, data=step.form, allow_redirects=False) as answer:
        location = answer.headers.get("Location") if answer.status in MOVED else None
        return _Seen(step.url, answer.status, location, await answer.text())


def _next(seen: _Seen, forms: Mapping[str, Mapping[str, str]], *, begins: bool = True) -> Visit | _Step:
    if seen.location is not None:
        target = seen.url.join(URL(seen.location, encoded=True))
        if target.host not in HOME:
            return Visit(seen.location, seen.status, "")
        return _Step(target)
    found = _Found()
    found.feed(seen.text)
    if found.form is not None and seen.status < 400:
        return _Step(seen.url, {**found.fields, **forms[found.form]})
    # The app's page has an "Install" link too, so it is followed only at the start.
    if found.link is not None and begins:
        return _Step(seen.url.join(URL(found.link, encoded=True)))
    return Visit(str(seen.url), seen.status, seen.text)


@dataclass
class _Found(HTMLParser):
    """The form or link that a page asks the user to use."""

    form: str | None = None
    link: str | None = None
    fields: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form" and given.get("id") in (LOGIN, CONSENT, PLUGIN):
            self.form = given["id"]
        if tag == "a" and given.get("id") == INSTALL:
            self.link = given.get("href")
        if tag == "input" and given.get("name"):
            self.fields[given["name"] or ""] = given.get("value") or ""
