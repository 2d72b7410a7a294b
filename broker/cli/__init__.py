"""The command line, one module per group of commands; all but a few only talk to the running broker."""

import click

from broker import __version__
from broker.cli.access import audit, callers, plugin
from broker.cli.accounts import accounts, install_link, token
from broker.cli.command import Group
from broker.cli.providers import kustomer, providers
from broker.cli.service import (
    check,
    completion,
    dashboard,
    events,
    reload,
    sandbox,
    serve,
    systemd,
    version,
)
from broker.cli.setup import config, init
from broker.cli.store import adopt, backup, keys, migrate, restore
from broker.cli.transfer import export_accounts, import_accounts


@click.version_option(__version__, prog_name="token-broker", message="%(prog)s %(version)s")
@click.group("broker", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def broker() -> None:
    """Keeps OAuth connections to Kit and Kustomer alive and hands out fresh tokens.

    Every command ends with 0 when done, 1 when it failed, 2 when it was used wrongly.
    """


for group in (callers, plugin, audit, accounts, providers, kustomer, keys, systemd, config):
    broker.add_command(group)
for command in (
    init,
    token,
    install_link,
    serve,
    reload,
    version,
    check,
    events,
    dashboard,
    sandbox,
    completion,
):
    broker.add_command(command)
for command in (backup, restore, adopt, migrate):
    broker.add_command(command)
for command in (import_accounts, export_accounts):
    accounts.add_command(command)
