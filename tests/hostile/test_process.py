"""The same in the real process, on its own event loop: what only that one shows."""

from dataclasses import replace
from pathlib import Path

from tests.hostile.messages import CANARY, KEY, framing
from tests.hostile.mutations import mutations
from tests.hostile.test_limits import PAGE, idlers, once_there_is_room, problem_of
from tests.hostile.wire import Raw, complaint, talk, talk_all
from tests.process import new_process

SEED = 4_711


def ended(request: Raw, key: str) -> Raw:
    """Said to be all: who says nothing more has half a minute here, for which no test should wait."""
    return replace(request, data=request.data.replace(KEY, key.encode()), half_close=True, answers=None)


async def test_process_stands_and_turns_away(tmp_path: Path) -> None:
    """Hundreds of broken requests on either listener, then a 65th connection; nothing crashed, nothing leaked."""
    async with new_process(tmp_path / "run") as process:
        await process.start()
        await process.new_key()
        await process.connect()
        secrets = [CANARY.encode(), process.key.encode()]
        complaints: list[str] = []
        for listener, port in (("internal", process.internal_port), ("public", process.public_port)):
            requests = [ended(one, process.key) for one in (*framing(), *mutations(listener, SEED, 50))]
            answers = await talk_all(port, requests)
            complaints += filter(None, map(complaint, requests, answers, [secrets] * len(requests)))
        async with idlers(process.public_port, 64):
            refused = await talk(process.public_port, PAGE)
        after = await once_there_is_room(process.public_port, PAGE)
        token = await process.get("/token/acme")

        assert [] == complaints
        assert (429, "rate_limited") == problem_of(refused)
        assert ([403], 200) == (after, token.status)
        assert [] == process.events("request.crashed")
        assert not [secret for secret in secrets if secret.decode() in process.said()]
