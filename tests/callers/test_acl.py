"""The ACL as a table."""

import pytest

from broker.callers.acl import may
from broker.model import Caller, Permission


def caller(accounts: tuple[str, ...], *permissions: Permission) -> Caller:
    return Caller("c", accounts, frozenset(permissions), "key k")


@pytest.mark.parametrize(
    ("globs", "account", "allowed"),
    [
        ((), "acme", False),
        (("acme",), "acme", True),
        (("acme",), "acme2", False),
        (("acme",), "ACME", False),
        (("kit-*",), "kit-1", True),
        (("kit-*",), "kit-", True),
        (("kit-*",), "kit", False),
        (("kit-*",), "xkit-1", False),
        (("a", "b-*"), "b-1", True),
        (("*",), "anything", True),
        (("kit-?",), "kit-12", False),
        (("kit-[0-4]",), "kit-3", True),
        (("kit-[!0-4]",), "kit-3", False),
    ],
)
def test_globs(globs: tuple[str, ...], account: str, allowed: bool) -> None:
    """Whole names, case and all; none covers nothing."""
    assert allowed is may(caller(globs, Permission.TOKEN), Permission.TOKEN, account)


@pytest.mark.parametrize("held", list(Permission))
@pytest.mark.parametrize("asked", list(Permission))
def test_no_permission_implies_another(held: Permission, asked: Permission) -> None:
    """Each is a right of its own, `admin` too."""
    assert (held is asked) is may(caller(("*",), held), asked, "acme")


def test_nobody_may_anything_by_default() -> None:
    """Deny is where it starts."""
    assert not any(may(caller(("*",)), permission, None) for permission in Permission)
