"""The address of a PostgreSQL database, read as libpq means it; what the driver cannot do is done here or refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from broker.errors import StartRefused
from broker.model import Secret

CONNECT_WITHIN = 5.0
SESSION = {
    "application_name": "token-broker",
    # A broker whose machine has vanished must not hold its name and its locks for hours.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "15000",
}
OF_THE_DRIVER = frozenset(
    {
        *(
            "host",
            "port",
            "dbname",
            "database",
            "user",
            "password",
            "passfile",
            "service",
            "krbsrvname",
            "gsslib",
        ),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
    }
)
"""Parameters of an address (libpq's) that asyncpg reads itself."""
MEANT_ALREADY = {
    "channel_binding": ("prefer", "disable"),
    "gssencmode": ("prefer", "disable", "allow"),
    "client_encoding": ("utf8", "utf-8", "auto"),
    "keepalives": ("1",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "load_balance_hosts": ("disable",),
}
"""Parameters with the values that ask for what is done anyway."""
REFUSED = frozenset(
    {
        *MEANT_ALREADY,
        *("hostaddr", "requiressl", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "replication", "require_auth", "requirepeer", "sslcertmode", "sslcrldir"),
        *("sslkeylogfile", "gssdelegation", "scram_client_key", "scram_server_key"),
        *("min_protocol_version", "max_protocol_version"),
    }
)
"""What libpq knows and cannot be done here; whatever it does not know is taken for a setting of the server."""
OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][A-Za-z0-9_.-]*)=((?:\\.|\S)*)\s*")


@dataclass(frozen=True, slots=True)
class Address:
    """An address with what the driver cannot do with it taken out."""

    dsn: Secret
    settings: Mapping[str, str]
    """Set in each session."""
    timeout: float
    """Seconds to connect."""


def read_address(url: Secret) -> Address:
    """Read the parameters of an address as libpq means them; raises StartRefused with the one that cannot be kept."""
    dsn, _, query = url.reveal().partition("?")
    kept: list[tuple[str, str]] = []
    settings, timeout = dict(SESSION), CONNECT_WITHIN
    if not all("=" in field for field in query.split("&") if field):
        # Nothing of it is shown: it may be the rest of a password.
        raise StartRefused("store.url: a parameter has no value; a ? in a password is written %3F")
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in OF_THE_DRIVER:
            kept.append((name, value))
        elif value.lower() in MEANT_ALREADY.get(name, ()):
            continue
        elif name in REFUSED:
            raise StartRefused(f"store.url asks for {name}, which the broker cannot do; remove it there")
        elif name == "connect_timeout":
            timeout = _seconds(value)
        elif name == "options":
            settings |= _options(value)
        else:
            settings["application_name" if name == "fallback_application_name" else name] = value
    return Address(Secret(f"{dsn}?{urlencode(kept)}" if kept else dsn), settings, timeout)


def _seconds(value: str) -> float:
    if not (value.isascii() and value.isdigit()):
        raise StartRefused("store.url: connect_timeout is a whole number of seconds")
    # As libpq has it: 0 is no limit of one's own, and less than two seconds is two.
    return CONNECT_WITHIN if int(value) == 0 else float(min(60, max(2, int(value))))


def _options(text: str) -> dict[str, str]:
    """The settings in `options=-c name=value`; raises StartRefused for what else the server could be told there."""
    rest = text.strip()
    found: dict[str, str] = {}
    while rest:
        option = OPTION.match(rest)
        if option is None:
            raise StartRefused("store.url: options may only hold settings, as in -c search_path=broker")
        found[option[1].replace("-", "_")] = re.sub(r"\\(.)", r"\1", option[2])
        rest = rest[option.end() :]
    return found
