"""`BrokerAuth` for requests: adds the token to every request, and repeats it once with a new one after a 401."""

from functools import partial
from typing import Any

import requests
from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar

from .clients import SyncBroker, replacement
from .tokens import Token


class BrokerAuth(AuthBase):
    """Authentication as in `requests.get(url, auth=BrokerAuth(SyncBroker(…), "acme"))`, or `session.auth = …`.

    A request whose body is a stream is not repeated, because the stream is used up; its 401 is reported nevertheless.
    """

    def __init__(self, broker: SyncBroker, account: str) -> None:
        self._broker, self._account = broker, account

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        token = self._broker.token(self._account)
        request.headers["Authorization"] = token.header
        request.register_hook("response", partial(self._answered, token))  # type: ignore[no-untyped-call]  # in its stubs
        return request

    def _answered(self, token: Token, response: requests.Response, **sending: Any) -> requests.Response:
        """Handle the answer of each hop: repeat a request whose token the API rejected.

        A redirect to another origin removed the token from the request, so its 401 says nothing about the token.
        """
        request, body = response.request, response.request.body
        if response.status_code != 401 or request.headers.get("Authorization") != token.header:
            return response
        newer = replacement(self._broker, token)
        if newer is None or not isinstance(body, bytes | str | None):
            return response
        # Read to its end, so that the connection can be used again.
        _ = response.content
        response.close()
        # On the request itself, because a redirect that follows is made from it.
        request.headers["Authorization"] = newer.header
        again = request.copy()
        # As the digest authentication of requests does. It is sent past the session, so that a second 401 stands.
        jar = again._cookies  # type: ignore[attr-defined]  # not in its stubs
        extract_cookies_to_jar(jar, request, response.raw)  # type: ignore[no-untyped-call]  # in its stubs
        again.prepare_cookies(jar)
        repeated: requests.Response = response.connection.send(again, **sending)
        repeated.history.append(response)
        repeated.request = again
        return repeated
