"""How a command fails: exit code 1 and one sentence on standard error."""

from typing import IO, Any

import click

from broker.cli.text import one_line


class Failed(click.ClickException):
    """The command could not do what it was asked; the message is for people and holds no secret."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=file is None)


class NoBroker(Failed):
    """Nobody answers at the admin socket."""


class NotStarted(Failed):
    """The broker is starting, or cannot start; the message says which."""
