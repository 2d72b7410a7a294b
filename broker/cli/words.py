"""What may stand on the command line: names, durations, addresses; anything else is wrong usage."""

import re

import click

from broker.config.durations import EXPECTED, parse_duration
from broker.config.settings import TcpListen
from broker.config.urls import HOST_AND_PORT, page_problem
from broker.model import is_account_name

CALLER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
GRANT = re.compile(r"[0-9a-f]{16}", re.ASCII)
KUSTOMER_APP = re.compile(r"[a-z0-9][a-z0-9_.-]{0,127}", re.ASCII)
VERSION = re.compile(r"\d{1,6}\.\d{1,6}\.\d{1,6}", re.ASCII)
KID = re.compile(r"[0-9a-f]{16}", re.ASCII)
PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)


def account(text: str) -> str:
    if not is_account_name(text):
        raise _wrong(text, "an account's name: lower-case letters, digits and . _ -, at most 128")
    return text


def caller(text: str) -> str:
    if not CALLER.fullmatch(text):
        raise _wrong(text, "a caller's name: lower-case letters, digits and . _ -, at most 64")
    return text


def provider(text: str) -> str:
    if not PROVIDER.fullmatch(text):
        raise _wrong(text, "a provider's name: lower-case letters, digits and -, at most 32")
    return text


def grant(text: str) -> str:
    if not GRANT.fullmatch(text):
        raise _wrong(text, "a grant, as `broker plugin grants` lists them")
    return text


def kustomer_app(text: str) -> str:
    if not KUSTOMER_APP.fullmatch(text):
        raise _wrong(text, "an app's name: lower-case letters, digits and _ -, at most 128")
    return text


def version(text: str) -> str:
    if not VERSION.fullmatch(text):
        raise _wrong(text, "a version, as in 0.0.1")
    return text


def page(text: str) -> str:
    """An address, without a slash at its end."""
    if page_problem(text):
        raise _wrong(text, "an address: https, or http on loopback")
    return text.rstrip("/")


def kid(text: str) -> str:
    if not KID.fullmatch(text):
        raise _wrong(text, "a key's id: 16 hexadecimal digits, as `broker keys list` shows them")
    return text


def duration(text: str) -> int:
    """Whole seconds, written as in the configuration."""
    seconds = parse_duration(text)
    if not seconds:
        raise _wrong(text, EXPECTED)
    return int(seconds)


def address(text: str) -> TcpListen:
    """`host:port`."""
    found = HOST_AND_PORT.fullmatch(text)
    if not found or int(found[2]) > 65535:
        raise _wrong(text, "host:port, as in 127.0.0.1:8089")
    return TcpListen(found[1].strip("[]"), int(found[2]))


def _wrong(text: str, expected: str) -> click.BadParameter:
    return click.BadParameter(f"{text!r} is not {expected}.")
