"""`broker adopt`: make a copied or restored store the original."""

import click

from broker.cli.command import Command
from broker.cli.desk import Desk
from broker.cli.text import counted, plain


@click.command("adopt", cls=Command, example="broker adopt")
@click.pass_obj
def adopt(desk: Desk) -> None:
    """Renew from this store although it is a copy.

    Say so only if no other broker runs on the original. A store that was copied or restored
    from a backup serves living tokens but renews nothing until then: two brokers that renew the same
    grants would kill them.
    """
    names = desk.broker.ask("POST", "/adopt")["accounts"]
    click.echo("Adopted: this store is renewed from now on.")
    if names:
        click.echo(f"{counted(len(names), 'account')} may need their person again:")
        for name in names:
            click.echo(f"  {plain(name)}")
