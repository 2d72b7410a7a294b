"""The command line, one module per group of commands; all but a few only talk to the running broker."""

from broker.cli.root import broker

__all__ = ["broker"]
