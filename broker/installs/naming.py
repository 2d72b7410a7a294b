"""Which account a new grant becomes. Pure: the rules of identity in one table."""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from broker.model import Account, Identity, PendingInstall

MOST_NAME = 128
Problem = Literal["other_name", "other_subject", "other_identity", "no_name", "link_used"]


@dataclass(frozen=True, slots=True)
class Becomes:
    """The grant becomes the next epoch of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Conflicts:
    """The grant must not become anybody's."""

    problem: Problem
    name: str | None
    """The account that is in the way."""


Naming = Becomes | Conflicts


def derived_name(provider: str, external_id: str) -> str:
    """`kit-123`: lower-cased, with `-` for what a name cannot hold."""
    name = re.sub(r"[^a-z0-9._-]", "-", f"{provider}-{external_id}".lower(), flags=re.ASCII)
    if len(name) <= MOST_NAME:
        return name
    # Two long ids may differ only behind the cut.
    return f"{name[: MOST_NAME - 13]}-{hashlib.sha256(external_id.encode()).hexdigest()[:12]}"


def wanted_name(install: PendingInstall, identity: Identity | None, maybe: tuple[str, ...] = ()) -> str:
    """The name that the ticket gives, or that follows from the identity; empty where there is neither."""
    if install.account is not None or identity is None:
        return install.account or ""
    name = derived_name(install.provider, identity.external_id)
    # An identity has no line break, so this one is nobody else's.
    return derived_name(install.provider, f"{identity.external_id}\n") if name in maybe else name


def name_for(
    install: PendingInstall,
    identity: Identity | None,
    *,
    known: Account | None,
    named: Account | None,
    maybe: tuple[str, ...] = (),
) -> Naming:
    """Where the grant belongs.

    `known`: the account that already belongs to the identity. `named`: the row, if any, of `wanted_name`. `maybe`:
    accounts whose identity may be this one; nobody knows.
    """
    if known is not None:
        if install.account not in (None, known.name):
            return Conflicts("other_name", known.name)
        return _with_subject(install, known)
    name = wanted_name(install, identity, maybe)
    if not name:
        return Conflicts("no_name", None)
    if named is None:
        return Becomes(name)
    if not install.replace and (name in maybe or _is_other_identity(install, identity, named)):
        return Conflicts("other_identity", named.name)
    return _with_subject(install, named)


def _is_other_identity(install: PendingInstall, identity: Identity | None, named: Account) -> bool:
    if named.provider != install.provider:
        return True
    return named.external_id is not None and (identity is None or identity.external_id != named.external_id)


def _with_subject(install: PendingInstall, account: Account) -> Naming:
    if (
        None not in (install.subject, account.subject)
        and install.subject != account.subject
        and not install.replace
    ):
        return Conflicts("other_subject", account.name)
    return Becomes(account.name)
