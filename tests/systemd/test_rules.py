"""The alert rules, as promtool reads them: each fires when it should, and not before."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker.observe.metrics import Metrics
from broker.systemd.unit import alert_rules
from tests.missing import missing

INSTALL = "make tools"
HISTORIES: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    # Series that fire, series that do not, and when to look.
    "BrokerAbsent": ({}, {"broker_refreshes_in_flight": "0x30"}, "3m"),
    "BrokerCommitRetained": ({"broker_retained_commits": "1x30"}, {"broker_retained_commits": "0x30"}, "1m"),
    "BrokerInvariantViolated": (
        {'broker_invariant_violations_total{invariant="I4"}': "1x30"},
        {'broker_invariant_violations_total{invariant="I4"}': "0x30"},
        "1m",
    ),
    "BrokerProviderOpen": (
        {'broker_provider_open{provider="kit"}': "1x30"},
        {'broker_provider_open{provider="kit"}': "0 1 0x28"},
        "2m",
    ),
    "BrokerTokensNearExpiry": (
        {'broker_seconds_to_first_expiry{provider="kit"}': "290-10x30"},
        {'broker_seconds_to_first_expiry{provider="kit"}': "301x30"},
        "6m",
    ),
    "BrokerRefreshesFailing": (
        {
            'broker_refreshes_total{provider="kit",outcome="not_sent"}': "0+6x40",
            'broker_refreshes_total{provider="kit",outcome="renewed"}': "0+5x40",
        },
        {
            'broker_refreshes_total{provider="kit",outcome="not_sent"}': "0+5x40",
            'broker_refreshes_total{provider="kit",outcome="renewed"}': "0+5x40",
            'broker_refreshes_total{provider="kit",outcome="lost_race"}': "0+60x40",
        },
        "30m",
    ),
    "BrokerTokenRequestsFailing": (
        {
            'broker_token_requests_total{provider="kit",outcome="provider_unavailable"}': "0+2x40",
            'broker_token_requests_total{provider="kit",outcome="served"}': "0+9x40",
        },
        {
            'broker_token_requests_total{provider="kit",outcome="provider_unavailable"}': "0+1x40",
            'broker_token_requests_total{provider="kit",outcome="served"}': "0+8x40",
            'broker_token_requests_total{provider="kit",outcome="warned"}': "0+8x40",
        },
        "30m",
    ),
    "BrokerNeedsReauthorization": (
        {'broker_accounts{provider="kit",status="needs_reauthorization"}': "2x40"},
        {
            'broker_accounts{provider="kit",status="needs_reauthorization"}': "0x40",
            'broker_accounts{provider="kit",status="active"}': "2x40",
        },
        "16m",
    ),
    "BrokerRenewalUnsettled": (
        {"broker_oldest_intent_seconds": "3601+60x40"},
        {"broker_oldest_intent_seconds": "3600x40"},
        "6m",
    ),
    "BrokerStoreSlow": (
        {
            'broker_store_commit_seconds_bucket{le="0.5"}': "0+98x40",
            'broker_store_commit_seconds_bucket{le="1.0"}': "0+100x40",
            'broker_store_commit_seconds_bucket{le="+Inf"}': "0+100x40",
        },
        {
            'broker_store_commit_seconds_bucket{le="0.5"}': "0+100x40",
            'broker_store_commit_seconds_bucket{le="1.0"}': "0+100x40",
            'broker_store_commit_seconds_bucket{le="+Inf"}': "0+100x40",
        },
        "30m",
    ),
    "BrokerInstallsFailing": (
        {'broker_installs_total{provider="kit",outcome="failed"}': "0x20 5x60"},
        {
            'broker_installs_total{provider="kit",outcome="failed"}': "0x20 3x60",
            'broker_installs_total{provider="kit",outcome="connected"}': "0+9x80",
        },
        "40m",
    ),
    "BrokerCredentialsRefused": (
        {'broker_auth_failures_total{reason="unknown"}': "0+90x40"},
        {'broker_auth_failures_total{reason="unknown"}': "0+50x40"},
        "30m",
    ),
}


def rules() -> dict[str, str]:
    """The text of each rule by its name."""
    _, *blocks = re.split(r"^ +- alert: ", alert_rules(), flags=re.MULTILINE)
    return {block.split("\n", 1)[0]: block for block in blocks}


def member(rule: str, name: str) -> str:
    """The value of a member that stands on one line."""
    [value] = re.findall(rf"^ +{name}: (.+)$", rule, re.MULTILINE)
    return str(value).strip('"')


@pytest.fixture(name="promtool")
def _promtool() -> str:
    """Beside our Python, or wherever the machine has it."""
    ours = Path(sys.executable).with_name("promtool")
    found = str(ours) if ours.exists() else shutil.which("promtool")
    return found or missing(f"promtool is missing; type: {INSTALL}")


def run(promtool: str, folder: Path, *arguments: str) -> tuple[int, str]:
    (folder / "rules.yaml").write_text(alert_rules())
    done = subprocess.run(
        [promtool, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def history(name: str, series: dict[str, str], at: str, *, fires: bool) -> dict[str, object]:
    """One test of promtool: these series, and whether the alert fires then."""
    given = [{"series": one, "values": values} for one, values in series.items()]
    # How many times it is to fire, whatever its labels: an expression says that without repeating the texts.
    asked = {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})', "eval_time": at}
    samples = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "interval": "1m",
        "input_series": given,
        "promql_expr_test": [{**asked, "exp_samples": samples}],
    }


def write_tests(folder: Path, tests: list[dict[str, object]]) -> None:
    # JSON is YAML.
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.json").write_text(json.dumps(content))


def test_promtool_takes_the_rules(promtool: str, tmp_path: Path) -> None:
    """All of them."""
    code, said = run(promtool, tmp_path, "check", "rules", "rules.yaml")

    assert 0 == code, said
    assert f"SUCCESS: {len(HISTORIES)} rules found" in said


def test_every_rule_fires_when_it_should_and_not_otherwise(promtool: str, tmp_path: Path) -> None:
    """On a history that calls for it, and on one that comes close."""
    tests = [
        history(name, series, at, fires=fires)
        for name, (firing, quiet, at) in HISTORIES.items()
        for series, fires in ((firing, True), (quiet, False))
    ]
    write_tests(tmp_path, tests)

    code, said = run(promtool, tmp_path, "test", "rules", "tests.json")

    assert 0 == code, said


@pytest.mark.parametrize("name", HISTORIES)
def test_history_tells_a_firing_rule_from_a_quiet_one(promtool: str, tmp_path: Path, name: str) -> None:
    """The other way round promtool fails: neither history is empty words."""
    firing, quiet, at = HISTORIES[name]
    write_tests(tmp_path, [history(name, firing, at, fires=False), history(name, quiet, at, fires=True)])

    code, said = run(promtool, tmp_path, "test", "rules", "tests.json")

    assert (1, 2) == (code, said.count("exp:"))


def test_every_rule_has_histories() -> None:
    """A new one is not forgotten here."""
    assert list(rules()) == list(HISTORIES)


def test_every_rule_says_in_a_sentence_what_to_do() -> None:
    """And how bad it is: somebody is paged, or it can wait for the morning."""
    todos = [member(rule, "todo") for rule in rules().values()]
    severities = {member(rule, "labels") for rule in rules().values()}

    assert [] == [todo for todo in todos if not todo.endswith(".") or ". " in todo]
    assert {"{ severity: page }", "{ severity: ticket }"} == severities


def test_every_metric_of_the_rules_is_the_broker_s() -> None:
    """A renamed metric would leave a rule that never fires."""
    known = {line.split()[2] for line in Metrics().text().decode().splitlines() if line.startswith("# TYPE")}

    used = {word.removesuffix("_bucket") for word in re.findall(r"\bbroker_\w+", alert_rules())}

    assert set() == used - known
