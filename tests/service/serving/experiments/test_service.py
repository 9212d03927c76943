"""Experiments are guests: one at a time, paused by others, continued after a stop."""

import asyncio

import pytest
from msgspec import structs

from service.core.errors import StoreUnavailable
from service.core.experiments.plan import Conversation
from service.core.experiments.schedule import schedule
from service.engines.echo import EchoBehaviour
from service.serving.experiments import run
from service.serving.experiments.run import left
from service.storage.experiments.memory import MemoryExperimentStore
from support.waiting import until

SLOW = EchoBehaviour(itl_ms=20)


async def followed(service, experiment_id):
    return [event async for event in service.events(experiment_id)]


async def test_each_trial_runs_alone_in_the_planned_order(experiments, make_plan):
    """One event a trial; what was stored is the schedule, done."""
    e = await experiments()
    created = await e.service.create(make_plan(repetitions=3))
    events = await followed(e.service, created.id)

    trials = e.store.trials(created.id)
    assert [t.number for t in trials] == [v.trial.number for v in events if v.trial is not None]
    assert [(t.arm, t.pairing) for t in trials] == [
        (t.arm, t.pairing) for t in schedule(created.plan)
    ]
    assert all(t.disturbances == () for t in trials)
    assert {(r.experiment_id, r.endpoint, r.co_scheduled) for r in e.bench.sink.finals} == {
        (created.id, "experiment", 0)
    }
    ended = e.store.get(created.id)
    assert (ended.state, ended.environment) == ("done", {"cores": 2})


async def test_it_pauses_while_others_have_requests(experiments, make_plan, monkeypatch):
    """No trial begins until they have ended, and the progress says why."""
    monkeypatch.setattr(run, "QUIET_S", 0.05)
    e = await experiments(behaviours={"three": EchoBehaviour(itl_ms=30)})
    asking = asyncio.create_task(e.bench.ask("three", max_tokens=10, request_id="plain"))
    await until(lambda: e.bench.pool.requests)
    created = await e.service.create(make_plan())
    events = await followed(e.service, created.id)

    assert asking.done()
    assert "busy" in {event.waits_for for event in events}
    assert events[-1].waits_for is None
    others_end = next(r for r in e.bench.sink.finals if r.request_id == "plain").closed_ns
    assert all(r.accepted_ns > others_end for r in e.bench.sink.finals if r.request_id != "plain")


async def test_without_a_quiet_moment_it_runs_beside_others_and_says_so(experiments, make_plan):
    """A plan that does not pause waits for the machine a bounded time, then goes on."""
    e = await experiments(
        behaviours={"three": EchoBehaviour(ttft_ms=1500)}, max_wait_s=0.02, max_stall_s=0.01
    )
    asking = asyncio.create_task(e.bench.ask("three", max_tokens=90))
    await until(lambda: e.bench.pool.requests)
    created = await e.service.create(make_plan("one", pause_when_busy=False, measures=("memory",)))
    await until(lambda: e.store.counts([created.id])[created.id].ended)

    assert not asking.done()
    assert e.store.trials(created.id)[0].disturbances == ("not_isolated",)
    await asking


async def test_a_stopped_experiment_goes_on_where_it_stood(experiments, make_plan):
    """Trials that had ended are kept; the rest is run by the next service on the same store."""
    first = await experiments(behaviours={"one": SLOW})
    created = await first.service.create(make_plan(repetitions=4))
    await until(lambda: first.store.counts([created.id])[created.id].ended >= 5)
    await first.service.aclose()
    kept = first.store.trials(created.id)
    assert first.store.get(created.id).state == "running"

    second = await experiments(store=first.store)
    await followed(second.service, created.id)

    trials = second.store.trials(created.id)
    assert [t for t in trials[: len(kept)] if not t.warmup] == [t for t in kept if not t.warmup]
    assert len(trials) == created.planned_trials > len(kept)
    assert second.store.get(created.id).continued == 1


async def test_experiments_run_one_after_another(experiments, make_plan):
    """In the order in which they were created."""
    e = await experiments()
    ids = [(await e.service.create(make_plan())).id for _ in range(3)]
    await asyncio.gather(*(followed(e.service, each) for each in ids))
    order = [record.experiment_id for record in e.bench.sink.finals]

    assert order == sorted(order, key=ids.index)


async def test_a_trial_waits_for_a_store_that_cannot_write(experiments, make_plan, monkeypatch):
    """It is not measured again, and nothing is lost."""
    monkeypatch.setattr(run, "STORE_PAUSE_S", 0.01)

    class Flaky(MemoryExperimentStore):
        failures = 3

        def write_trial(self, experiment_id, trial):
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("the disk is full")
            super().write_trial(experiment_id, trial)

    e = await experiments(store=Flaky())
    created = await e.service.create(make_plan())
    events = await followed(e.service, created.id)

    assert "store" in {event.waits_for for event in events}
    assert len(e.bench.sink.finals) == len(e.store.trials(created.id)) == created.planned_trials


async def test_a_turn_after_a_failed_one_fails_too(experiments, make_plan):
    """A conversation that misses an answer measures nothing comparable."""
    e = await experiments(behaviours={"one": EchoBehaviour(fail_after_tokens=1)})
    talk = make_plan(
        measures=("turns",), conversation=Conversation(turns=3, turn_words=3, new_tokens=2)
    )
    created = await e.service.create(talk)
    await followed(e.service, created.id)
    errors = {(t.arm, t.turn): t.error for t in e.store.trials(created.id) if not t.warmup}

    assert errors[0, 1] == "The echo engine failed, as configured."
    assert errors[0, 3] == f"An earlier turn failed: {errors[0, 1]}"
    assert errors[1, 3] is None


@pytest.mark.parametrize("done", range(40))
def test_a_conversation_that_was_broken_off_begins_again(make_plan, done):
    """Its answers are not stored; all else goes on, after warm-ups, with what is missing."""
    planned = schedule(make_plan(measures=("speed", "turns"), repetitions=2))
    rest = left(planned, set(range(done)))
    measured = [t for t in rest if not t.warmup]

    if done >= len(planned):
        assert rest == []
        return
    assert [t for t in rest if t.warmup] == [t for t in planned if t.warmup]
    assert [t.number for t in measured] == list(range(measured[0].number, len(planned)))
    assert measured[0].turn in (None, 1)
    assert all(t.turn is not None for t in measured if t.number < done)


async def test_sampling_of_an_arm_reaches_its_requests(experiments, make_plan):
    """Everything else is greedy, with the plan's seed and exactly the tokens asked for."""
    e = await experiments()
    plan = make_plan("one", "two", seed=9)
    arm = structs.replace(plan.arms[1], sampling={"temperature": 0.5})
    created = await e.service.create(structs.replace(plan, arms=(plan.arms[0], arm)))
    await followed(e.service, created.id)
    sampling = {record.arm: record.sampling for record in e.bench.sink.finals}

    common = {"seed": 9, "ignore_eos": True, "max_tokens": 3}
    assert sampling == {0: common | {"temperature": 0.0}, 1: common | {"temperature": 0.5}}
