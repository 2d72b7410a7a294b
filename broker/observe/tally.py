"""Token requests, counted in plain numbers: a hot token is answered in less time than the library takes to count it."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class TokenRequests(Collector):
    """How they were answered, and in what time."""

    def __init__(self, buckets: Sequence[float]) -> None:
        self._bounds = tuple(buckets)
        self._answers: dict[tuple[str, str], int] = {}
        self._counts = [0] * (len(self._bounds) + 1)
        self._seconds = 0.0

    def count(self, provider: str, outcome: str) -> None:
        """One more that was answered so."""
        answer = provider, outcome
        self._answers[answer] = self._answers.get(answer, 0) + 1

    def observe(self, seconds: float) -> None:
        """One more that took so long."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def describe(self) -> Iterator[Metric]:
        yield _answers()
        yield _times()

    def collect(self) -> Iterator[Metric]:
        answers, times = _answers(), _times()
        for answer, count in sorted(self._answers.items()):
            answers.add_metric(answer, count)
        names = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        times.add_metric((), list(zip(names, accumulate(self._counts), strict=True)), self._seconds)
        yield answers
        yield times


def _answers() -> CounterMetricFamily:
    return CounterMetricFamily(
        "broker_token_requests", "Token requests by how they were answered", labels=("provider", "outcome")
    )


def _times() -> HistogramMetricFamily:
    return HistogramMetricFamily("broker_token_request_seconds", "Time to answer a token request")
