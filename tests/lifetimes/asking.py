"""How the machine asks the broker, and how it judges the answers."""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine

from broker.model import Status
from tests.house import Answer
from tests.lifetimes.model import RESTORABLE_FOR, Model, Standing
from tests.lifetimes.witness import Moment, access_token, look
from tests.lifetimes.world import World

T = TypeVar("T")


@dataclass(slots=True)
class Tally:
    """What so many lives came to: lives in which nothing happens prove nothing."""

    lives: int = 0
    renewals: int = 0
    answers_lost: int = 0
    """Successors that the provider issued and that were not sent whole."""
    brokers_killed: int = 0
    grants_dead: int = 0


class Asking(RuleBasedStateMachine):
    """A machine with a world to ask and a model to hold it against; it has no rules yet."""

    tally: ClassVar[Tally] = Tally()

    def __init__(self) -> None:
        super().__init__()
        self.world: World
        self.model = Model()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.people = 1000
        self.sound = False
        """Whether the last step went through: after a failure nothing more is asked at the end."""

    def do(self, work: Coroutine[Any, Any, T]) -> T | None:
        """One thing, to its end, however much time that takes."""
        return self.happen(self.world.run(work))

    def happen(self, work: Coroutine[Any, Any, T]) -> T:
        """As `do`, where the time that passes is said; the model hears of a death."""
        self.sound, deaths = False, self.world.deaths
        result = self.runner.run(work)
        if self.world.deaths > deaths:
            self.model.died(self.look(), self.world.stored)
        return result

    def look(self) -> Moment:
        moment = look(self.world)
        for name, told in self.model.told.items():
            old = told.standing is Standing.REMOVED and moment.now - told.removed_at > RESTORABLE_FOR
            if old and name not in moment.sights:
                self.model.forget(name)
        return moment

    def command(self, method: str, path: str, *touched: str, body: object = None) -> Answer | None:
        """What somebody demands; whether it was done is looked up where the broker died over it."""
        answer = self.do(self.world.ask(method, path, body))
        if answer is None:
            self.model.relearn(self.look(), touched)
        return answer

    def expect(self, answer: Answer | None, statuses: set[int]) -> None:
        if answer is not None and not (answer.status == 503 and self.world.refusing):
            assert answer.status in statuses, (answer, statuses)

    def judge_answer(self, name: str, answer: Answer | None) -> None:
        """I1: what is handed out is durable; and every refusal is for the reason that it gives."""
        if answer is None:
            return
        sight, standing = self.look().sights.get(name), self.model.of(name).standing
        note(f"{name}: {answer.status} {answer.json.get('code', answer.json.get('generation'))}")
        assert (answer.status == 404) == (standing is not Standing.CONNECTED), answer
        if sight is None or answer.status == 404:
            return
        assert answer.status in {200, 409, 429, 502, 503}, answer
        if answer.status == 200:
            self.judge_token(name, answer.json["generation"], answer.json["access_token"])
        if answer.status == 409:
            status = Status.NEEDS_REAUTHORIZATION if sight.account.dead else Status.FROZEN
            assert (status, str(status)) == (sight.account.status, answer.json["code"]), sight

    def judge_token(self, name: str, generation: int, token: str) -> None:
        account = self.look().sights[name].account
        assert generation <= account.generation, f"I1 generation {generation} is not durable"
        if generation == account.generation:
            assert token == access_token(self.world, account), "I1 the token is not the durable one"
        self.model.served(name, generation)

    def shown(self) -> None:
        """What the API shows of the accounts is what the store holds."""
        answer = self.runner.run(self.world.ask("GET", "/accounts"))
        if answer.status == 503 and self.world.refusing:
            return
        shown = {one["account"]: (one["status"], one["generation"]) for one in answer.json["accounts"]}
        sights = self.look().sights.values()
        rows = [sight.account for sight in sights if sight.account.removed_at is None]
        stored = {row.name: (row.status, row.generation) for row in rows}
        assert stored == shown, f"stored {stored}, shown {shown}"

    def count(self) -> None:
        requests = self.look().requests
        self.tally.lives += 1
        self.tally.renewals += sum(request.answered for request in requests if request.issued)
        self.tally.answers_lost += sum(not request.answered for request in requests if request.issued)
        self.tally.brokers_killed += self.world.deaths
        self.tally.grants_dead += len(self.model.buried)

    def nobody_doubted(self) -> bool:
        """No grant was refused lately: two lies about one may end it."""
        return not any(sight.account.trouble.refusals for sight in self.look().sights.values())


async def gathered(first: Coroutine[Any, Any, None], *asks: Coroutine[Any, Any, Answer]) -> list[Answer]:
    """All at once; the answers of the asks."""
    beside = asyncio.ensure_future(first)
    answers = await asyncio.gather(*asks)
    await beside
    return answers
