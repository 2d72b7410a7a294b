"""The frozen values that all packages share. They import nothing else of the broker; this module exports them."""

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
from broker.model.tokens import Identity, Secret, Spare, Successor, TokenSet, window_opens
