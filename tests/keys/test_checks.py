"""What `broker check` says of the keys."""

from dataclasses import replace
from pathlib import Path

import pytest

from broker.admin.checks import DAY
from broker.admin.store_checks import YEAR, key_checks
from broker.config import Settings, load
from broker.config.settings import FileKey
from broker.encryption.keyring import Purpose, WrappedKey

NOW = 1_800_000_000.0
ACTIVE = WrappedKey("aa" * 8, Purpose.DATA, "w", "m", active=True, created_at=NOW - 3 * DAY)
OLD = replace(ACTIVE, kid="bb" * 8, active=False)
RETIRED = replace(OLD, retired_at=NOW - DAY)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "config.toml").write_text("")
    return load(tmp_path / "config.toml", environ={})


def told(settings: Settings, *keys: WrappedKey, **counts: int) -> list[tuple[str, str | None]]:
    by_key = {kid: {"accounts.sealed_access": count} for kid, count in counts.items()}
    return [(one.level, one.next) for one in key_checks(settings, keys, by_key, NOW)]


def test_young_key_is_fine(settings: Settings) -> None:
    """Nothing to do."""
    assert [("ok", None)] == told(settings, ACTIVE, **{ACTIVE.kid: 7})


def test_key_is_replaced_once_a_year(settings: Settings) -> None:
    """The reminder names the three commands."""
    [(level, next_)] = told(settings, replace(ACTIVE, created_at=NOW - YEAR))

    assert "warning" == level
    assert "once a year: broker keys add, broker keys rewrap, broker keys remove" == next_


def test_older_key_is_to_be_emptied_then_dropped(settings: Settings) -> None:
    """Each state has its next step; a retired one that is empty has none."""
    assert ("warning", "broker keys rewrap") == told(settings, ACTIVE, OLD, **{OLD.kid: 1})[1]
    assert ("warning", f"broker keys remove {OLD.kid}") == told(settings, ACTIVE, OLD)[1]
    assert [("ok", None)] == told(settings, ACTIVE, RETIRED)
    assert ("warning", "broker keys rewrap") == told(settings, ACTIVE, RETIRED, **{RETIRED.kid: 1})[1]


@pytest.mark.parametrize("kid", ["unknown", "cc" * 8])
def test_record_without_a_key_is_a_problem(settings: Settings, kid: str) -> None:
    """Nothing in this store opens it."""
    [_, (level, _)] = told(settings, ACTIVE, **{kid: 2})

    assert "problem" == level


def test_replacement_of_the_master_is_to_be_finished(settings: Settings, tmp_path: Path) -> None:
    """As long as keys.previous stands in the file."""
    replacing = replace(settings, previous_master=FileKey(tmp_path / "old.key"))

    [_, (level, next_)] = told(replacing, ACTIVE)

    assert "warning" == level
    assert "remove keys.previous" in (next_ or "")
