"""Every metric, in one list. Labels come from closed sets; an account or a caller is never one."""

from bisect import bisect_left
from collections.abc import Sequence
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
    """Token requests by answer, and the time that they took.

    They are counted in plain numbers: a hot token is answered in less time than the library takes to count it.
    """

    def __init__(self, buckets: Sequence[float]) -> None:
        self._bounds = tuple(buckets)
        self._answers: dict[tuple[str, str], int] = {}
        self._counts = [0] * (len(self._bounds) + 1)
        self._seconds = 0.0

    def count(self, provider: str, outcome: str) -> None:
        """Count one more that was answered so."""
        answer = provider, outcome
        self._answers[answer] = self._answers.get(answer, 0) + 1

    def observe(self, seconds: float) -> None:
        """Count one more that took so long."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def describe(self) -> Sequence[CounterMetricFamily | HistogramMetricFamily]:
        return self._families()

    def collect(self) -> Sequence[CounterMetricFamily | HistogramMetricFamily]:
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
    """The broker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        # A second series for each counter, which nobody asked for and no list of ours names.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives it no types
        self.registry = CollectorRegistry()
        self.token_requests = TokenRequests(FAST)
        self.registry.register(self.token_requests)
        self.refreshes = self._counter(
            "broker_refreshes", "Renewals by how they ended", "provider", "outcome"
        )
        self.refresh_seconds = Histogram(
            "broker_refresh_seconds",
            "Time of one renewal",
            ["provider"],
            buckets=SLOW,
            registry=self.registry,
        )
        self.refreshes_in_flight = self._gauge("broker_refreshes_in_flight", "Renewals under way")
        self.accounts = self._gauge("broker_accounts", "Accounts by status", "provider", "status")
        self.oldest_intent_seconds = self._gauge(
            "broker_oldest_intent_seconds", "Age of the oldest renewal without an outcome"
        )
        self.retained_commits = self._gauge(
            "broker_retained_commits", "Token sets that were received and cannot be stored yet"
        )
        self.provider_open = self._gauge(
            "broker_provider_open", "1 while a provider's breaker is open", "provider"
        )
        self.seconds_to_first_expiry = self._gauge(
            "broker_seconds_to_first_expiry",
            "Life left of the first token to expire, of accounts in use",
            "provider",
        )
        self.installs = self._counter("broker_installs", "Installs by how they ended", "provider", "outcome")
        self.auth_failures = self._counter("broker_auth_failures", "Refused credentials", "reason")
        self.store_commit_seconds = Histogram(
            "broker_store_commit_seconds", "Time of one durable write", buckets=FAST, registry=self.registry
        )
        self.rows_by_key = self._gauge(
            "broker_rows_by_key", "Sealed records by the id of the key that sealed them", "kid"
        )
        self.invariant_violations = self._counter(
            "broker_invariant_violations", "Promises of the renewal protocol that were broken", "invariant"
        )

    def text(self) -> bytes:
        """The metrics in the Prometheus text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(name, help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(name, help_, labels, registry=self.registry)
