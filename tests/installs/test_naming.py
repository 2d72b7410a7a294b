"""Which account a new grant becomes, as a table."""

from dataclasses import replace

import pytest

from broker.installs.connect import IdentityConflict, derived_name, name_for
from broker.model import Account, Identity, PendingInstall, is_account_name
from tests.store.rows import account, install

NOBODY = None
ID_29, ID_31 = Identity("29"), Identity("31")


def session(name: str | None, *, instead: bool = False, subject: str | None = None) -> PendingInstall:
    return replace(install(), account=name, replace=instead, subject=subject)


def row(name: str, external_id: str | None, *, subject: str | None = None, provider: str = "kit") -> Account:
    return replace(account(name, provider=provider), external_id=external_id, subject=subject)


def conflict(problem: str, name: str | None) -> IdentityConflict:
    return IdentityConflict(problem, name)  # type: ignore[arg-type]  # a word of the closed set, from a table


@pytest.mark.parametrize(
    ("case", "identity", "known", "named", "expected"),
    [
        pytest.param(session("acme"), ID_29, NOBODY, NOBODY, "acme", id="a free name takes it"),
        pytest.param(session(None), ID_29, NOBODY, NOBODY, "kit-29", id="unnamed: after the id"),
        pytest.param(
            session(None), NOBODY, NOBODY, NOBODY, conflict("no_name", None), id="neither a name nor an id"
        ),
        pytest.param(session("acme"), NOBODY, NOBODY, NOBODY, "acme", id="named without an id"),
        pytest.param(
            session("acme"), ID_29, row("acme", "29"), row("acme", "29"), "acme", id="the same again"
        ),
        pytest.param(session(None), ID_29, row("acme", "29"), NOBODY, "acme", id="known: under its own name"),
        pytest.param(
            session("other"),
            ID_29,
            row("acme", "29"),
            NOBODY,
            conflict("other_name", "acme"),
            id="known under another name than the ticket's",
        ),
        pytest.param(
            session("other", instead=True),
            ID_29,
            row("acme", "29"),
            NOBODY,
            conflict("other_name", "acme"),
            id="replace is about identities, not about names",
        ),
        pytest.param(
            session("other", instead=True),
            ID_29,
            row("acme", "29"),
            row("other", "31"),
            conflict("other_name", "acme"),
            id="replace does not give one identity two names",
        ),
        pytest.param(
            session("acme"),
            ID_31,
            NOBODY,
            row("acme", "29"),
            conflict("other_identity", "acme"),
            id="another identity over an account",
        ),
        pytest.param(
            session("acme", instead=True), ID_31, NOBODY, row("acme", "29"), "acme", id="with replace"
        ),
        pytest.param(
            session("acme"),
            NOBODY,
            NOBODY,
            row("acme", "29"),
            conflict("unknown_identity", "acme"),
            id="an unknown identity over a known one",
        ),
        pytest.param(
            session("acme"), ID_29, NOBODY, row("acme", None), "acme", id="over one without identity"
        ),
        pytest.param(
            session("acme"),
            ID_29,
            NOBODY,
            row("acme", "29", provider="kustomer"),
            conflict("other_identity", "acme"),
            id="the same id at another provider",
        ),
        pytest.param(
            session(None),
            ID_29,
            NOBODY,
            row("kit-29", "31"),
            conflict("other_identity", "kit-29"),
            id="the derived name is somebody else's",
        ),
        pytest.param(
            session(None, subject="ann"),
            ID_29,
            row("acme", "29", subject="bob"),
            NOBODY,
            conflict("other_subject", "acme"),
            id="known, and another person's",
        ),
        pytest.param(
            session("acme", subject="ann"),
            ID_29,
            NOBODY,
            row("acme", None, subject="bob"),
            conflict("other_subject", "acme"),
            id="named, and another person's",
        ),
        pytest.param(
            session(None, subject="ann"),
            ID_29,
            row("acme", "29", subject="ann"),
            NOBODY,
            "acme",
            id="the same person",
        ),
        pytest.param(
            session(None, subject="ann"), ID_29, row("acme", "29"), NOBODY, "acme", id="nobody's yet"
        ),
        pytest.param(
            session(None),
            ID_29,
            row("acme", "29", subject="bob"),
            NOBODY,
            "acme",
            id="nobody signed in: the operator's link",
        ),
    ],
)
def test_grant_becomes_an_account_or_nobodys(
    case: PendingInstall,
    identity: Identity | None,
    known: Account | None,
    named: Account | None,
    expected: str | IdentityConflict,
) -> None:
    """One identity has one name, and one name keeps its identity unless the ticket says `replace`."""
    assert expected == name_for(case, identity, known=known, named=named)


@pytest.mark.parametrize(
    ("external_id", "name"),
    [
        ("29", "kit-29"),
        ("5F-aB.c_d", "kit-5f-ab.c_d"),
        ("a b/c\n", "kit-a-b-c-"),
        ("../../etc", "kit-..-..-etc"),
        ("ÄÖ", "kit---"),
        ("\u212a", "kit-k"),  # the Kelvin sign is a k in lower case
        ("x" * 124, "kit-" + "x" * 124),
        ("x" * 200, "kit-" + "x" * 111 + "-aa20c23e3201"),
    ],
)
def test_name_is_derived_from_the_id(external_id: str, name: str) -> None:
    """Lower-cased, with a hyphen for what a name cannot hold, and always a name."""
    assert name == derived_name("kit", external_id)
    assert is_account_name(derived_name("kit", external_id))


@pytest.mark.parametrize("tail", ["a", "b" * 50, "", "\u00e9"])
def test_long_ids_that_differ_at_their_end_get_names_of_their_own(tail: str) -> None:
    """A name holds 128 characters, an id may hold many more."""
    assert derived_name("kit", "x" * 200 + tail) != derived_name("kit", "x" * 200 + "c" + tail)
