"""All metrics. Labels come from closed sets; accounts and callers are never labels."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 90)


class TokenRequests(Collector):
    """The counter of token requests by outcome, and the histogram of their duration.

    They are kept in plain numbers, because a cached token is answered in less time than the library takes to count it.
    """

    def __init__(self, buckets: Sequence[float]) -> None:
        self._bounds = tuple(buckets)
        self._answers: dict[tuple[str, str], int] = {}
        self._counts = [0] * (len(self._bounds) + 1)
        self._seconds = 0.0

    def count(self, provider: str, outcome: str) -> None:
        """Count a request with its outcome."""
        self._answers[provider, outcome] = self._answers.get((provider, outcome), 0) + 1

    def observe(self, seconds: float) -> None:
        """Record the duration of a request."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def describe(self) -> Sequence[CounterMetricFamily | HistogramMetricFamily]:
        """Return the metrics without values, for the registry."""
        return self._families()

    def collect(self) -> Sequence[CounterMetricFamily | HistogramMetricFamily]:
        """Return the metrics with their current values."""
        answers, times = self._families()
        for answer, count in sorted(self._answers.items()):
            answers.add_metric(answer, count)
        names = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        times.add_metric((), list(zip(names, accumulate(self._counts), strict=True)), self._seconds)
        return answers, times

    def _families(self) -> tuple[CounterMetricFamily, HistogramMetricFamily]:
        answered = "Token requests by how they were answered"
        return (
            CounterMetricFamily("broker_token_requests", answered, labels=("provider", "outcome")),
            HistogramMetricFamily("broker_token_request_seconds", "Time to answer a token request"),
        )


class Metrics:
    """The broker's metrics in their own registry. Each attribute is one metric of the documentation."""

    def __init__(self) -> None:
        # Else each counter has a second series with its creation time.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives it no types
        self.registry = CollectorRegistry()
        self.token_requests = TokenRequests(FAST)
        self.registry.register(self.token_requests)
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        ended = ["provider", "outcome"]

        self.refreshes = counter("broker_refreshes", "Renewals by how they ended", ended)
        self.refresh_seconds = histogram(
            "broker_refresh_seconds", "Time of one renewal", ["provider"], buckets=SLOW
        )
        self.refreshes_in_flight = gauge("broker_refreshes_in_flight", "Renewals under way")
        self.accounts = gauge("broker_accounts", "Accounts by status", ["provider", "status"])
        oldest = "Age of the oldest renewal without an outcome"
        self.oldest_intent_seconds = gauge("broker_oldest_intent_seconds", oldest)
        retained = "Token sets that were received and cannot be stored yet"
        self.retained_commits = gauge("broker_retained_commits", retained)
        is_open = "1 while a provider's breaker is open"
        self.provider_open = gauge("broker_provider_open", is_open, ["provider"])
        first = "Life left of the first token to expire, of accounts in use"
        self.seconds_to_first_expiry = gauge("broker_seconds_to_first_expiry", first, ["provider"])
        self.installs = counter("broker_installs", "Installs by how they ended", ended)
        self.auth_failures = counter("broker_auth_failures", "Refused credentials", ["reason"])
        commit = "Time of one durable write"
        self.store_commit_seconds = histogram("broker_store_commit_seconds", commit, buckets=FAST)
        by_key = "Encrypted records by the id of the key that encrypted them"
        self.rows_by_key = gauge("broker_rows_by_key", by_key, ["kid"])
        broken = "Promises of the renewal protocol that were broken"
        self.invariant_violations = counter("broker_invariant_violations", broken, ["invariant"])

    def text(self) -> bytes:
        """Return the metrics in the Prometheus text format."""
        return generate_latest(self.registry)
