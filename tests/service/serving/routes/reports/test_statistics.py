"""Statistics of a route's arms."""

import random

import pytest
from msgspec import structs

from service.core.routes.route import Arm, FallbackRoute, WeightedRoute
from service.serving.routes.reports import statistics
from service.serving.routes.reports.statistics import RouteReports
from service.storage import open_store
from support.bench import ListSink

MS = 1_000_000
ROUTE = WeightedRoute(arms=(Arm(model="a"), Arm(model="b")))


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/records.db"}
    opened = open_store(urls[request.param])
    yield opened
    opened.close()


@pytest.fixture
def records(make_record):
    def made(number, model, e2e_ms=100.0, **changes):
        first_ns = round(e2e_ms / 2 * MS)
        known = {
            "model": model, "variant": None, "requested_model": "ab", "route": "weighted",
            "route_reason": "drawn at random", "accepted_at_ns": number, "accepted_ns": 0,
            "queued_ns": 0, "scheduled_ns": 0, "first_ns": first_ns,
            "last_ns": round(e2e_ms * MS), "prompt_tokens": 10, "completion_tokens": 6,
            "cold": False, "status": "ok", "error_code": None, "completion_bytes": 20,
        }  # fmt: skip
        return make_record(f"r{number}", **(known | changes))

    return made


async def stats(store, route=ROUTE, **period):
    reports = RouteReports(store, ListSink())
    try:
        period = {"since_ns": None, "until_ns": None} | period
        return await reports.statistics("ab", route, **period)
    finally:
        reports.close()


async def test_requests_are_summed_up_by_arm(store, records):
    """Counts, tokens, bytes, percentiles; p95 only where there are enough."""
    store.write([records(n, "a", 100 + n) for n in range(80)])
    store.write([records(100 + n, "b", 300) for n in range(5)])
    store.write([records(200, "a", requested_model="a", route="direct")])
    first, second = (await stats(store)).arms
    assert (first.model, first.requests, second.model, second.requests) == ("a", 80, "b", 5)
    assert (first.prompt_tokens, first.completion_tokens, first.completion_bytes) == (
        800, 480, 1600,
    )  # fmt: skip
    assert first.e2e_ms.p50 == pytest.approx(139)
    assert first.e2e_ms.p95 == pytest.approx(175)
    assert second.e2e_ms.p95 is None


async def test_errors_are_counted_by_arm_and_code(store, records):
    """Those that reached no model have a row of their own."""
    store.write([
        records(1, "a"),
        records(2, "a", status="failed", error_code="engine_failed"),
        records(3, "a", status="failed", error_code="engine_failed"),
        records(4, None, status="refused", error_code="overloaded", build=None, family=None),
    ])  # fmt: skip
    arms = {arm.model: arm for arm in (await stats(store)).arms}
    assert arms["a"].errors == {"engine_failed": 2}
    assert arms["a"].by_status == {"ok": 1, "failed": 2}
    assert arms[None].errors == {"overloaded": 1}


async def test_a_period_bounds_everything(store, records):
    """From `since`, before `until`."""
    store.write([records(n, "a", status="failed", error_code="x") for n in range(10)])
    found = await stats(store, since_ns=3, until_ns=7)
    assert found.arms[0].requests == found.arms[0].errors["x"] == found.compared_requests == 4


async def test_arms_that_differ_are_told_apart(store, records):
    """With the ratio inside its interval; equal shares of failures are not told apart."""
    noise = random.Random(1)
    store.write([
        records(n, "ab"[n % 2], (100, 150)[n % 2] * noise.lognormvariate(0, 0.1))
        for n in range(400)
    ])  # fmt: skip
    (pair,) = (await stats(store)).comparisons
    found = {metric.metric: metric for metric in pair.metrics}
    assert (pair.base, pair.arm) == ("a", "b")
    assert found["e2e_ms"].decided
    assert found["e2e_ms"].low < 1.5 < found["e2e_ms"].high
    assert not found["failed"].decided


async def test_equal_arms_are_rarely_told_apart_however_often_one_looks(make_record, records):
    """An A/A test that is looked at after every tenth request: 40 of them, at most 5 % err."""
    from service.serving.routes.reports.comparison import ArmMoments

    false_alarms = 0
    for seed in range(40):
        noise, moments = random.Random(seed), ArmMoments()
        rows = [
            records(n, "ab"[noise.random() < 0.5], 100 * noise.lognormvariate(0, 0.4))
            for n in range(300)
        ]
        alarm = False
        for begin in range(0, 300, 10):
            moments.add(rows[begin : begin + 10])
            for pair in moments.comparisons(["a", "b"]):
                alarm |= any(metric.decided for metric in pair.metrics)
        false_alarms += alarm
    assert false_alarms <= 2


async def test_few_requests_decide_nothing(store, records):
    """And the reason says how many are needed."""
    store.write([records(n, "ab"[n % 2]) for n in range(10)])
    (pair,) = (await stats(store)).comparisons
    assert all(metric.low is None and metric.reason for metric in pair.metrics)


async def test_arms_with_different_requests_are_not_compared(store, records):
    """A fallback's second arm answers what the first could not."""
    store.write([records(n, "ab"[n % 2], route="fallback") for n in range(100)])
    found = await stats(store, FallbackRoute(arms=ROUTE.arms))
    assert found.comparisons == ()
    assert "not compared" in found.notes[0]


async def test_sticky_requests_are_noted(store, records):
    """The intervals take them for independent."""
    store.write([records(n, "ab"[n % 2], route_reason="sticky") for n in range(10)])
    assert "10 of 10 requests were kept" in (await stats(store)).notes[0]


async def test_a_bounded_number_of_requests_is_compared(store, records, monkeypatch):
    """The first ones, and it says so."""
    monkeypatch.setattr(statistics, "MOST_ROWS", 20)
    store.write([records(n, "ab"[n % 2]) for n in range(30)])
    found = await stats(store)
    assert found.compared_requests == 20
    assert sum(arm.requests for arm in found.arms) == 30
    assert "first 20 requests" in found.notes[0]


async def test_what_was_asked_for_before_it_was_a_route_is_not_compared(store, records):
    """Nor is what was never routed."""
    store.write([structs.replace(records(1, "a"), route=None)])
    assert (await stats(store)).compared_requests == 0
