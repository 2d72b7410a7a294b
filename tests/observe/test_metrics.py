"""`GET /metrics`: every promised name, in a format that a strict reader takes."""

from pathlib import Path

import pytest

from tests.house import OPERATOR, House, open_house
from tests.observe.exposition import Malformed, parse

PROMISED = {
    "broker_token_requests_total": {"provider", "outcome"},
    "broker_token_request_seconds": set(),
    "broker_refreshes_total": {"provider", "outcome"},
    "broker_refresh_seconds": {"provider"},
    "broker_refreshes_in_flight": set(),
    "broker_accounts": {"provider", "status"},
    "broker_oldest_intent_seconds": set(),
    "broker_retained_commits": set(),
    "broker_provider_open": {"provider"},
    "broker_seconds_to_first_expiry": {"provider"},
    "broker_installs_total": {"provider", "outcome"},
    "broker_auth_failures_total": {"reason"},
    "broker_store_commit_seconds": set(),
    "broker_invariant_violations_total": {"invariant"},
}
"""What others rely on, by name; promises never broken have no series yet."""
OUTCOMES = {"renewed", "not_sent", "refused", "ambiguous", "rejected_client", "rate_limited", "lost_race"}


async def test_every_promised_metric_is_there(tmp_path: Path) -> None:
    """With its labels, after a day of ordinary life; and no account and no caller is among the values."""
    async with open_house(tmp_path / "house") as house:
        key = await _lived(house)
        answer = await house.get("/metrics", key=key)

    families = parse(answer.body.decode())
    labels = {
        name: {label for _, pairs in family.samples for label, _ in pairs if label != "le"}
        for name, family in families.items()
    }
    values = {value for family in families.values() for _, pairs in family.samples for _, value in pairs}

    assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["Content-Type"]
    assert set(PROMISED) <= set(families)
    empty = {"broker_invariant_violations_total"}
    assert {name: labels[name] for name in set(PROMISED) - empty} == {
        name: words for name, words in PROMISED.items() if name not in empty
    }
    assert not values & {"acme", "globex", "service", "admin"}


async def test_outcomes_of_renewals_are_the_promised_words(house: House) -> None:
    """As the sandbox brings them about; the client is refused last, because that stops everything."""
    faults: list[dict[str, object]] = [
        {},
        {"drop": "after", "times": 1},
        {"status": 503, "times": 1},
        {"deny_all_clients": True},
    ]
    for number, _ in enumerate(faults):
        await house.connect("kit", f"acme-{number}", account=str(100 + number))

    for number, fault in enumerate(faults):
        house.sandbox.faults.set("kit", **fault)
        await house.broker.tokens.flights.join((await house.account(f"acme-{number}")).ref)

    families = parse(house.broker.context.metrics.text().decode())
    seen = {dict(pairs)["outcome"] for _, pairs in families["broker_refreshes_total"].samples}
    assert {"renewed", "ambiguous", "rejected_client"} <= seen
    assert seen <= OUTCOMES


async def test_first_expiry_is_not_told_of_accounts_that_are_gone(house: House) -> None:
    """Else an alert would go on about the last one that a provider had."""
    await house.connect()
    await house.get("/token/acme")
    await house.broker.tokens.uses.flush()
    key = await house.caller(permissions=("admin",), name="admin")
    told = await house.get("/metrics", key=key)
    await house.broker.accounts.remove(OPERATOR, "acme", revoke=False, purge=False, request_id="t")
    house.clock.advance(60)
    gone = await house.get("/metrics", key=key)

    series = 'broker_seconds_to_first_expiry{provider="kit"}'
    assert (True, False) == (series in told.body.decode(), series in gone.body.decode())
    assert 'broker_accounts{provider="kit",status="active"} 0.0' in gone.body.decode()


async def _lived(house: House) -> str:
    """Some of everything; the key of somebody who may read metrics."""
    await house.connect()
    await house.connect("kustomer", "globex")
    for name in ("acme", "globex"):
        await house.get(f"/token/{name}")
        await house.post(f"/token/{name}/refresh")
    await house.get("/token/acme", key="nonsense")
    await house.broker.tokens.uses.flush()
    return await house.caller(permissions=("admin",), name="admin")


@pytest.mark.parametrize(
    "text",
    [
        "# HELP a A\n# TYPE a gauge\na 1",
        "a 1\n",
        "# HELP a A\n# TYPE b gauge\na 1\n",
        "# HELP a A\n# TYPE a counter\na 1\n",
        "# HELP a A\n# TYPE a gauge\na 1\na 2\n",
        '# HELP a A\n# TYPE a gauge\na{x="1",x="2"} 1\n',
        '# HELP a A\n# TYPE a gauge\na{x="1} 1\n',
        "# HELP a A\n# TYPE a gauge\na one\n",
        "# HELP a A\n# TYPE a gauge\na 1\n# HELP a A\n# TYPE a gauge\na 1\n",
        '# HELP a A\n# TYPE a histogram\na_bucket{le="1"} 1\na_count 1\na_sum 1\n',
        '# HELP a A\n# TYPE a histogram\na_bucket{le="+Inf"} 2\na_count 1\na_sum 1\n',
    ],
)
def test_reader_is_strict(text: str) -> None:
    """What Prometheus itself would stumble over is found here."""
    with pytest.raises((Malformed, ValueError)) as caught:
        parse(text)

    assert str(caught.value)
