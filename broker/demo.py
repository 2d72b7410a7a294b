"""What a newcomer sees: demo accounts connected through the real install flow, and one line to paste."""

import shutil
import sys
from contextlib import suppress

import structlog

from broker.admin.routes import operator
from broker.app import Broker
from broker.app.listeners import typed
from broker.config.settings import Settings, UnixListen
from broker.errors import BrokerError, NotFound
from broker.model import Permission, Secret
from broker.sandbox import visitor

log = structlog.get_logger()
DEMO = "demo"
WHO = operator(0)
REQUEST = "demo"


async def show_demo(broker: Broker, settings: Settings) -> None:
    """Connect the demo accounts and print the banner, to standard output only; it holds a key."""
    if not (settings.sandbox.enabled and settings.sandbox.demo):
        return
    try:
        for provider in ("kit", "kustomer"):
            await _connect(broker, provider)
        key = await _new_key(broker)
        links = [await _install_link(broker, provider) for provider in ("kit", "kustomer")]
        way_in = await broker.sessions.new_link(WHO)
    except (BrokerError, OSError, visitor.LostError) as exc:
        log.error("demo.failed", error=type(exc).__name__, why=str(exc)[:200])
        return
    sys.stdout.write(_banner(settings, key, links, way_in, has_curl=shutil.which("curl") is not None))
    sys.stdout.flush()


async def _connect(broker: Broker, provider: str) -> None:
    account = await broker.context.stores.accounts.get(f"demo-{provider}")
    if account is not None and account.removed_at is None and not account.dead:
        return
    url, _ = await broker.installs.service.create(
        WHO,
        provider=provider,
        account=f"demo-{provider}",
        org=None,
        return_to=None,
        replace_identity=True,
        request_id=REQUEST,
    )
    await visitor.install(url)


async def _new_key(broker: Broker) -> Secret:
    """The demo key is new at each start; the old one stops working."""
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
    return key


async def _install_link(broker: Broker, provider: str) -> str:
    url, _ = await broker.installs.service.create(
        WHO,
        provider=provider,
        account=None,
        org=None,
        return_to=None,
        replace_identity=False,
        request_id=REQUEST,
    )
    return url


def _banner(settings: Settings, key: Secret, links: list[str], way_in: Secret, *, has_curl: bool) -> str:
    listen = next(iter(sorted(settings.server.internal, key=lambda one: isinstance(one, UnixListen))))
    scheme = "https" if settings.server.internal_tls else "http"
    where = (
        f"--unix-socket {listen.path} http://broker"
        if isinstance(listen, UnixListen)
        else f"{scheme}://{listen}"
    )
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
  token-broker is running, with a sandbox that plays Kit and Kustomer. Nothing here is real.

  The dashboard, for a minute:       {settings.server.internal_url}/dashboard/sign-in?link={way_in.reveal()}
  A new link to it, at any time:     {command} dashboard
  Connect another Kit account:       {kit}
  Connect another Kustomer account:  {kustomer}
  The sandbox and its switches:      http://{settings.sandbox.listen}/

  demo-kit and demo-kustomer are connected. This line fetches a token with curl; paste it into another terminal:

curl -sS -H 'Authorization: Bearer {key.reveal()}' {where}/token/demo-kit
{instead}
  Ctrl-C stops it.
"""
