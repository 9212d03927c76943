"""What the client saw and what the service wrote down must agree, one to one."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from msgspec import structs

from loadtest.address import Address
from loadtest.corpus import Message, Prompt
from loadtest.observation import Observation
from loadtest.plan import Arrivals, Plan
from loadtest.results.reconciliation import Reconciliation, reconcile
from loadtest.results.records import fetch_records
from loadtest.run import Results, connect, run
from loadtest.schedule import schedule
from service.core.record import RequestRecord

PROMPTS = (Prompt(id="p", messages=(Message(role="user", content="Wohin?"),)),)


class Checked(NamedTuple):
    found: Reconciliation
    results: Results
    records: list[RequestRecord]


async def check(url: str, model: str, **changes: object) -> Checked:
    """Run two requests of one model and reconcile them."""
    plan = Plan(
        models=(model,),
        requests_per_model=2,
        warmup_requests=0,
        arrivals=Arrivals(rate_per_s=200),
        **changes,
    )
    results = await run(plan, schedule(plan, 1), PROMPTS, Address.parse(url), lambda _: None)
    async with connect(url) as http:
        records = await fetch_records(http, results.asked, results.begun_at_ns)
    assert records is not None
    return Checked(reconcile(results.observations, records, results.asked), results, records)


@pytest.mark.parametrize("model", ["good", "busy", "broken", "cut"])
async def test_honest_records_agree(running, model: str) -> None:
    """Whole, refused and failed requests are found once, with status and counts."""
    found, results, _ = await check(running.url, model)

    assert found == Reconciliation(checked=2)
    assert found.complete
    assert len(results.observations) == 2


async def test_given_up_requests_are_cancelled_in_the_log(running) -> None:
    """A request that the client gave up is recorded as cancelled."""
    found, _, _ = await check(running.url, "stuck", timeout_s=0.2)

    assert found.complete


async def test_a_lost_record_is_missing(running) -> None:
    """A request without a record is told by its id."""
    found, results, _ = await check(running.url, "forgotten")

    assert sorted(found.missing) == sorted(one.client_request_id for one in results.observations)
    assert not found.complete


async def test_a_second_record_is_a_duplicate(running) -> None:
    """A request with two records is told by its id."""
    found, _, _ = await check(running.url, "doubled")

    assert len(found.duplicated) == 2


async def test_other_counts_differ(running) -> None:
    """A record with another number of tokens is told with both numbers."""
    found, _, _ = await check(running.url, "lying")

    assert len(found.differing) == 2
    assert found.differing[0].endswith(": completion_tokens 99 for 4")


async def test_another_status_differs(make_record: Callable[..., RequestRecord], running) -> None:
    """A request that the client saw whole must not be recorded as failed."""
    _, results, _ = await check(running.url, "good")
    seen: Observation = results.observations[0]
    record = make_record(
        "other", status="failed", client_request_id=seen.client_request_id, prompt_tokens=7,
        completion_tokens=4, completion_bytes=seen.text_bytes,
    )  # fmt: skip

    (difference,) = reconcile([seen], [record], results.asked).differing

    assert "status failed for ok" in difference
    assert f"request_id other for {seen.request_id}" in difference


async def test_a_record_that_nobody_asked_for_is_extra(running) -> None:
    """A row within the run that none of its requests explains is reported; one before is not.

    Only records that bore the run's own ids were looked at: the rest was never seen.
    """
    _, results, records = await check(running.url, "good")
    ours = [one for one in records if one.client_request_id in results.asked]
    within = structs.replace(ours[0], request_id="foreign", client_request_id=None)
    before = structs.replace(within, request_id="before", accepted_ns=0)

    found = reconcile(results.observations, [*ours, within, before], results.asked)

    assert found.extra == ("foreign",)
    assert not found.complete


async def test_other_traffic_may_be_expected(running) -> None:
    """A plan that shares the service with others does not hold their records against the run."""
    _, results, records = await check(running.url, "good")
    foreign = structs.replace(records[0], request_id="foreign", client_request_id="theirs")

    found = reconcile(results.observations, [*records, foreign], results.asked, exclusive=False)

    assert found.complete


async def test_a_request_cut_by_an_interruption_is_not_extra(running) -> None:
    """Ctrl-C leaves records of requests that were asked and never observed: those are explained."""
    _, results, records = await check(running.url, "good")

    found = reconcile(results.observations[:1], records, results.asked)

    assert found.extra == ()


@pytest.mark.parametrize(
    ("changes", "agrees"),
    [
        ({"status": "cancelled"}, True),
        ({"status": "failed", "error_code": "deadline_exceeded"}, True),
        ({"status": "ok", "served_ms": 1990}, True),
        ({"status": "ok", "served_ms": 200}, False),
        ({"status": "failed", "error_code": "engine_failed", "served_ms": 200}, False),
    ],
)
async def test_a_timeout_may_have_several_truths(
    running, changes: dict[str, object], *, agrees: bool
) -> None:
    """Of a request given up after 2 s the service may say cancelled, late, or just ended.

    An answer that was whole long before is a disagreement.
    """
    _, results, records = await check(running.url, "good")
    ok = results.observations[0]
    seen = structs.replace(
        ok, outcome="timeout", sent_ns=ok.planned_ns, ended_ns=ok.planned_ns + 2_000_000_000
    )
    record = next(one for one in records if one.client_request_id == seen.client_request_id)
    served_ns = round(float(changes.pop("served_ms", 2000)) * 1e6)
    record = structs.replace(
        record, last_ns=record.accepted_ns + served_ns, closed_ns=None, **changes
    )

    found = reconcile([seen], [record], results.asked)

    assert (found.differing == ()) is agrees
