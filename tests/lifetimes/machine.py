"""The rules: everything that people, callers, providers, disks and time do to a broker, in any order."""

from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from broker.sandbox.faults import Mode
from broker.tokens.schedule import Step
from tests.lifetimes.asking import Asking, gathered
from tests.lifetimes.model import RESTORABLE_FOR, Standing
from tests.lifetimes.world import World

T = TypeVar("T")
names = st.sampled_from(["acme", "bolt", "coda"])
modes = st.sampled_from([*Mode, Mode.STRICT, Mode.FAMILY])
"""More often those in which a mistake is final."""
steps = st.sampled_from(list(Step))
pauses = st.sampled_from([1.0, 4.0, 12.0, 65.0, 320.0, 1000.0, 2600.0, 3600.0, 2 * 86400.0, 31 * 86400.0])
INVALID_GRANT = '{"error":"invalid_grant"}'
FAULTS: dict[str, dict[str, object]] = {
    "never arrives": {"drop": "before", "times": 1},
    "never arrives, thrice": {"drop": "before", "times": 3},
    "answer lost": {"drop": "after", "times": 1},
    "answer cut at its end": {"truncate": -1, "times": 1},
    "answer cut at its beginning": {"truncate": 20, "times": 1},
    "500": {"status": 500, "times": 2},
    "502 after rotation": {"status": 502, "rotate": True, "times": 1},
    "503": {"status": 503, "headers": {"Retry-After": "40"}, "times": 1},
    "429": {"status": 429, "headers": {"Retry-After": "90"}, "times": 1},
    "no JSON": {"raw": "<html>maintenance</html>", "times": 1},
}
SLOW: dict[str, dict[str, object]] = {
    "slow": {"latency": 2.0, "times": 1},
    "slow to answer": {"latency_after": 2.0, "times": 1},
}
"""Shorter than the quarantine: who is slower may be asked twice at once."""
CUT = "answer cut at its end"
begun = st.sampled_from(["nothing", "nothing", *sorted(SLOW), CUT])
"""What is under way with the account when something else happens to it."""
LIE = {"status": 400, "body": INVALID_GRANT, "times": 1}
HEALTHY: dict[str, object] = {"latency": None, "deny_all_clients": False}


class Lifetimes(Asking):
    """Three names at one provider, and all that can happen to them."""

    @initialize(mode=modes)
    def open(self, mode: Mode) -> None:
        self.world = World(Path(self.folder.name) / "house", mode)
        self.runner.run(self.world.open())
        self.install("acme")
        self.install("bolt")

    def teardown(self) -> None:
        try:
            if self.sound:
                self.come_to_rest()
                self.count()
        finally:
            if hasattr(self, "world"):
                self.runner.run(self.world.close())
            self.runner.close()
            self.folder.cleanup()

    # What people do.

    @rule(name=names, meanwhile=begun)
    def install(self, name: str, meanwhile: str = "nothing") -> None:
        """A person connects the account, also again; a failure leaves what there was."""
        if self.world.refusing:
            return
        self.begin(name, meanwhile)
        told, before = self.model.of(name), self.look()
        if told.standing is Standing.NONE:
            self.people += 1
            told.holder = str(self.people)
        visit = self.do(self.world.install(name, told.holder))
        old, new = before.sights.get(name), self.look().sights.get(name)
        assert visit is None or visit.status != 500, visit
        if new is not None and (old is None or new.account.epoch > old.account.epoch):
            told.frozen = told.frozen and told.standing is Standing.CONNECTED
            told.standing = Standing.CONNECTED

    @rule(name=names, meanwhile=begun)
    def rest(self, name: str, meanwhile: str) -> None:
        """Frozen, demanded, and back."""
        self.begin(name, meanwhile)
        self.freeze(name, "freeze")
        self.force(name)

    @rule(name=names, meanwhile=begun)
    def begin_again(self, name: str, meanwhile: str) -> None:
        """Forgotten, and connected as if for the first time."""
        self.begin(name, meanwhile)
        self.purge(name)
        self.install(name)

    @rule(name=names, word=st.sampled_from(["freeze", "unfreeze", "unfreeze"]))
    def freeze(self, name: str, word: str) -> None:
        told = self.model.of(name)
        answer = self.command("POST", f"/accounts/{name}/{word}", name)
        self.expect(answer, {200} if told.standing is Standing.CONNECTED else {404})
        if answer is not None and answer.status == 200:
            told.frozen = word == "freeze"

    @rule(name=names, meanwhile=begun)
    def remove(self, name: str, meanwhile: str) -> None:
        self.begin(name, meanwhile)
        told = self.model.of(name)
        answer = self.command("DELETE", f"/accounts/{name}", name)
        self.expect(answer, {204} if told.standing is Standing.CONNECTED else {404})
        if answer is not None and answer.status == 204:
            told.standing, told.removed_at = Standing.REMOVED, self.world.now

    @rule(name=names)
    def restore(self, name: str) -> None:
        told, age = self.model.of(name), self.world.now - self.model.of(name).removed_at
        answer = self.command("POST", f"/accounts/{name}/restore", name)
        in_time = told.standing is Standing.REMOVED and age <= RESTORABLE_FOR
        self.expect(answer, {200} if in_time else {409} if told.standing is Standing.CONNECTED else {404})
        if answer is not None and answer.status == 200:
            told.standing = Standing.CONNECTED

    def purge(self, name: str) -> None:
        told = self.model.of(name)
        answer = self.command("DELETE", f"/accounts/{name}?purge=1", name)
        self.expect(answer, {404} if told.standing is Standing.NONE else {204})
        if answer is not None and answer.status == 204:
            self.model.forget(name)

    @rule(old=names, new=names, meanwhile=begun)
    def rename(self, old: str, new: str, meanwhile: str) -> None:
        self.begin(old, meanwhile)
        told, target = self.model.of(old), self.model.of(new)
        answer = self.command("PATCH", f"/accounts/{old}", old, new, body={"name": new})
        if told.standing is not Standing.CONNECTED:
            self.expect(answer, {404})
        elif old == new:
            self.expect(answer, {200})
        else:
            taken = target.standing is not Standing.NONE
            busy = (sight := self.look().sights.get(old)) is not None and sight.account.intent is not None
            self.expect(answer, {409} if taken or busy else {200})
            if answer is not None and answer.status == 200:
                self.model.renamed(old, new)

    @rule(name=names)
    def uninstall(self, name: str) -> None:
        """The person ends the grant at the provider."""
        if sight := self.look().sights.get(name):
            self.do(self.world.revoke(self.model.of(name).holder))
            self.model.revoked.add(sight.grant)

    @rule(name=names, killed=st.sampled_from([None, *sorted(SLOW)]))
    def override(self, name: str, killed: str | None) -> None:
        """An operator has a dead or waiting account tried at once, or one that a crash left open."""
        if killed is not None:
            self.kill(name, killed)
        if self.model.of(name).standing is Standing.CONNECTED:
            self.model.reopened[name] = self.model.last_event
            self.do(self.world.override(name))

    # What callers do.

    @rule(name=names)
    def get(self, name: str) -> None:
        self.judge_answer(name, self.do(self.world.ask("GET", f"/token/{name}")))

    @rule(name=names)
    def use(self, name: str) -> None:
        """A caller gets the token and uses it at once: in mode D only that ends the old one."""
        answer = self.do(self.world.ask("GET", f"/token/{name}"))
        self.judge_answer(name, answer)
        if answer is not None and answer.status == 200:
            self.do(self.world.use(answer.json["access_token"]))

    @rule(name=names, ago=st.integers(0, 1))
    def report(self, name: str, ago: int) -> None:
        """A caller says that the provider's API refused this generation, or one before."""
        body = {"rejected_generation": max(0, self.model.generations.get(name, 1) - ago)}
        self.judge_answer(name, self.do(self.world.ask("POST", f"/token/{name}/refresh", body)))

    @rule(name=names)
    def force(self, name: str) -> None:
        """Somebody demands a renewal, a minute after the last who did."""
        self.happen(self.world.pass_time(61.0))
        self.judge_answer(name, self.do(self.world.ask("POST", f"/token/{name}/refresh")))

    @rule(name=names)
    def crowd(self, name: str) -> None:
        """Several at once; one of them hangs up."""
        asks = [self.world.ask("GET", f"/token/{name}") for _ in range(3)]
        answers = self.do(gathered(self.world.hang_up(name), *asks))
        for answer in answers or ():
            self.judge_answer(name, answer)

    @rule(name=names, kind=begun)
    def begin(self, name: str, kind: str) -> None:
        """A renewal is under way and nobody waits for it, or one has ended in doubt."""
        if kind == CUT:
            self.fault(name, kind)
            self.happen(self.world.pass_time(6.0))
        elif kind in SLOW:
            self.world.fault(**SLOW[kind])
            self.happen(self.world.pass_time(61.0))
            self.do(self.world.hang_up(name))

    # What the provider does.

    @rule(name=names, kind=st.sampled_from(sorted(FAULTS)))
    def fault(self, name: str, kind: str) -> None:
        """It fails at the next renewal, which comes now, or later where none is possible now."""
        self.world.fault(**FAULTS[kind])
        self.force(name)

    @precondition(lambda self: self.nobody_doubted())
    @rule(name=names, meanwhile=begun)
    def lie(self, name: str, meanwhile: str) -> None:
        """It refuses a good grant, once."""
        self.begin(name, meanwhile)
        if self.nobody_doubted():
            self.world.fault(**LIE)
            self.force(name)
            self.report(name, 0)

    @rule(name=names, denied=st.booleans())
    def deny(self, name: str, denied: bool) -> None:
        """It takes our client no more, or again."""
        self.world.fault(deny_all_clients=denied)
        self.force(name)

    @rule()
    def heal(self) -> None:
        self.world.fault(**HEALTHY)

    @rule(mode=modes)
    def switch(self, mode: Mode) -> None:
        """It rotates in another way from now on."""
        self.world.switch(mode)
        self.model.revived |= self.model.buried

    # What machines do.

    @rule(seconds=pauses)
    def wait(self, seconds: float) -> None:
        self.happen(self.world.pass_time(seconds))

    @rule(name=names, meanwhile=begun)
    def fill_disk(self, name: str, meanwhile: str) -> None:
        """The store takes nothing more; a renewal may be under way, and callers ask all the same."""
        if self.world.refusing:
            return
        self.begin(name, meanwhile)
        self.world.refuse_writes()
        self.happen(self.world.pass_time(4.0))
        self.get(name)

    @rule()
    def free_disk(self) -> None:
        self.world.accept_writes()

    @rule(name=names, step=steps)
    def die_at(self, name: str, step: Step) -> None:
        """The broker dies at that step of the next renewal, if one comes."""
        self.world.order = step
        self.force(name)
        self.happen(self.world.pass_time(20.0))
        self.world.order = None

    @rule(name=names, meanwhile=begun)
    def kill(self, name: str, meanwhile: str) -> None:
        """The broker dies wherever it is."""
        self.begin(name, meanwhile)
        self.world.fall()
        self.happen(self.world.rest())

    @rule(name=names, meanwhile=begun)
    def stop(self, name: str, meanwhile: str) -> None:
        """SIGTERM and a new start; a full disk would hold the stop up."""
        if self.world.refusing:
            return
        self.begin(name, meanwhile)
        under_way, deaths = {r.n for r in self.look().requests if r.is_open}, self.world.deaths
        self.do(self.world.stop())
        left = [r for r in self.look().requests if r.n in under_way and not r.answered]
        assert not left or self.world.deaths > deaths, f"R11 the stop did not wait for {left}"

    # What must be true.

    @invariant()
    def promises_hold(self) -> None:
        if not hasattr(self, "world"):
            return
        moment = self.look()
        if self.world.refusing:
            self.model.unnoted_until = moment.now
        self.model.check(moment)
        self.shown()
        self.sound = True

    def come_to_rest(self) -> None:
        """All is well again, and time passes: who can live lives, and everybody else says why."""
        self.world.accept_writes()
        self.world.fault(**HEALTHY)
        for name, told in self.model.told.items():
            if told.frozen and told.standing is Standing.CONNECTED:
                self.freeze(name, "unfreeze")
        waiting = {name for name, told in self.model.told.items() if told.standing is Standing.CONNECTED}
        for _ in range(24):
            self.happen(self.world.pass_time(400.0))
            waiting = {name for name in waiting if not self.settled(name)}
            self.promises_hold()
            if not waiting:
                return
        raise AssertionError(f"{waiting} neither live nor say why: {self.look().sights}")

    def settled(self, name: str) -> bool:
        """Whether a renewal worked, and its token at the provider, or nothing ever will."""
        answer = self.do(self.world.ask("POST", f"/token/{name}/refresh"))
        self.judge_answer(name, answer)
        sight = self.look().sights[name]
        if answer is None or answer.status != 200:
            return sight.account.dead is not None
        return self.do(self.world.use(answer.json["access_token"])) == 200
