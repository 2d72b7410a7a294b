"""The command `broker` and everything below it."""

import click

from broker import __version__
from broker.cli.accounts import accounts, install_link, token
from broker.cli.audit import audit, events
from broker.cli.callers import callers, plugin
from broker.cli.command import Group
from broker.cli.providers import kustomer, providers
from broker.cli.service import check, completion, dashboard, reload, sandbox, serve, systemd, version
from broker.cli.setup import config, init
from broker.cli.store import adopt, backup, keys, migrate, restore
from broker.cli.transfer import export_accounts, import_accounts


@click.version_option(__version__, prog_name="token-broker", message="%(prog)s %(version)s")
@click.group("broker", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def broker() -> None:
    """Keeps OAuth connections to Kit and Kustomer alive and hands out fresh tokens.

    Every command ends with 0 when done, 1 when it failed, 2 when it was used wrongly.
    """


accounts.add_command(import_accounts)
accounts.add_command(export_accounts)

for command in (
    init,
    config,
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
