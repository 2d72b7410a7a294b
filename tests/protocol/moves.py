"""Every move that can come next: a broker's next step, the network, the provider, time, a crash."""

from collections.abc import Iterator

from broker.sandbox.faults import Mode
from broker.tokens.schedule import Step
from tests.protocol import provider
from tests.protocol.conclusions import commit, conclude
from tests.protocol.provider import GRACE
from tests.protocol.state import NOBODY, NONE, At, Broker, Request, Says, State
from tests.protocol.variants import Variant

Move = tuple[str, State]
MOST_ON_THE_WIRE = 2


def moves(state: State, variant: Variant) -> Iterator[Move]:
    """Whatever may happen next, with a name for the trace."""
    for number in range(len(state.brokers)):
        yield from _steps(state, number, variant)
        yield from _crash(state, number, variant)
    for number in range(len(state.wire)):
        yield from _network(state, number, variant)
    yield from _time(state, variant)


def _steps(state: State, number: int, variant: Variant) -> Iterator[Move]:
    """The next step of broker `number`, if it can take one."""
    broker, who = state.brokers[number], f"broker {number}: "
    match broker.at:
        case At.IDLE:
            yield from _begin(state, number, variant, who)
        case At.GATED:
            yield who + Step.CONNECTED, state.with_broker(number, broker._replace(at=At.CONNECTED))
        case At.CONNECTED if variant.intent_before_post:
            yield from _announce(state, number, who)
        case At.CONNECTED:
            yield who + "sends", _send(state, number)
        case At.INTENDED if not variant.rereads_lease:
            yield who + "sends", _send(state, number)
        case At.INTENDED:
            yield from _look_again(state, number, who)
        case At.WAITING if state.budget.drops:
            yield who + "stops waiting", _give_up(state.spend("drops"), number, variant)
        case At.WAITING:
            return
        case At.ANSWERED:
            yield from conclude(state, number, variant)
        case At.COMMITTED:
            released = state._replace(released=max(state.released, state.row.token))
            yield who + "publishes", released.with_broker(number, Broker())
        case At.RETAINED:
            yield who + "store is back", commit(state, number, variant)


def _begin(state: State, number: int, variant: Variant, who: str) -> Iterator[Move]:
    if state.row.spool != NONE:
        yield who + "takes up the spool", _take_up_spool(state, number, variant)
    elif _may_start(state, number):
        yield who + Step.GATE_PASSED, _start(state, number, variant)


def _may_start(state: State, number: int) -> bool:
    row = state.row
    free = row.intent in (NOBODY, number) or row.lease_over
    return bool(state.budget.renewals and free and not row.dead and not state.quarantined)


def _start(state: State, number: int, variant: Variant) -> State:
    row = state.row
    salvage = variant.tries_salvage_first and state.mode is Mode.FAMILY and row.ambiguous
    first = salvage and row.spare != NONE
    token = row.spare if first else row.token
    return state.with_broker(number, Broker(At.GATED, row.generation, token, from_spare=first, first=first))


def _announce(state: State, number: int, who: str) -> Iterator[Move]:
    """R3: one conditional UPDATE, or stop and re-read."""
    row, broker = state.row, state.brokers[number]
    if row.generation == broker.read and not row.dead and (row.intent in (NOBODY, number) or row.lease_over):
        announced = state._replace(row=row._replace(intent=number, lease_over=False))
        yield who + Step.INTENT_DURABLE, announced.with_broker(number, broker._replace(at=At.INTENDED))
    else:
        yield who + "re-reads", state.with_broker(number, Broker())


def _look_again(state: State, number: int, who: str) -> Iterator[Move]:
    """Whoever stood still re-runs R3 before it sends."""
    if state.row.intent != number:
        yield who + "lost its lease", state.with_broker(number, Broker())
    elif state.row.lease_over:
        yield who + "takes its lease again", state._replace(row=state.row._replace(lease_over=False))
    else:
        yield who + "sends", _send(state, number)


def _send(state: State, number: int) -> State:
    broker = state.brokers[number]
    broken = "" if state.row.intent == number else "I9 a POST without a durable intent"
    beside = any(other.token == broker.token and other.says is Says.NOTHING_YET for other in state.wire)
    if beside and not state.stood_still:
        broken = "I4 two POSTs outstanding with one token"
    wire = (*state.wire, Request(broker.token, number))[-MOST_ON_THE_WIRE:]
    return state._replace(wire=wire, broken=broken).with_broker(number, broker._replace(at=At.WAITING))


def _give_up(state: State, number: int, variant: Variant) -> State:
    """R7: keep the intent, quarantine."""
    wire = tuple(
        request._replace(sender=NOBODY) if request.sender == number else request for request in state.wire
    )
    if not variant.ambiguity_is_no_refusal:
        refused = state.brokers[number]._replace(at=At.ANSWERED, says=Says.REFUSED)
        return state._replace(wire=wire).with_broker(number, refused)
    row = state.row._replace(ambiguous=True)
    return state._replace(row=row, wire=wire, quarantined=variant.quarantines).with_broker(number, Broker())


def _crash(state: State, number: int, variant: Variant) -> Iterator[Move]:
    """kill -9, and the restart: an intent that lies open counts as an ambiguous attempt."""
    if not state.budget.crashes or state.brokers[number].at is At.IDLE:
        return
    left_open = state.row.intent == number
    row = state.row._replace(ambiguous=state.row.ambiguous or left_open)
    wire = tuple(
        request._replace(sender=NOBODY) if request.sender == number else request for request in state.wire
    )
    quarantined = state.quarantined or (left_open and variant.quarantines)
    crashed = state.spend("crashes")._replace(row=row, wire=wire, quarantined=quarantined)
    yield f"broker {number} is killed", crashed.with_broker(number, Broker())


def _take_up_spool(state: State, number: int, variant: Variant) -> State:
    """R10: committed if it still fits, else a spare."""
    holder = Broker(At.RETAINED, state.row.generation, says=Says.GRANTED, gives=state.row.spool)
    fits = state.row.spool > state.row.token
    if not fits:
        return state._replace(row=state.row._replace(spool=NONE))
    return commit(state.with_broker(number, holder), number, variant)


def _network(state: State, number: int, variant: Variant) -> Iterator[Move]:
    request = state.wire[number]
    rest = state._replace(wire=(*state.wire[:number], *state.wire[number + 1 :]))
    if request.says is Says.NOTHING_YET:
        yield f"the provider gets token {request.token}", provider.process(state, number)
        if state.budget.drops and request.sender != NOBODY:
            dropped = _give_up(rest.spend("drops"), request.sender, variant)
            yield "the request never arrives", dropped
        if state.budget.false_words:
            for says in (Says.REFUSED, Says.CLIENT_REFUSED):
                yield (
                    f"the provider says, wrongly: {says}",
                    provider.answer(state.spend("false_words"), number, says),
                )
    elif request.sender == NOBODY:
        yield "an answer comes to nobody", rest
    else:
        broker = state.brokers[request.sender]
        heard = broker._replace(at=At.ANSWERED, says=request.says, gives=request.gives)
        yield f"{Step.ANSWERED}: {request.says}", rest.with_broker(request.sender, heard)
        if state.budget.drops:
            yield "the answer is lost", _give_up(rest.spend("drops"), request.sender, variant)
            if request.says is Says.GRANTED:
                yield "the answer is cut behind the token", _salvage(rest, request, variant)


def _salvage(state: State, request: Request, variant: Variant) -> State:
    uncertain = _give_up(state.spend("drops"), request.sender, variant)
    return uncertain._replace(
        row=uncertain.row._replace(spare=request.gives, spare_refusals=0),
        stored=uncertain.stored | {request.gives},
    )


def _time(state: State, variant: Variant) -> Iterator[Move]:
    flying = any(request.says is Says.NOTHING_YET for request in state.wire)
    if state.quarantined:
        # By then no request can be processed any more: that is what the quarantine is for.
        wire = tuple(request for request in state.wire if request.says is not Says.NOTHING_YET)
        yield "the quarantine is over", state._replace(quarantined=False, wire=wire)
    # A confirmation comes seconds after a refusal, long before a grace is over.
    settled = (
        state.row.intent == NOBODY and state.row.spool == NONE and not flying and not state.row.ambiguous
    )
    if state.mode in GRACE and (settled or (state.quarantined and not variant.quarantine_within_grace)):
        yield "the grace is over", provider.end_grace(state)
    if state.mode is Mode.ON_USE and state.released:
        yield "a caller uses the new access token", provider.use(state)
    stalled = state.row.intent != NOBODY and not state.row.lease_over and len(state.brokers) > 1
    if state.budget.stalls and stalled and not (variant.lease_outlives_request and flying):
        over = state.spend("stalls")._replace(row=state.row._replace(lease_over=True))
        yield "the lease is over", over._replace(stood_still=not flying)
