"""The demonstration: connects accounts through the real install flow and prints a command to paste."""

import shutil
import sys
from contextlib import suppress

import structlog

from broker.admin.routes import operator
from broker.app import Broker
from broker.app.listeners import typed
from broker.config.settings import Settings
from broker.config.values import UnixListen
from broker.errors import BrokerError, NotFound
from broker.model import Permission, Secret
from broker.sandbox import visitor

log = structlog.get_logger()
DEMO = "demo"
WHO = operator(0)
REQUEST = "demo"


async def show_demo(broker: Broker, settings: Settings) -> None:
    """Connect the demo accounts and print the banner, to standard output only, because it contains a key."""
    if not (settings.sandbox.enabled and settings.sandbox.demo):
        return
    try:
        for provider in ("kit", "kustomer"):
            name = f"demo-{provider}"
            account = await broker.context.stores.accounts.get(name)
            if account is None or account.removed_at is not None or account.dead:
                await visitor.install(await _link(broker, provider, name))
        # The demo key is new at each start; the old one stops working.
        with suppress(NotFound):
            await broker.callers.service.remove(WHO, DEMO, request_id=REQUEST)
        _, key = await broker.callers.service.add(
            WHO,
            name=DEMO,
            accounts=["demo-*"],
            permissions=[Permission.TOKEN],
            expires_in=None,
            request_id=REQUEST,
        )
        links = [await _link(broker, provider, None) for provider in ("kit", "kustomer")]
        sign_in = await broker.sessions.new_link(WHO)
    except (BrokerError, OSError, visitor.LostError) as exc:
        log.error("demo.failed", error=type(exc).__name__, why=str(exc)[:200])
        return
    sys.stdout.write(_banner(settings, key, links, sign_in, has_curl=shutil.which("curl") is not None))
    sys.stdout.flush()


async def _link(broker: Broker, provider: str, account: str | None) -> str:
    url, _ = await broker.installs.service.create(
        WHO,
        provider=provider,
        account=account,
        org=None,
        return_to=None,
        replace_identity=account is not None,
        request_id=REQUEST,
    )
    return url


def _banner(settings: Settings, key: Secret, links: list[str], sign_in: Secret, *, has_curl: bool) -> str:
    listen = min(settings.server.internal, key=lambda one: isinstance(one, UnixListen))
    where = f"{'https' if settings.server.internal_tls else 'http'}://{listen}"
    if isinstance(listen, UnixListen):
        where = f"--unix-socket {listen.path} http://broker"
    kit, kustomer = links
    command = typed(settings.path)
    instead = (
        ""
        if has_curl
        else f"""
  curl is not installed here (apt-get install curl). This line needs nothing:

{command} token demo-kit --json
"""
    )
    return f"""
  token-broker is running, with a sandbox that stands in for Kit and Kustomer. Nothing here is real.

  The dashboard, for a minute:       {settings.server.internal_url}/dashboard/sign-in?link={sign_in.reveal()}
  A new link to it, at any time:     {command} dashboard
  Connect another Kit account:       {kit}
  Connect another Kustomer account:  {kustomer}
  The sandbox and its switches:      http://{settings.sandbox.listen}/

  demo-kit and demo-kustomer are connected. This line fetches a token with curl; paste it into another terminal:

curl -sS -H 'Authorization: Bearer {key.reveal()}' {where}/token/demo-kit
{instead}
  Ctrl-C stops it.
"""
