"""Reads an authorization request (RFC 6749 4.1.1). Pure; client and address are checked before all else."""

import json
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

from broker import oauth
from broker.config.settings import PluginClient
from broker.plugin.clients import BOUNCES, VISIBLE, Bounced, Clients

CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""S256 of anything: 32 bytes in base64url without padding (RFC 7636 4.2)."""
MOST_FIELDS = 1000
RECOGNIZED = (
    "client_id",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
)

Why = Literal["malformed", "client", "redirect_uri"]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that a person may be asked about."""

    client: PluginClient
    redirect_uri: str
    redirect_uri_given: bool
    state: str | None
    scope: str
    challenge: str | None


@dataclass(frozen=True, slots=True)
class Bounce:
    """Wrong, or refused, in a way that the client is told by redirecting."""

    redirect_uri: str
    state: str | None
    error: Bounced

    def location(self, issuer: str) -> str:
        """With `iss`, so that nobody takes the answer for another server's (RFC 9207)."""
        told = {"error": self.error, "error_description": BOUNCES[self.error]}
        return answer_location(self.redirect_uri, told, self.state, issuer)


@dataclass(frozen=True, slots=True)
class Unredirectable:
    """Wrong in a way that is shown to the person: whoever wrote the address must not get the browser."""

    why: Why


def read_ask(raw_query: str, clients: Clients) -> Ask | Bounce | Unredirectable:
    """What an authorization request wants, or what is wrong with it."""
    try:
        pairs = parse_qsl(raw_query, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        return Unredirectable("malformed")
    parameters = dict(pairs)
    # Only of those that mean something here: unrecognized ones are ignored (RFC 6749 3.1).
    names = [name for name, _ in pairs]
    repeated = {name for name in RECOGNIZED if names.count(name) > 1}
    client = None if "client_id" in repeated else clients.by_id(parameters.get("client_id", ""))
    if client is None:
        return Unredirectable("client")
    given = parameters.get("redirect_uri")
    redirect_uri = given or _only(client.redirect_uris)
    if "redirect_uri" in repeated or redirect_uri not in client.redirect_uris:
        return Unredirectable("redirect_uri")
    return _read(parameters, client, redirect_uri, given is not None, is_repeated=bool(repeated))


def _read(
    parameters: dict[str, str], client: PluginClient, redirect_uri: str, given: bool, *, is_repeated: bool
) -> Ask | Bounce:
    state, response_type = parameters.get("state"), parameters.get("response_type")
    method, challenge = parameters.get("code_challenge_method"), parameters.get("code_challenge")
    if is_repeated or (state is not None and not VISIBLE.fullmatch(state)):
        return Bounce(redirect_uri, None, "invalid_request")
    if response_type != "code":
        error: Bounced = "unsupported_response_type" if response_type else "invalid_request"
        return Bounce(redirect_uri, state, error)
    if (challenge, method) != (None, None) and (method != "S256" or not CHALLENGE.fullmatch(challenge or "")):
        # A challenge without a method would be `plain`, which proves nothing (RFC 9700 2.1.1).
        return Bounce(redirect_uri, state, "invalid_request")
    scope = granted_scope(parameters.get("scope"), client.scopes)
    if scope is None:
        return Bounce(redirect_uri, state, "invalid_scope")
    return Ask(client, redirect_uri, given, state, scope, challenge)


def granted_scope(asked: str | None, allowed: tuple[str, ...]) -> str | None:
    """The scopes to grant: those asked for, else all that are allowed; None where one is not.

    Kit writes them with spaces or with commas; its documents say both.
    """
    if asked is None:
        return oauth.scope_text(allowed)
    wanted = set(re.split(r"[ ,]+", asked.strip(" ,"))) - {""}
    return oauth.scope_text(one for one in allowed if one in wanted) if wanted <= set(allowed) else None


def answer_location(redirect_uri: str, members: dict[str, str], state: str | None, issuer: str) -> str:
    """Where the browser goes with an answer; what the address holds already is kept (RFC 6749 3.1.2)."""
    echoed = {} if state is None else {"state": state}
    return oauth.with_query(redirect_uri, {**members, **echoed, "iss": issuer})


def ask_to_text(ask: Ask) -> str:
    """For the way through a sign-in."""
    return json.dumps(
        [ask.client.name, ask.redirect_uri, ask.redirect_uri_given, ask.state, ask.scope, ask.challenge]
    )


def ask_from_text(text: str, clients: Clients) -> Ask | None:
    """None where the client, its address or a scope was taken out of the configuration meanwhile."""
    name, redirect_uri, given, state, scope, challenge = json.loads(text)
    client = clients.named(name)
    if (
        client is None
        or redirect_uri not in client.redirect_uris
        or not set(scope.split()) <= set(client.scopes)
    ):
        return None
    return Ask(client, redirect_uri, given, state, scope, challenge)


def _only(redirect_uris: tuple[str, ...]) -> str:
    """The address where there is just one, which then need not be given (RFC 6749 3.1.2.3)."""
    return redirect_uris[0] if len(redirect_uris) == 1 else ""
