"""Every number has one formula."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.metrics import derive, percentile, quantiles
from service.core.record import RequestRecord

MakeRecord = Callable[..., RequestRecord]
STAMPS = ("accepted_ns", "queued_ns", "scheduled_ns", "first_ns", "last_ns")


def test_each_metric_follows_its_formula(make_record: MakeRecord) -> None:
    """Times, rates and bytes of a known record come out as computed by hand."""
    metrics = derive(make_record("r", load_ns=500_000))

    assert (metrics.ttft_ms, metrics.tpot_ms, metrics.ntpot_ms) == (23.0, 10.0, 11.3)
    assert (metrics.preprocess_ms, metrics.queue_ms, metrics.prefill_ms) == (1.0, 2.0, 20.0)
    assert (metrics.decode_ms, metrics.e2e_ms, metrics.load_ms) == (90.0, 113.0, 0.5)
    assert (metrics.tokens_per_s, metrics.bytes_per_s) == (100.0, 450.0)


def test_two_tokens_flow_at_one_tokens_bytes(make_record: MakeRecord) -> None:
    """Bytes and tokens are counted over the same intervals: n tokens have n − 1 of them.

    All n tokens' bytes over n − 1 intervals said twice the truth for an answer of two tokens.
    """
    record = make_record("r", completion_tokens=2, completion_bytes=8, first_ns=0, last_ns=10**9)

    metrics = derive(record)

    assert (metrics.tokens_per_s, metrics.bytes_per_s) == (1.0, 4.0)


@given(gaps_ns=st.lists(st.integers(0, 10**15), min_size=5, max_size=5))
def test_the_parts_add_up_to_the_whole(make_record: MakeRecord, gaps_ns: list[int]) -> None:
    """The times from stamp to stamp are exact, and their nanoseconds sum up to e2e."""
    stamps = [sum(gaps_ns[: n + 1]) for n in range(5)]
    record = make_record("r", **dict(zip(STAMPS, stamps, strict=True)))
    parts = [end - start for start, end in itertools.pairwise(stamps)]

    metrics = derive(record)

    named = (metrics.preprocess_ms, metrics.queue_ms, metrics.prefill_ms, metrics.decode_ms)
    assert named == tuple(part / 1e6 for part in parts)
    assert metrics.e2e_ms == sum(parts) / 1e6


@pytest.mark.parametrize("missing", STAMPS[1:])
def test_a_missing_stamp_makes_its_times_unknown(make_record: MakeRecord, missing: str) -> None:
    """A time with an unknown end is None, and no other stamp stands in for it."""
    metrics = derive(make_record("r", **{missing: None}))

    used_by = {
        "queued_ns": metrics.preprocess_ms,
        "scheduled_ns": metrics.queue_ms,
        "first_ns": metrics.ttft_ms,
        "last_ns": metrics.e2e_ms,
    }
    assert used_by[missing] is None
    assert sum(value is None for value in used_by.values()) <= 2


@pytest.mark.parametrize("tokens", [None, 0, 1])
def test_pace_needs_two_tokens(make_record: MakeRecord, tokens: int | None) -> None:
    """With fewer than two tokens there is no time between tokens."""
    metrics = derive(make_record("r", completion_tokens=tokens))

    assert (metrics.tpot_ms, metrics.tokens_per_s, metrics.bytes_per_s) == (None, None, None)


def test_percentiles_are_nearest_rank() -> None:
    """A percentile is one of the values, and None for none."""
    assert percentile([4, 1, 3, 2], 0.5) == 2
    assert percentile([4, 1, 3, 2], 0.51) == 3
    assert percentile([7], 0.99) == 7
    assert percentile([], 0.5) is None


@pytest.mark.parametrize(
    ("count", "p95", "p99"),
    [(0, None, None), (71, None, None), (72, 69, None), (367, 349, None), (368, 350, 365)],
)
def test_rare_percentiles_need_enough_values(
    count: int, p95: float | None, p99: float | None
) -> None:
    """p95 is told from 72 values and p99 from 368."""
    found = quantiles(range(1, count + 1))

    assert (found.count, found.p95, found.p99) == (count, p95, p99)
