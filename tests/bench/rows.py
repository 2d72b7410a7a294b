"""What is measured, and what is to be reached."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table; without a bound it is only told."""

    key: str
    what: str
    unit: str = "times"
    least: float | None = None
    most: float | None = None

    @property
    def reach(self) -> str:
        if self.least is not None:
            return f"≥ {self.least:g}"
        return "" if self.most is None else f"≤ {self.most:g}"

    def is_reached(self, value: float) -> bool | None:
        if self.least is not None:
            return value >= self.least
        return None if self.most is None else value <= self.most


ROWS = (
    Row("hot", "hot token against bare aiohttp + uvloop, 64 connections", least=0.80),
    Row("hot_cpu", "the same by processor time", least=0.80),
    Row("hot_us", "processor time of a hot token", "µs"),
    Row("bare_us", "processor time of the bare server's answer", "µs"),
    Row("one", "hot token against bare, one connection"),
    Row("one_ms", "hot token over one connection, median", "ms"),
    Row("nango", "against Nango (0.021 of bare when it was measured)", least=50),
    Row("jwt", "remembered JWTs against keys", least=0.85),
    Row("open_p99", "open loop at 5,000/s: p99 against bare", most=1.5),
    Row("renewing", "hot p99 while 300 renewals/s commit, against idle", most=2),
    Row("renewing_ms", "the same, absolute", "ms", most=1),
    Row("renewing_slow", "the same against idle, 5 ms added to every flush", most=2),
    Row("renewing_slow_ms", "the same, absolute", "ms", most=1),
    Row("provider", "living token, the provider takes 2 s: p99", "ms", most=5),
    Row("crowd_ms", "64 callers, expired token: p99 beyond the provider's time", "ms", most=15),
    Row("crowd_calls", "calls to the provider for those 64", "", most=1),
    Row("renewals", "renewals/s, concurrency 64, against the POST alone", least=0.40),
    Row("renewals_rate", "renewals/s", "/s"),
    Row("renewals_slow", "with 5 ms flushes: renewals/s, 64 at once against one by one", least=10),
    Row("growth", "throughput with the large store against 1,000, each request another account", least=0.85),
    Row("start_ms", "start to the first token, large store against 1,000", "ms", most=150),
    Row("start_mib", "memory after the start, large store against 1,000", "MiB", most=20),
    Row("account_bytes", "memory of a hot account", "bytes", most=600),
    Row("gc_ms", "full garbage collection with all of them in memory", "ms", most=5),
    Row("cold_us", "processor time of a cold token beyond a hot one", "µs", most=60),
    Row("storm_calls", "calls to the provider for each of 10,000 expired accounts", "", most=1),
    Row("storm_s", "longest that anybody waited for one of those", "s", most=10),
)
"""In the order of the table."""
