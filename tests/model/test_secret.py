"""A Secret lets nothing out but through `reveal()`."""

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from broker.model import Secret

CANARY = "canary-5e1f-secret"


@dataclass(frozen=True, slots=True)
class Holder:
    name: str
    secret: Secret


PRINTED: dict[str, Callable[[Secret], str]] = {
    "str": str,
    "repr": repr,
    "ascii": ascii,
    "f-string": lambda secret: f"{secret}",
    "f-string with !r": lambda secret: f"{secret!r}",
    "f-string with a width": lambda secret: f"{secret:>40}",
    "format": "{:s}".format,
    "percent": lambda secret: "%s %r %a" % (secret, secret, secret),  # noqa: UP031 - the same
    "list": lambda secret: str([secret, {"k": secret}, (secret,)]),
    "dataclass": lambda secret: repr(Holder("acme", secret)),
    "log record": lambda secret: logging.LogRecord("n", 20, "p", 1, "%s", (secret,), None).getMessage(),
    "json with a default": lambda secret: json.dumps({"k": secret}, default=str),
    "docs of the class": lambda secret: f"{type(secret).__doc__} {dir(secret)}",
}


@pytest.mark.parametrize("way", PRINTED)
def test_printed_secret_shows_stars_only(way: str) -> None:
    """However it is turned into text."""
    text = PRINTED[way](Secret(CANARY))

    assert CANARY not in text
    assert way == "docs of the class" or "***" in text


REFUSED: dict[str, Callable[[Any], object]] = {
    "pickle": pickle.dumps,
    "pickle in the oldest way": lambda secret: pickle.dumps(secret, 0),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "asdict": lambda secret: asdict(Holder("acme", secret)),
    "state": lambda secret: secret.__getstate__(),
    "reduce": lambda secret: secret.__reduce_ex__(4),
    "json": json.dumps,
    "hash": hash,
    "set": lambda secret: {secret},
    "key of a dict": lambda secret: {secret: 1},
    "hash of what holds it": lambda secret: hash(Holder("acme", secret)),
    "bytes": bytes,
    "len": len,
    "iteration": list,
    "index": lambda secret: secret[0],
    "contains": lambda secret: "c" in secret,
    "concatenation": lambda secret: "Bearer " + secret,
    "join": lambda secret: ",".join([secret]),
    "order": lambda secret: secret < Secret("x"),
    "vars": vars,
}


@pytest.mark.parametrize("way", REFUSED)
def test_secret_refuses_to_be_taken_apart(way: str) -> None:
    """With a TypeError that does not tell it either."""
    with pytest.raises(TypeError) as caught:
        REFUSED[way](Secret(CANARY))

    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Secret(CANARY), True),
        (Secret(CANARY + "x"), False),
        (Secret("x" * len(CANARY)), False),
        (CANARY, False),
        (None, False),
    ],
)
def test_secret_equals_the_same_secret_only(other: object, same: bool) -> None:
    """And never a plain string, which would compare in variable time."""
    secret = Secret(CANARY)

    assert same == (secret == other)
    assert same != (secret != other)


def test_odd_secret_compares_without_an_error_that_holds_it() -> None:
    """A lone surrogate cannot be encoded; UnicodeEncodeError would carry the whole string away."""
    odd = Secret(CANARY + "\ud800")

    assert odd == Secret(CANARY + "\ud800")
    assert odd != Secret(CANARY)


def test_reveal_is_the_way_out() -> None:
    """For where the bytes belong."""
    assert Secret(CANARY).reveal() == CANARY
