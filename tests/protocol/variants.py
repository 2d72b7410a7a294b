"""The protocol, and what it would be with one rule broken."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """Which rules hold. All of them: the protocol as it is."""

    commit_before_release: bool = True
    confirms_refusals: bool = True
    confirms_spares: bool = True
    compares_generation: bool = True
    quarantines: bool = True
    quarantine_within_grace: bool = True
    intent_before_post: bool = True
    spools: bool = True
    lease_outlives_request: bool = True
    rereads_lease: bool = True
    client_refusal_spares: bool = True
    ambiguity_is_no_refusal: bool = True
    tries_salvage_first: bool = True
    keeps_losers: bool = True


RIGHT = Variant()
