"""Shadows: one record each whatever happens, and nobody's request waits for one."""

import asyncio
import logging

import pytest

from service.core.errors import EngineDied, ModelNotReady, StoreUnavailable
from service.core.events import Delta
from service.core.routes.route import Shadowed, ShadowRoute
from service.serving.requests import shadows as module
from support.waiting import until


def route(*models, primary="one", **options):
    return {
        "both": ShadowRoute(
            primary=primary, shadows=tuple(Shadowed(model=m) for m in models or ("two",)), **options
        )
    }


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    """Look at the machine more often than a service does."""
    monkeypatch.setattr(module, "LOOK_S", 0.001)


async def quiet(b):
    await until(lambda: b.chat.shadows.idle, 5)


def shadows_of(b, request_id="primary"):
    return [record for record in b.sink.finals if record.shadow_of == request_id]


async def test_a_shadow_answers_the_same_request_after_the_primary(bench):
    """Its record has the result, and names the request that it shadows."""
    b = bench(routes=route())
    await b.ask("both", request_id="primary", max_tokens=4, client_request_id="mine")
    await quiet(b)
    primary, shadow = b.sink.finals
    assert (primary.model, primary.shadow_of, primary.route) == ("one", None, "shadow")
    assert (shadow.model, shadow.status, shadow.completion_tokens) == ("two", "ok", 4)
    assert (shadow.shadow_of, shadow.route, shadow.requested_model) == ("primary", "shadow", "both")
    assert shadow.client_request_id == "mine"
    assert shadow.request_id != "primary"
    assert shadow.accepted_ns >= primary.closed_ns
    assert b.pool.requests == 0


async def test_every_shadow_has_a_record_of_its_own(bench):
    """Two shadows, two rows; accepted ones are written before they run."""
    b = bench(routes=route("two", "three"))
    await b.ask("both", request_id="primary")
    await quiet(b)
    assert sorted(record.model for record in shadows_of(b)) == ["three", "two"]
    accepted = [record for record in b.sink.records if record.phase == "accepted"]
    assert [record.shadow_of for record in accepted] == [None, "primary", "primary"]


@pytest.mark.parametrize(
    "prepare",
    [
        lambda e: setattr(e, "error", EngineDied("killed")),
        lambda e: setattr(e, "error", ZeroDivisionError()),
        lambda e: setattr(e, "load_error", ModelNotReady("no memory")),
    ],
)
async def test_a_shadow_that_fails_leaves_a_failed_row_and_touches_nobody(bench, prepare, caplog):
    """Killed, buggy, or not to be loaded: the primary's events are as without it."""
    caplog.set_level(logging.CRITICAL)
    plain = bench()
    alone = await plain.ask("one", request_id="primary")
    b = bench(routes=route())
    b.prepare["two"] = prepare
    beside = await b.ask("both", request_id="primary")
    await quiet(b)
    assert [type(event) for event in beside] == [type(event) for event in alone]
    assert [e.text for e in beside if isinstance(e, Delta)] == [
        e.text for e in alone if isinstance(e, Delta)
    ]
    (shadow,) = shadows_of(b)
    assert (shadow.phase, shadow.status) == ("final", "failed")
    assert shadow.error_code is not None
    assert b.sink.finals[0].status == "ok"


async def test_a_shadow_that_hangs_is_ended_by_its_time_limit(bench):
    """Its row says so, and its place is free again."""
    b = bench(routes=route(timeout_s=0.05))
    b.prepare["two"] = lambda engine: engine.may_step.clear()
    await b.ask("both", request_id="primary")
    await quiet(b)
    (shadow,) = shadows_of(b)
    assert (shadow.status, shadow.error_code) == ("failed", "deadline_exceeded")
    assert (b.engines["two"].running, b.pool.requests) == (0, 0)


async def test_a_full_queue_skips_shadows_and_says_so(bench):
    """A row each: what ran, what waits, what was skipped."""
    b = bench(routes=route(primary="three", max_queued=1))
    b.prepare["two"] = lambda engine: engine.may_step.clear()
    await b.ask("one")
    b.engines["one"].may_step.clear()
    busy = asyncio.create_task(b.ask("one"))  # no spare capacity from here on
    await until(lambda: b.engines["one"].running)
    for number in range(3):
        await b.ask("both", request_id=f"p{number}")
    assert [shadows_of(b, f"p{n}") != [] for n in range(3)] == [False, True, True]
    (skipped,) = shadows_of(b, "p1")
    assert (skipped.status, skipped.error_code) == ("refused", "shadow_skipped")
    assert "1 shadows of this route wait already" in skipped.route_reason
    b.engines["one"].may_step.set()
    await busy
    await until(lambda: "two" in b.engines)
    b.engines["two"].may_step.set()
    await quiet(b)
    assert [shadow.status for shadow in shadows_of(b, "p0")] == ["ok"]


async def test_a_shadow_waits_for_a_machine_that_nobody_uses_but_not_for_ever(bench):
    """While any model answers somebody, none starts."""
    b = bench(routes=route(primary="three", max_wait_s=0.05))
    await b.ask("one")
    b.engines["one"].may_step.clear()
    busy = asyncio.create_task(b.ask("one"))
    await until(lambda: b.engines["one"].running)
    await b.ask("both", request_id="primary")
    await quiet(b)
    (shadow,) = shadows_of(b)
    assert (shadow.status, shadow.error_code) == ("refused", "shadow_skipped")
    assert "no spare capacity within 0.05 s" in shadow.route_reason
    assert "two" not in b.engines
    b.engines["one"].may_step.set()
    await busy


async def test_a_running_shadow_ends_when_a_client_comes(bench):
    """Its slot is free before the newcomer's engine begins, and its row tells."""
    b = bench(routes=route())
    b.prepare["two"] = lambda engine: engine.may_step.clear()
    await b.ask("both", request_id="primary")
    await until(lambda: "two" in b.engines and b.engines["two"].running)
    await b.ask("three")
    assert b.engines["two"].running == 0
    await quiet(b)
    (shadow,) = shadows_of(b)
    assert (shadow.status, shadow.error_code) == ("interrupted", "shadow_yielded")


async def test_a_client_of_the_same_model_does_not_queue_behind_its_shadow(bench):
    """The only place of the model's queue is the client's."""
    b = bench(routes=route(), max_queued_requests=2)
    b.prepare["two"] = lambda engine: engine.may_step.clear()
    await b.ask("both", request_id="primary")
    await until(lambda: "two" in b.engines and b.engines["two"].running)
    asked = asyncio.create_task(b.ask("two"))
    await until(lambda: len(shadows_of(b)) == 1)
    b.engines["two"].may_step.set()
    assert len(await asked) == 7
    assert b.engines["two"].most_running <= 2


async def test_a_load_that_would_evict_others_is_not_made(bench):
    """Memory that users' models hold is not spare."""
    b = bench(models=("one", "two"), sizes={"one": 60, "two": 60}, budget=100, routes=route())
    await b.ask("both", request_id="primary", max_tokens=5)
    await quiet(b)
    (shadow,) = shadows_of(b)
    assert (shadow.status, shadow.error_code) == ("refused", "shadow_skipped")
    assert "its load needs 60 B, and 40 B are free" in shadow.route_reason
    assert b.pool.status("one").loaded
    assert not b.pool.status("two").loaded


async def test_a_state_that_would_evict_others_is_not_reserved(bench):
    """The model fits, its request does not."""
    b = bench(models=("one", "two"), sizes={"one": 40, "two": 55}, budget=100, routes=route())
    await b.ask("both", request_id="primary", max_tokens=10)
    await quiet(b)
    (shadow,) = shadows_of(b)
    assert "its state needs 10 B, and 5 B are free" in shadow.route_reason


async def test_a_primary_without_an_answer_has_skipped_shadows(bench):
    """A client that left compares nothing; the row is there all the same."""
    b = bench(routes=route())
    async with b.chat.open(b.request("both", request_id="primary")):
        pass
    (shadow,) = shadows_of(b)
    assert (shadow.status, shadow.error_code) == ("refused", "shadow_skipped")
    assert "the primary's answer is cancelled" in shadow.route_reason


async def test_a_share_of_requests_is_shadowed(bench):
    """Those that the draw does not meet have no shadow, and so no row."""
    half = {"both": ShadowRoute(primary="one", shadows=(Shadowed(model="two", share=0.25),))}
    b = bench(routes=half)
    draws = iter((0.1, 0.3, 0.9, 0.24))
    b.chat._random = lambda: next(draws)
    for number in range(4):
        await b.ask("both", request_id=f"p{number}")
        await quiet(b)
    assert [len(shadows_of(b, f"p{n}")) for n in range(4)] == [1, 0, 0, 1]


async def test_shutdown_ends_shadows_with_a_row_each(bench):
    """Running and waiting ones are interrupted; none is taken afterwards."""
    b = bench(routes=route("two", "three"))
    b.prepare["two"] = lambda engine: engine.may_step.clear()
    await b.ask("both", request_id="primary")
    await until(lambda: "two" in b.engines and b.engines["two"].running)
    await b.chat.shadows.aclose()
    assert {(s.model, s.status, s.error_code) for s in shadows_of(b)} == {
        ("two", "interrupted", "draining"),
        (None, "interrupted", "draining"),
    }
    await b.ask("both", request_id="late")
    assert {s.error_code for s in shadows_of(b, "late")} == {"draining"}
    assert b.pool.requests == 0


async def test_a_disk_that_takes_no_shadow_does_not_fail_the_primary(bench, caplog):
    """Nothing runs unrecorded, and the log has it."""
    b = bench(routes=route())
    submit = b.sink.submit

    def full(record):
        if record.shadow_of is not None:
            raise StoreUnavailable("disk full")
        submit(record)

    b.sink.submit = full
    assert len(await b.ask("both", request_id="primary")) == 7
    assert b.chat.shadows.idle
    assert "has no shadow two" in caplog.text


async def test_shadows_of_one_route_run_one_at_a_time_unless_told(bench):
    """`max_concurrent` bounds them."""
    b = bench(routes=route("two", "two", "two"))
    b.prepare["two"] = lambda engine: engine.may_step.clear()
    await b.ask("both", request_id="primary")
    await until(lambda: "two" in b.engines and b.engines["two"].running)
    await asyncio.sleep(0.02)
    assert b.engines["two"].running == 1
    b.engines["two"].may_step.set()
    await quiet(b)
    assert [shadow.status for shadow in shadows_of(b)] == ["ok"] * 3
    assert b.engines["two"].most_running == 1
