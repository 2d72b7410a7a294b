"""R5, R6, R8: what an answer leads to."""

from collections.abc import Iterator

from broker.tokens.refresh import SPARE_NEEDS
from broker.tokens.schedule import Step
from tests.protocol.state import NOBODY, NONE, At, Broker, Says, State
from tests.protocol.variants import Variant

Move = tuple[str, State]


def conclude(state: State, number: int, variant: Variant) -> Iterator[Move]:
    """Broker `number` has an answer in memory."""
    broker, who = state.brokers[number], f"broker {number}: "
    match broker.says:
        case Says.NOTHING_YET:
            raise AssertionError("there is nothing to conclude from")
        case Says.GRANTED:
            yield who + Step.COMMIT_DURABLE, commit(state, number, variant)
            if not variant.commit_before_release and state.released < broker.gives:
                yield who + "publishes before the commit", _release_early(state, broker.gives)
            if state.budget.store_failures:
                yield who + Step.SPOOLED, _retain(state.spend("store_failures"), number, variant)
        case Says.REFUSED:
            yield who + "is refused", _refused(state, number, variant)
        case Says.CLIENT_REFUSED:
            row = state.row._replace(intent=NOBODY, dead=not variant.client_refusal_spares)
            yield who + Step.SETTLED, state._replace(row=row).with_broker(number, Broker())


def commit(state: State, number: int, variant: Variant) -> State:
    """R6: conditioned on the generation, not on the lease; what comes too late is a spare."""
    row, broker = state.row, state.brokers[number]
    stored = state.stored | {broker.gives}
    if row.generation != broker.read and variant.compares_generation:
        kept = row.spare if broker.gives == row.token or not variant.keeps_losers else broker.gives
        broken = "" if variant.keeps_losers or broker.gives == row.token else "I5 a received token is gone"
        # A spare reopens an account that was given up.
        dead = row.dead and kept == row.spare
        late = state._replace(
            row=row._replace(spare=kept, spare_refusals=0, spool=NONE, dead=dead),
            stored=stored,
            broken=broken,
        )
        return late.with_broker(number, Broker())
    broken = "" if row.generation == broker.read else "I3 a generation has two successors"
    spare = NONE if broker.from_spare or row.spare == broker.gives else row.spare
    new = row._replace(
        generation=row.generation + 1,
        token=broker.gives,
        intent=NOBODY,
        lease_over=False,
        ambiguous=False,
        refusals=0,
        dead=False,
        spool=NONE,
        spare=spare,
        spare_refusals=0,
    )
    committed = state.spend("renewals")._replace(row=new, stored=stored, broken=broken)
    return committed.with_broker(number, Broker(At.COMMITTED))


def _release_early(state: State, token: int) -> State:
    broken = "" if token in state.stored else "I1 a token left before it was durable"
    return state._replace(released=token, broken=broken)


def _retain(state: State, number: int, variant: Variant) -> State:
    """The store refuses: the set stays in memory, and lies in the spool."""
    retained = state.with_broker(number, state.brokers[number]._replace(at=At.RETAINED))
    if not variant.spools:
        return retained
    token = state.brokers[number].gives
    return retained._replace(row=state.row._replace(spool=token), stored=state.stored | {token})


def _refused(state: State, number: int, variant: Variant) -> State:
    """R8: re-read, confirm, then the spares, twice, then death."""
    row, broker = state.row, state.brokers[number]
    if row.generation != broker.read:
        return state.with_broker(number, Broker())
    if broker.from_spare:
        return _spare_refused(state, number, variant)
    row = row._replace(refusals=row.refusals + 1)
    confirmed = row.refusals >= _needed(row.ambiguous, variant)
    if confirmed and row.spare != NONE:
        # The count is in memory until this attempt has ended.
        again = Broker(At.GATED, row.generation, row.spare, from_spare=True)
        return state.with_broker(number, again)
    return state._replace(row=row._replace(dead=confirmed, intent=NOBODY)).with_broker(number, Broker())


def _spare_refused(state: State, number: int, variant: Variant) -> State:
    row = state.row._replace(intent=NOBODY)
    if variant.confirms_spares and row.spare_refusals + 1 < SPARE_NEEDS:
        row = row._replace(spare_refusals=row.spare_refusals + 1)
    else:
        row = row._replace(spare=NONE, spare_refusals=0, dead=not state.brokers[number].first)
    return state._replace(row=row).with_broker(number, Broker())


def _needed(ambiguous: bool, variant: Variant) -> int:
    if not variant.confirms_refusals:
        return 1
    return 3 if ambiguous else 2
