"""`BrokerAuth` for requests: the token on every request, and once more with a new one after a 401."""

from functools import partial
from typing import Any

import requests
from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar

from .clients import SyncBroker, replacement
from .tokens import Token


class BrokerAuth(AuthBase):
    """`requests.get(url, auth=BrokerAuth(SyncBroker(…), "acme"))`, or `session.auth = …`.

    A request whose body is a stream is not repeated, since it is gone; its 401 is reported all the same.
    """

    def __init__(self, broker: SyncBroker, account: str) -> None:
        self._broker, self._account = broker, account

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        token = self._broker.token(self._account)
        request.headers["Authorization"] = token.header
        request.register_hook("response", partial(self._answered, token))  # type: ignore[no-untyped-call]  # in its stubs
        return request

    def _answered(self, token: Token, response: requests.Response, **sending: Any) -> requests.Response:
        """Called for every hop; a redirect to another origin took the header off, and its 401 is not ours."""
        request = response.request
        if response.status_code != 401 or request.headers.get("Authorization") != token.header:
            return response
        newer, body = replacement(self._broker, token), request.body
        if newer is None or not isinstance(body, bytes | str | None):
            return response
        return _repeated(response, newer, sending)


def _repeated(response: requests.Response, token: Token, sending: dict[str, Any]) -> requests.Response:
    """Sent past the session, so that no hook sees the answer, and a second 401 stands."""
    # Read to its end, so that the connection can be used again.
    _ = response.content
    response.close()
    request = response.request
    # On the request itself, because a redirect that follows is made from it.
    request.headers["Authorization"] = token.header
    again = request.copy()
    # As requests' own digest authentication does.
    jar = again._cookies  # type: ignore[attr-defined]  # not in its stubs
    extract_cookies_to_jar(jar, request, response.raw)  # type: ignore[no-untyped-call]  # in its stubs
    again.prepare_cookies(jar)
    repeated: requests.Response = response.connection.send(again, **sending)
    repeated.history.append(response)
    repeated.request = again
    return repeated
