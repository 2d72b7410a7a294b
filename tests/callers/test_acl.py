"""The ACL as a table."""

from fnmatch import fnmatchcase
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.callers.authorization import covers, may, name_ranges
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


NAMES = ["".join(letters) for length in (1, 2, 3) for letters in product("ab.-9", repeat=length)]


@given(st.lists(st.text("ab.-9*?[]!", min_size=1, max_size=4), max_size=5))
def test_every_name_that_a_glob_covers_is_in_a_range(globs: list[str]) -> None:
    """And in one only; a range that claims to be exact holds no other."""
    ranges = name_ranges(tuple(globs))
    held = {name: [one for one in ranges if one.low <= name <= one.high] for name in NAMES}

    assert all(before.high < behind.low for before, behind in pairwise(ranges))
    for name, holding in held.items():
        covered = any(fnmatchcase(name, glob) for glob in globs)
        assert covered is covers(caller(tuple(globs)), name)
        assert len(holding) <= 1
        assert holding or not covered
        assert covered or not any(one.is_exact for one in holding)


@pytest.mark.parametrize(
    ("globs", "ranges"),
    [
        ((), []),
        (("*",), [("", "~", True)]),
        (("acme",), [("acme", "acme", True)]),
        (("b-*", "a-*", "a-1", "a-2*", "b-*"), [("a-", "a-~", True), ("b-", "b-~", True)]),
        (("a-?",), [("a-", "a-~", False)]),
        (("a-?", "a-*"), [("a-", "a-~", True)]),
        (("*-eu", "kit-*"), [("", "~", False)]),
        (("a**",), [("a", "a~", True)]),
    ],
)
def test_globs_are_as_few_ranges_as_can_be(
    globs: tuple[str, ...], ranges: list[tuple[str, str, bool]]
) -> None:
    """Whatever their order; what another one covers is left out."""
    assert ranges == [(one.low, one.high, one.is_exact) for one in name_ranges(globs)]
