"""Parameters of a PostgreSQL address, as other programs and hosting services write them."""

import pytest

from broker.errors import StartRefused
from broker.model import Secret
from broker.store.postgres_connection import CONNECT_WITHIN, SESSION, read_address

PLAIN = "postgresql://u:p@h:5432/d"


@pytest.mark.parametrize(
    ("query", "kept", "settings", "timeout"),
    [
        ("", "", {}, CONNECT_WITHIN),
        ("?sslmode=require", "?sslmode=require", {}, CONNECT_WITHIN),
        ("?sslmode=require&channel_binding=prefer", "?sslmode=require", {}, CONNECT_WITHIN),
        ("?connect_timeout=10", "", {}, 10.0),
        ("?connect_timeout=1", "", {}, 2.0),
        ("?connect_timeout=0", "", {}, CONNECT_WITHIN),
        ("?application_name=tokens%20a", "", {"application_name": "tokens a"}, CONNECT_WITHIN),
        ("?target_session_attrs=read-write", "?target_session_attrs=read-write", {}, CONNECT_WITHIN),
        ("?options=-c%20search_path%3Dbroker", "", {"search_path": "broker"}, CONNECT_WITHIN),
        (
            "?options=-csearch_path%3Da,b%20--statement-timeout%3D5s",
            "",
            {"search_path": "a,b", "statement_timeout": "5s"},
            CONNECT_WITHIN,
        ),
        ("?options=-c%20search_path%3Da%5C%20b", "", {"search_path": "a b"}, CONNECT_WITHIN),
        ("?statement_timeout=5000", "", {"statement_timeout": "5000"}, CONNECT_WITHIN),
        ("?host=%2Fvar%2Frun&sslmode=disable", "?host=%2Fvar%2Frun&sslmode=disable", {}, CONNECT_WITHIN),
        ("?gssencmode=disable&keepalives=1&client_encoding=UTF8", "", {}, CONNECT_WITHIN),
    ],
)
def test_parameters_that_are_kept(query: str, kept: str, settings: dict[str, str], timeout: float) -> None:
    """By the driver, by a setting of the session, or because it is so anyway."""
    address = read_address(Secret(PLAIN + query))

    assert Secret(PLAIN + kept) == address.dsn
    assert {**SESSION, **settings} == address.settings
    assert timeout == address.timeout


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("?channel_binding=require", "channel_binding"),
        ("?sslmode=require&gssencmode=require", "gssencmode"),
        ("?hostaddr=10.0.0.1", "hostaddr"),
        ("?keepalives_idle=30", "keepalives_idle"),
        ("?replication=database", "replication"),
        ("?require_auth=scram-sha-256", "require_auth"),
        ("?connect_timeout=soon", "connect_timeout"),
        ("?options=-d5", "options"),
        ("?options=-c%20work_mem", "options"),
        ("?canary-7d", "a parameter has no value"),
    ],
)
def test_parameter_that_cannot_be_kept_is_named(query: str, told: str) -> None:
    """Rather than left out in silence; and nothing of the address is shown."""
    with pytest.raises(StartRefused, match=told) as refused:
        read_address(Secret(PLAIN.replace(":p@", ":canary-7d@") + query))

    assert "canary-7d" not in str(refused.value)
