"""The pool loads once, admits as many as it may, and says how it stands."""

import asyncio

import pytest

from model_registry.errors import CorruptFile, NotPulled
from model_registry.sources import locate
from service.core.errors import (
    ConfigError,
    Draining,
    EngineFailed,
    ModelNotFound,
    ModelNotPulled,
    ModelNotReady,
    ModelUnusable,
    Overloaded,
    TriptychError,
)
from service.core.ports import LoadProgress
from support.waiting import until


def slow_load(engine):
    engine.may_load.clear()


async def test_requests_that_come_together_share_one_load(bench):
    """Five first requests open one engine."""
    b = bench()
    await asyncio.gather(*(b.ask() for _ in range(5)))
    assert b.opened == 1


async def test_a_client_that_leaves_does_not_stop_the_load(bench):
    """The load goes on for those who still wait."""
    b = bench()
    b.prepare["one"] = slow_load
    impatient = asyncio.create_task(b.ask())
    patient = asyncio.create_task(b.ask())
    await until(lambda: b.engines)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    b.engines["one"].may_load.set()
    assert len(await patient) == 7
    assert b.opened == 1


async def test_a_failed_load_is_shown_and_tried_again_by_the_next_request(bench):
    """The reason is on the card until a load succeeds."""
    b = bench()
    b.prepare["one"] = lambda engine: setattr(engine, "load_error", ModelNotReady("no memory"))
    with pytest.raises(ModelNotReady, match="no memory"):
        await b.ask()
    status = b.pool.status("one")
    assert (status.state, status.error) == ("failed", "no memory")
    assert 29 < status.retry_after_s <= 30
    assert b.engines["one"].closed
    del b.prepare["one"]
    await b.ask()
    assert (b.pool.status("one").state, b.pool.status("one").error) == ("ready", None)


async def test_an_engines_bug_fails_its_load_without_words_from_inside(bench, caplog):
    """Clients are told where to look; the log has it whole."""
    b = bench()
    b.prepare["one"] = lambda engine: setattr(engine, "load_error", OSError("/secret/path"))
    with pytest.raises(ModelNotReady) as caught:
        await b.ask()
    assert "/secret" not in str(caught.value)

    assert "/secret/path" in caplog.text


async def test_status_follows_the_load(bench):
    """`unloaded`, `loading` with progress, `ready` with memory."""
    b = bench()
    b.prepare["one"] = lambda engine: (
        slow_load(engine),
        setattr(engine, "load_progress", lambda: LoadProgress(stage="weights", done_bytes=5)),
    )
    await b.pool.start()
    assert b.pool.status("one").state == "unloaded"
    task = asyncio.create_task(b.ask())
    await until(lambda: b.engines)
    loading = b.pool.status("one")
    assert (loading.state, loading.progress.done_bytes) == ("loading", 5)
    b.engines["one"].may_load.set()
    await task
    ready = b.pool.status("one")
    assert (ready.state, ready.memory.weights_bytes) == ("ready", 1000)
    assert ready.load_ns > 0
    await b.pool.aclose()


async def test_preloading_goes_on_behind_a_start_that_returns(bench):
    """The service is up while its models load."""
    b = bench()
    b.prepare["one"] = slow_load
    await b.pool.start(["one"])
    assert b.pool.status("one").state == "loading"
    await until(lambda: b.engines)
    b.engines["one"].may_load.set()
    await until(lambda: b.pool.status("one").loaded)
    await b.pool.aclose()


async def test_preloading_an_unknown_model_is_a_configuration_error(bench):
    """The message names the model."""
    with pytest.raises(ConfigError, match="names nobody"):
        await bench().pool.start(["one", "nobody"])


async def test_a_full_queue_refuses_with_an_honest_time(bench):
    """Two places, both taken: the third is told how long the queue will take."""
    b = bench(max_queued_requests=2)
    await b.ask()
    queue = b.pool.models["one"].queue
    queue._service_s = 6.0
    with b.pool.admit("one"), b.pool.admit("one"):
        with pytest.raises(Overloaded) as caught:
            b.pool.admit("one")
        assert 6.0 <= caught.value.retry_after_s <= 7.5  # 2 requests x 6 s / 2 slots
    assert b.pool.requests == 0


async def test_only_answers_that_ended_say_how_long_answers_take(bench):
    """A refusal in a millisecond must not promise a queue that moves fast."""
    b = bench()
    await b.ask()
    before = b.pool.models["one"].queue._service_s
    b.engines["one"].error = EngineFailed("x")
    with pytest.raises(EngineFailed):
        await b.ask()
    assert b.pool.models["one"].queue._service_s == before


async def test_models_have_queues_of_their_own(bench):
    """A full model refuses nobody else's requests."""
    b = bench(max_queued_requests=1)
    with b.pool.admit("one"):
        assert len(await b.ask("two")) == 7


async def test_variants_are_models_of_their_own(bench):
    """`one:int8` loads beside `one`, and its record says which it was."""
    b = bench()
    await b.ask("one")
    await b.ask("one:int8")
    assert set(b.engines) == {"one", "one:int8"}
    assert [(r.model, r.variant) for r in b.sink.finals] == [("one", None), ("one", "int8")]


async def test_an_unknown_name_is_not_found(bench):
    """Lookup is in a dict: a name never becomes a path."""
    with pytest.raises(ModelNotFound):
        bench().pool.status("../one")


async def test_files_that_are_missing_make_a_model_unavailable_until_they_come(bench):
    """`models pull` in another process is noticed by the next request."""
    pulled = []

    def find(entry, variant, models_dir):
        if not pulled:
            raise NotPulled("one is not on this machine; run: triptych models pull one")
        return locate(entry, variant, models_dir)

    b = bench(locate=find)
    await b.pool.start()
    status = b.pool.status("one")
    assert (status.state, status.servable) == ("unavailable", False)
    with pytest.raises(ModelNotPulled, match="triptych models pull one"):
        await b.ask()
    pulled.append("one")
    assert len(await b.ask()) == 7
    await b.pool.aclose()


async def test_files_that_are_broken_are_logged_once_and_not_shown(bench, caplog):
    """The path is for the operator; the pool looks again every few seconds."""

    def find(entry, variant, models_dir):
        raise CorruptFile(f"/secret/{entry.spec.id} differs from its lock")

    b = bench(models=("one",), locate=find)
    files = b.pool.models["one"].files
    for _ in range(3):
        found = files.look()
    assert isinstance(found, ModelUnusable)
    assert "/secret" not in str(found)

    assert caplog.text.count("/secret/one") == 1


async def test_an_engine_in_trouble_says_so(bench):
    """A host that died and comes back is not hidden behind `ready`."""
    b = bench()
    b.prepare["one"] = lambda engine: setattr(engine, "trouble", lambda: "the host restarts")
    await b.ask()
    status = b.pool.status("one")
    assert (status.error, status.loaded) == ("the host restarts", False)


async def test_draining_refuses_newcomers_and_waits_for_the_rest(bench):
    """Who runs may end; who comes is sent away."""
    b = bench()
    await b.ask()
    b.engines["one"].may_step.clear()
    running = asyncio.create_task(b.ask())
    await until(lambda: b.engines["one"].running)
    draining = asyncio.create_task(b.pool.drain(5))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await b.ask()
    b.engines["one"].may_step.set()
    assert await draining
    assert len(await running) == 7


async def test_draining_gives_up_after_its_time(bench):
    """A request that never ends does not keep the service up."""
    b = bench()
    with b.pool.admit("one"):
        assert not await b.pool.drain(0.01)


async def test_closing_stops_loads_and_closes_engines(bench):
    """Those who wait for the load are told so, and are not cancelled."""
    b = bench()
    await b.ask("two")
    b.prepare["one"] = slow_load
    waiting = asyncio.create_task(b.ask("one"))
    await until(lambda: "one" in b.engines)
    await b.pool.aclose()
    with pytest.raises(Draining, match="shutting down"):
        await waiting
    assert b.engines["one"].closed
    assert b.engines["two"].closed


async def test_one_odd_file_does_not_hide_the_other_models(bench, caplog):
    """It is unavailable with a reason, logged once, and the search goes on.

    A config.json with a list as its model type ended the search: no model was ever found.
    """

    def find(entry, variant, models_dir):
        if entry.spec.id == "one":
            raise TypeError("unhashable type: 'list'")
        return locate(entry, variant, models_dir)

    b = bench(locate=find)
    await b.pool.start()
    await b.pool.upkeep.look_for_files()
    assert b.pool.status("one").state == "unavailable"
    assert "see the service's log" in b.pool.status("one").error
    assert b.pool.status("two").state == "unloaded"
    assert caplog.text.count("the files of one cannot be used: TypeError: unhashable") == 1
    with pytest.raises(TriptychError, match="cannot be used"):
        await b.ask("one")
    await b.pool.aclose()


async def test_upkeep_survives_its_own_errors(bench, caplog):
    """What failed is logged and tried again."""
    b = bench(models=("one",))
    failures = [OSError("no threads"), None]

    def look():
        if failure := failures.pop(0):
            raise failure
        return locate(b.pool.models["one"].entry, None, None)

    b.pool.models["one"].files.look = look
    work = b.pool.upkeep
    work._repeat(work.look_for_files, 0.001)
    await until(lambda: b.pool.status("one").state == "unloaded")
    assert "look_for_files failed" in caplog.text
    await b.pool.aclose()


async def test_a_model_that_cannot_be_served_here_says_so_and_why(bench):
    """It is known, not servable, and refused with the reason."""
    b = bench(refusal=lambda model: "no such kernel" if model.variant else None)
    await b.pool.start()
    status = b.pool.status("one:int8")
    assert (status.state, status.servable, status.error) == (
        "unavailable",
        False,
        "no such kernel",
    )
    assert b.pool.status("one").servable
    with pytest.raises(TriptychError, match="no such kernel"):
        await b.ask("one:int8")
    await b.pool.aclose()
