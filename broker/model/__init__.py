"""The vocabulary: frozen values that every room shares and that import nothing of ours."""

from broker.model.account import ENDLESS, Account, Intent, Reason, Ref, Status, Trouble, is_account_name
from broker.model.callers import (
    Caller,
    CallerKey,
    CallerKind,
    CallerRecord,
    Permission,
    is_caller_name,
    is_glob,
)
from broker.model.choice import Choice, Labelled, Tone
from broker.model.events import Event, EventKind, Incident
from broker.model.installs import InstallOutcome, PendingGrant, PendingInstall, PendingLogin, Ticket
from broker.model.plugin import (
    ConnectCode,
    FoundPair,
    PluginCode,
    PluginConsent,
    PluginGrant,
    PluginPair,
    RememberedPerson,
)
from broker.model.secret import Secret
from broker.model.tokens import Identity, Spare, Successor, TokenSet

__all__ = [
    "ENDLESS",
    "Account",
    "Caller",
    "CallerKey",
    "CallerKind",
    "CallerRecord",
    "Choice",
    "ConnectCode",
    "Event",
    "EventKind",
    "FoundPair",
    "Identity",
    "Incident",
    "InstallOutcome",
    "Intent",
    "Labelled",
    "PendingGrant",
    "PendingInstall",
    "PendingLogin",
    "Permission",
    "PluginCode",
    "PluginConsent",
    "PluginGrant",
    "PluginPair",
    "Reason",
    "Ref",
    "RememberedPerson",
    "Secret",
    "Spare",
    "Status",
    "Successor",
    "Ticket",
    "TokenSet",
    "Tone",
    "Trouble",
    "is_account_name",
    "is_caller_name",
    "is_glob",
]
