"""What the client saw and what the service wrote down must agree, one to one."""

import asyncio
from collections.abc import Callable

import pytest
from loadtest.reconcile import Reconciliation, fetch_records, reconcile

from loadtest.corpus import Message, Prompt
from loadtest.observation import Observation
from loadtest.plan import Arrivals, Plan
from loadtest.run import Results, connect, run
from loadtest.schedule import schedule
from service.core.record import RequestRecord

PROMPTS = (Prompt(id="p", messages=(Message(role="user", content="Wohin?"),)),)


def check(url: str, model: str, **changes: object) -> tuple[Reconciliation, Results]:
    """Run two requests of one model and reconcile them."""
    plan = Plan(
        models=(model,),
        requests_per_model=2,
        warmup_requests=0,
        arrivals=Arrivals(rate_per_s=200),
        **changes,
    )

    async def go() -> tuple[Reconciliation, Results]:
        async with connect(url) as http:
            results = await run(plan, schedule(plan, 1), PROMPTS, http, lambda _: None)
            records = await fetch_records(http, results.run_id, results.begun_at_ns)
            assert records is not None
            return reconcile(results.observations, records), results

    return asyncio.run(go())


@pytest.mark.parametrize("model", ["good", "busy", "broken", "cut"])
def test_honest_records_agree(running, model: str) -> None:
    """Whole, refused and failed requests are found once, with status and counts."""
    found, results = check(running.url, model)

    assert found == Reconciliation(checked=2, missing=(), duplicated=(), differing=())
    assert found.complete
    assert len(results.observations) == 2


def test_given_up_requests_are_cancelled_in_the_log(running) -> None:
    """A request that the client gave up is recorded as cancelled."""
    found, _ = check(running.url, "stuck", timeout_s=0.2)

    assert found.complete


def test_a_lost_record_is_missing(running) -> None:
    """A request without a record is told by its id."""
    found, results = check(running.url, "forgotten")

    assert sorted(found.missing) == sorted(one.client_request_id for one in results.observations)
    assert not found.complete


def test_a_second_record_is_a_duplicate(running) -> None:
    """A request with two records is told by its id."""
    found, _ = check(running.url, "doubled")

    assert len(found.duplicated) == 2


def test_other_counts_differ(running) -> None:
    """A record with another number of tokens is told with both numbers."""
    found, _ = check(running.url, "lying")

    assert len(found.differing) == 2
    assert found.differing[0].endswith(": completion_tokens 99 for 4")


def test_another_status_differs(make_record: Callable[..., RequestRecord], running) -> None:
    """A request that the client saw whole must not be recorded as failed."""
    _, results = check(running.url, "good")
    seen: Observation = results.observations[0]
    record = make_record(
        "other", status="failed", client_request_id=seen.client_request_id, prompt_tokens=7,
        completion_tokens=4, completion_bytes=seen.text_bytes,
    )  # fmt: skip

    (difference,) = reconcile([seen], [record]).differing

    assert "status failed for ok" in difference
    assert f"request_id other for {seen.request_id}" in difference
