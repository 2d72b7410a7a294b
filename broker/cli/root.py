"""The command `broker` and everything below it."""

import click

from broker import __version__
from broker.cli.accounts import accounts
from broker.cli.audit import audit
from broker.cli.callers import callers
from broker.cli.check import check
from broker.cli.command import Group
from broker.cli.complete import completion
from broker.cli.dashboard import dashboard
from broker.cli.events import events
from broker.cli.installs import install_link
from broker.cli.keys import keys
from broker.cli.kustomer import kustomer
from broker.cli.moving import export_accounts, import_accounts
from broker.cli.plugin import plugin
from broker.cli.process import reload, sandbox, serve
from broker.cli.providers import providers
from broker.cli.store import adopt, backup, migrate, restore
from broker.cli.systemd import systemd
from broker.cli.tokens import token
from broker.cli.version import version


@click.version_option(__version__, prog_name="token-broker", message="%(prog)s %(version)s")
@click.group("broker", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def broker() -> None:
    """Keeps OAuth connections to Kit and Kustomer alive and hands out fresh tokens.

    Every command ends with 0 when done, 1 when it failed, 2 when it was used wrongly.
    """


accounts.add_command(import_accounts)
accounts.add_command(export_accounts)

for command in (
    serve,
    reload,
    check,
    token,
    install_link,
    accounts,
    callers,
    providers,
    plugin,
    kustomer,
    events,
    dashboard,
    audit,
    keys,
    backup,
    restore,
    adopt,
    migrate,
    sandbox,
    systemd,
    version,
    completion,
):
    broker.add_command(command)
