"""How providers say in their own words that a refresh token is dead, each with its source.

Most say `invalid_grant`, at one status or another: Google, Microsoft (blobfile/blobfile#93), Atlassian with 403
(ParabolInc/parabol#5690), Auth0 with 403, Box (support.box.com, 360049133654), Zoom beside a `reason`
(raycast/extensions#10896), Spotify (spotify/web-api#313), Okta, Keycloak (openid/AppAuth-iOS#843), Bluesky
(ChimeHQ/OAuthenticator#23), Xero, Intuit, Salesforce, Dropbox, Kit. That word needs no entry.

A word stands here without a host only where it names the refresh token, so that it can mean nothing else.
HubSpot (`status`), Fitbit (`errorType`) and Square (`type`) use other members, and Twitch only a sentence; their
answers are no refusals, by rule.
"""

from urllib.parse import urlsplit

from broker.config.settings import DeadError

ANYWHERE = (
    DeadError("invalid_grant"),
    # GitHub, with 200: lelylan/simple-oauth2#459, speakeasy-api/gram#6088
    DeadError("bad_refresh_token"),
    # Slack, with 200: api.slack.com/methods/tooling.tokens.rotate
    DeadError("invalid_refresh_token"),
    # Yahoo: josuebrunel/yahoo-oauth#51
    DeadError("INVALID_REFRESH_TOKEN"),
    # Tencent CloudBase: docs.cloudbase.net/en/error-code/basic/REFRESH_TOKEN_EXPIRED
    DeadError("REFRESH_TOKEN_EXPIRED"),
    # OpenAI, in `error.code`: decolua/9router#1821
    DeadError("refresh_token_expired"),
    DeadError("refresh_token_reused"),
    DeadError("refresh_token_invalidated"),
    # Supabase, in `error_code`: supabase/auth#2829 and its documented error codes
    DeadError("refresh_token_not_found"),
    DeadError("refresh_token_already_used"),
    # Exact Online, with 401: picqer/exact-php-client#640
    DeadError("unauthorized_client", "Old refresh token used."),
    DeadError("unauthorized_client", "Old refresh token used"),
    # DeviantArt: wix-incubator/DeviantArt-API#58
    DeadError("invalid_request", "The refresh_token is invalid."),
    # Authlib's servers before 0.11: lepture/authlib#112
    DeadError("invalid_request", 'Invalid "refresh_token" in request.'),
    # Dub, in `error.code`: speakeasy-api/gram#5638
    DeadError("unauthorized", "Refresh token not found."),
    # Strava, in `errors`: dreeveapp/dreeve#1449
    DeadError("invalid", "RefreshToken"),
)
AT_HOSTS = {
    # With 200: schmorrison/Zoho#18, Weble/ZohoBooksApi#84
    "accounts.zoho": (DeadError("invalid_code"),),
    # In `error.code`, with 401: Wei-Shaw/sub2api#3696
    "auth.openai.com": (DeadError("token_expired"),),
    # Invalid and expired, in `code`: larksuite/cli#2135
    "open.feishu.cn": (DeadError("20026"), DeadError("20037")),
    "open.larksuite.com": (DeadError("20026"), DeadError("20037")),
}


def dead_errors_of(token_url: str, configured: tuple[DeadError, ...]) -> tuple[DeadError, ...]:
    """The errors by which the provider behind that address says that a grant is dead."""
    host = urlsplit(token_url).hostname or ""
    of_host = (
        error for start, some in AT_HOSTS.items() if f"{host}.".startswith(f"{start}.") for error in some
    )
    return (*ANYWHERE, *of_host, *configured)
