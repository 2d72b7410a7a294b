"""The errors by which providers say that a refresh token is revoked or expired, each with its source.

Most say `invalid_grant`, at one status or another, so that they need no entry:

* with 400: Google (porjo/youtubeuploader#181), Microsoft (blobfile/blobfile#93), Spotify (spotify/web-api#313),
  Intuit (intuit/oauth-jsclient#77), Discord (discord/discord-api-docs#8391), Meetup (meetuparchive/api#110),
  TikTok (developers.tiktok.com/doc/oauth-error-handling), Kick (KickEngineering/KickDevDocs#239),
  Bluesky (ChimeHQ/OAuthenticator#23), Zoom next to a `reason` (raycast/extensions#10896),
  Dropbox (nextcloud/integration_dropbox#34, dropbox/dropbox-sdk-dotnet#384); and of servers that many run:
  Keycloak (openid/AppAuth-iOS#843), WSO2 (wso2/product-is#9346),
  Django OAuth Toolkit (django-oauth/django-oauth-toolkit#1342)
* with 401: Tesla's owners' API (timdorr/tesla-api#233), Planning Center (planningcenter/developers#602)
* with 403: Atlassian (ParabolInc/parabol#5690), Box (support.box.com, 360049133654),
  Auth0 (support.auth0.com, troubleshoot-refresh-token-unknown-or-invalid-before-expiry)
* with a status that the source does not tell: Salesforce (restforce/restforce#81, jsforce/jsforce#1167),
  Xero (XeroAPI/xero-node#370), Okta (okta/okta-react-native#109),
  league/oauth2-server since 9 (thephpleague/oauth2-server#993 and #1042)

No public source was found for Kit. Its own library's live test of a wrong refresh token expects any error
(ConvertKit/convertkit-wordpress-libraries, tests/wpunit/APITest.php); `invalid_grant` counts there as everywhere.

An error is listed without a host only if it names the refresh token, so that it cannot mean anything else.
Some providers state it in members that are not read here, so they cannot be recognized by configuration either:
HubSpot in `status` (nango.dev/blog/hubspot-oauth-bad-refresh-token, which met `invalid_grant` there, too), Fitbit in
`errorType` (aarondcoleman/Fitbit.NET#320), Square in `type` (developer.squareup.com/forums, 11056), WeChat in
`errcode`, and Twitch (Teekeks/pyTwitchAPI#37) and Webex only in a sentence. Tesla's `login_required`
(teslamotors/vehicle-command#160) and Xee's bare `invalid_request` (xee-lab/xee-api-docs#82) can mean other things.
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
    # OpenAI, in `error.code`: decolua/9router#1821, Wei-Shaw/sub2api#2374, Wei-Shaw/sub2api#3467
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
    # Laravel Passport and others on league/oauth2-server before 9, with 401: laravel/passport#1605,
    # thephpleague/oauth2-server, src/Exception/OAuthServerException.php
    DeadError("invalid_request", "The refresh token is invalid."),
    # Keap: integration.keap.com, 82597
    DeadError("invalid_request", "Invalid Refresh Token"),
    # Authlib's servers before 0.11: lepture/authlib#112
    DeadError("invalid_request", 'Invalid "refresh_token" in request.'),
    # Dub, in `error.code`: speakeasy-api/gram#5638
    DeadError("unauthorized", "Refresh token not found."),
    # Strava, in `errors`: dreeveapp/dreeve#1449
    DeadError("invalid", "RefreshToken"),
)
LARK = (DeadError("20026"), DeadError("20037"), DeadError("20064"), DeadError("20073"))
"""Invalid, expired, revoked and used, in `code`: larksuite/cli#2135; larksuite/openclaw-lark, auth-errors.ts"""
X = (DeadError("invalid_request", "Value passed for the token was invalid."),)
"""transitive-bullshit/chatgpt-twitter-bot, src/twitter.ts; of codes it says “for the authorization code”
(plhery/node-twitter-api-v2#496)."""
AT_HOSTS = {
    # With 200: schmorrison/Zoho#18, Weble/ZohoBooksApi#84
    "accounts.zoho": (DeadError("invalid_code"),),
    # In `error.code`, with 401: Wei-Shaw/sub2api#3696
    "auth.openai.com": (DeadError("token_expired"),),
    "open.feishu.cn": LARK,
    "open.larksuite.com": LARK,
    "open.larkoffice.com": LARK,
    "api.x.com": X,
    "api.twitter.com": X,
    # With 403, besides invalid_grant: raycast/extensions#11836
    "auth.atlassian.com": (DeadError("unauthorized_client", "refresh_token is invalid"),),
    # EVE Online: ccpgames/sso-issues#54
    "login.eveonline.com": (DeadError("invalid_grant: Token is expired or invalid."),),
    # Firebase, in `error`: awinogrodzki/next-firebase-auth-edge#21, firebase.google.com/docs/reference/rest/auth
    "securetoken.googleapis.com": (
        DeadError("400", "TOKEN_EXPIRED"),
        DeadError("400", "INVALID_REFRESH_TOKEN"),
        DeadError("400", "USER_NOT_FOUND"),
    ),
    # Baidu: AlistGo/alist#9558
    "openapi.baidu.com": (DeadError("expired_token", "refresh token has been used"),),
}


def dead_errors_of(token_url: str, configured: tuple[DeadError, ...]) -> tuple[DeadError, ...]:
    """Return the errors by which the provider at that URL says that a grant is revoked or expired."""
    host = urlsplit(token_url).hostname or ""
    of_host = (
        error for start, some in AT_HOSTS.items() if f"{host}.".startswith(f"{start}.") for error in some
    )
    return (*ANYWHERE, *of_host, *configured)
