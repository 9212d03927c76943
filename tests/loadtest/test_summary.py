"""Failures stay in the percentiles, objectives decide goodput, and clocks must agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from loadtest.observation import Observation
from loadtest.plan import Arrivals, Plan, Slo, Validity
from loadtest.results.censored import censored_quantiles
from loadtest.results.summary import summarize
from loadtest.run import Results
from service.core.events import StateBytes
from service.core.metrics import quantiles

PLAN = Plan(
    models=("m",), requests_per_model=10, arrivals=Arrivals(rate_per_s=1), slo=Slo(ttft_ms=50)
)
MS = 1_000_000


def seen(number: int, *, ttft_ms: int = 40, **changes: object) -> Observation:
    """A whole answer of 11 tokens, 2 ms apart, sent 1 ms after its time."""
    values: dict[str, object] = {
        "number": number, "client_request_id": f"c{number}", "request_id": f"s{number}",
        "model": "m", "block": 0, "prompt_id": "p", "outcome": "ok", "error": None,
        "planned_ns": 0, "dispatched_ns": MS, "sent_ns": MS, "first_ns": ttft_ms * MS,
        "last_ns": (ttft_ms + 20) * MS, "ended_ns": (ttft_ms + 21) * MS, "chunks": 11,
        "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 11, "text_bytes": 44,
        "first_text_bytes": 4, "cold": False, "verified": True,
    }  # fmt: skip
    return Observation(**(values | changes))


def results(*observations: Observation) -> Results:
    return Results(
        run_id="lt", begun_at_ns=0, observations=list(observations), warmups=[],
        asked={one.client_request_id for one in observations}, busy_ns={"m": 2_000 * MS},
    )  # fmt: skip


@pytest.fixture
def recorded(make_record):
    """A record of the same request as the service measured it: accepted 1 ms after the sending."""

    def make(one: Observation, *, late_ms: float = 1.0, decode_ms: float = 20.0):
        first_ns = one.first_ns - round(late_ms * MS)
        return make_record(
            one.request_id, client_request_id=one.client_request_id, accepted_ns=2 * MS,
            first_ns=first_ns, last_ns=first_ns + round(decode_ms * MS), completion_tokens=11,
            state=StateBytes(
                attention_kv_bytes=5, window_kv_bytes=0, ssm_state_bytes=7, conv_state_bytes=0
            ),
        )  # fmt: skip

    return make


def test_a_request_that_timed_out_stays_in_the_percentiles() -> None:
    """One of three requests without an answer makes the largest TTFT censored, not smaller.

    Failed and timed out requests used to drop out: the worse a service, the better it looked.
    """
    lost = seen(3, outcome="timeout", error="timeout", first_ns=None, last_ns=None)

    (model,) = summarize(PLAN, results(seen(1), seen(2), lost)).models

    for times in (model.ttft_ms, model.tpot_ms, model.e2e_ms):
        assert (times.count, times.censored, times.max) == (3, 1, "censored")
    assert model.ttft_ms.p50 == 40


def test_a_run_that_mostly_fails_has_no_median() -> None:
    """With more failures than answers even the median is censored."""
    failed = [seen(n, outcome="failed", error="x", last_ns=None) for n in (2, 3)]

    (model,) = summarize(PLAN, results(seen(1), *failed)).models

    assert model.e2e_ms.p50 == "censored"
    assert model.errors == {"x": 2}


@given(st.lists(st.floats(0, 1e6), max_size=500))
def test_without_failures_the_percentiles_are_the_plain_ones(values: list[float]) -> None:
    """Censored percentiles of only known values are those of the records' summaries."""
    ours, plain = censored_quantiles(values, 0), quantiles(values)

    assert (ours.p50, ours.p95, ours.p99, ours.max) == (plain.p50, plain.p95, plain.p99, plain.max)


def test_goodput_counts_requests_that_met_every_objective() -> None:
    """Slow and failed requests are in the denominator only."""
    lost = seen(3, outcome="refused", error="HTTP 503", first_ns=None, last_ns=None)

    (model,) = summarize(PLAN, results(seen(1), seen(2, ttft_ms=60), lost)).models

    assert model.goodput is not None
    assert model.goodput.met == 1
    assert model.goodput.share == pytest.approx(1 / 3)
    assert model.goodput.per_s == pytest.approx(0.5)


def test_without_objectives_there_is_no_goodput() -> None:
    """A plan without [slo] claims nothing."""
    (model,) = summarize(structs.replace(PLAN, slo=Slo()), results(seen(1))).models

    assert model.goodput is None


def test_client_and_service_stand_side_by_side(recorded) -> None:
    """Differences are client − service, joined request by request; TTFT counts from the sending."""
    one = seen(1)

    summary = summarize(PLAN, results(one), {"c1": recorded(one)})

    found = summary.models[0].agreement
    assert found.joined == 1
    assert found.server_ttft_ms.p50 == pytest.approx(37)
    assert found.ttft_difference_ms.p50 == pytest.approx(2)
    assert found.tpot_difference_ms.p50 == pytest.approx(0)
    assert summary.invalid == ()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"late_ms": 12}, "m: client and server TTFT differ by 13.0 ms"),
        ({"decode_ms": 10}, "m: client and server TPOT differ by 100.0 %"),
        ({"decode_ms": 40}, "m: client and server TPOT differ by 50.0 %"),
    ],
)
def test_a_client_that_measures_itself_invalidates_the_run(
    recorded, changes: dict[str, float], fault: str
) -> None:
    """Beyond the plan's bounds the run is invalid and says why, whichever clock is ahead."""
    one = seen(1)

    invalid = summarize(PLAN, results(one), {"c1": recorded(one, **changes)}).invalid

    assert any(line.startswith(fault) for line in invalid)


def test_a_small_difference_of_tpot_is_never_invalid(recorded) -> None:
    """Many percent of a TPOT of a fraction of a millisecond are no fault of the client."""
    one = seen(1)
    record = {"c1": recorded(one, decode_ms=18.5)}
    strict = structs.replace(PLAN, validity=Validity(least_tpot_difference_ms=0.0))

    assert summarize(PLAN, results(one), record).invalid == ()
    assert "TPOT differ by 8.1 %" in summarize(strict, results(one), record).invalid[0]


def test_a_measuring_process_that_lags_invalidates_the_run() -> None:
    """Late timers mean late stamps."""
    lagging = results(seen(1))
    lagging.loop_lags_ns = [100 * MS] * 10

    (fault,) = summarize(PLAN, lagging).invalid

    assert fault.startswith("loop lag p95 of the measuring process is 100.0 ms")


def test_state_bytes_are_those_of_the_records(recorded) -> None:
    """Bytes of a request's state come from its record, by kind and together."""
    one = seen(1)

    (model,) = summarize(PLAN, results(one), {"c1": recorded(one)}).models

    assert model.live_state_bytes.p50 == 12
    assert model.state_bytes["ssm_state_bytes"].p50 == 7
    assert "reserved_bytes" not in model.state_bytes
