"""Whatever happens to models, in whatever order, they settle and nothing is left behind."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.core.errors import EngineDied, EngineFailed, ModelNotReady, TriptychError
from service.serving.models.life import Phase
from support.bench import Bench, SizedEngine

SIZES = {"one": 40, "two": 40, "three": 25, "one:int8": 30}
MODELS = st.sampled_from(sorted(SIZES))
BUDGET = 100


class InlineExecutor(ThreadPoolExecutor):
    """Runs what is submitted at once: an event loop without threads is deterministic."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


class StillLoop(asyncio.SelectorEventLoop):
    """A loop whose clock moves only when it is told."""

    def __init__(self):
        self.now_s = 0.0
        super().__init__()
        self.faults = []
        self.set_default_executor(InlineExecutor(1))
        self.set_exception_handler(lambda _, context: self.faults.append(context))

    def time(self):
        return self.now_s

    @property
    def timers(self):
        return [handle for handle in self._scheduled if not handle.cancelled()]

    def turn(self, times):
        for _ in range(times):
            self.run_until_complete(asyncio.sleep(0))


class Knobs:
    """How the engines of one model behave now."""

    def __init__(self):
        self.load, self.step, self.close = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.fails = False
        self.release()

    def release(self):
        for knob in (self.load, self.step, self.close):
            knob.set()
        self.fails = False


class MortalEngine(SizedEngine):
    """Loads, steps and closes when it may; can die and come back."""

    def bind(self, knobs):
        self.knobs = knobs
        self.restarts = 0
        self.restarting = False
        self.gone = asyncio.Event()

    async def start(self):
        await self.knobs.load.wait()
        if self.knobs.fails:
            raise ModelNotReady("it does not load")

    async def generate(self, request):
        if self.closed or self.restarting:
            raise EngineFailed("not there")
        if request.request_id.startswith("probe-"):
            async for event in super().generate(request):
                yield event
            return
        gone = self.gone
        self.running += 1
        try:
            waits = [asyncio.ensure_future(each.wait()) for each in (gone, self.knobs.step)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
            if gone.is_set():
                raise EngineDied("it died", suspect=False)
            async for event in self._answer(request):
                yield event
        finally:
            self.running -= 1

    def trouble(self):
        return "it is being restarted" if self.restarting else None

    def die(self):
        self.restarting = True
        self.gone.set()

    def come_back(self):
        if self.restarting:
            self.restarting, self.gone = False, asyncio.Event()
            self.restarts += 1

    async def aclose(self):
        self.gone.set()
        await self.knobs.close.wait()
        self.closed = True


class MortalBench(Bench):
    """A pool of engines that die."""

    def open(self, model):
        self.opened += 1
        engine = self.engines[model.id] = MortalEngine(model)
        engine.held_bytes = SIZES.get(model.id, 0)
        engine.bind(self.knobs[model.id])
        return engine


class ModelLives(RuleBasedStateMachine):
    """Four models, a budget for two or three, and everything that can happen to them."""

    @initialize(probe=st.booleans())
    def begin(self, probe):
        self.loop = StillLoop()
        asyncio.set_event_loop(self.loop)
        self.bench = MortalBench(
            Path(mkdtemp()),
            sizes=SIZES,
            budget=BUDGET,
            probe=probe,
            clock_ns=lambda: int(self.loop.now_s * 1e9),
        )
        self.bench.knobs = {name: Knobs() for name in self.bench.pool.models}
        self.calls = []
        self.cancelled = set()
        self.ids = 0

    def call(self, work):
        self.calls.append(self.loop.create_task(work))

    @rule(model=MODELS, tokens=st.sampled_from([1, 10, 30, 60, 200]))
    def chat(self, model, tokens):
        self.ids += 1
        self.call(self.bench.ask(model, max_tokens=tokens, request_id=f"chat-{self.ids}"))

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 99))
    def hang_up(self, number):
        call = self.calls[number % len(self.calls)]
        if not call.done():
            call.cancel()
            self.cancelled.add(call)

    @rule(model=MODELS)
    def load(self, model):
        self.call(self.bench.pool.load(model))

    @rule(model=MODELS)
    def begin_load(self, model):
        self.call(self._begin_load(model))

    async def _begin_load(self, model):
        self.bench.pool.begin_load(model)

    @rule(model=MODELS, drain_s=st.sampled_from([0.0, 5.0, 30.0]))
    def unload(self, model, drain_s):
        self.call(self.bench.pool.unload(model, drain_s=drain_s))

    @rule(model=MODELS, pinned=st.booleans())
    def pin(self, model, pinned):
        self.call(self._pin(model, pinned))

    async def _pin(self, model, pinned):
        self.bench.pool.pin(model, pinned=pinned)

    @rule(model=MODELS, knob=st.sampled_from(["load", "step", "close"]), free=st.booleans())
    def turn_knob(self, model, knob, free):
        event = getattr(self.bench.knobs[model], knob)
        event.set() if free else event.clear()

    @rule(model=MODELS, fails=st.booleans())
    def spoil(self, model, fails):
        self.bench.knobs[model].fails = fails

    @rule(model=MODELS)
    def die(self, model):
        if model in self.bench.engines:
            self.bench.engines[model].die()

    @rule(model=MODELS)
    def come_back(self, model):
        if model in self.bench.engines:
            self.bench.engines[model].come_back()

    @rule()
    def upkeep(self):
        self.call(self.bench.pool.upkeep.verify_restarted())
        self.call(self.bench.pool.upkeep.unload_idle())
        self.call(self.bench.pool.upkeep.look_for_files())

    @rule(seconds=st.sampled_from([0.3, 6.0, 31.0]))
    def wait(self, seconds):
        self.loop.now_s += seconds
        self.loop.turn(1)

    @rule(times=st.sampled_from([1, 2, 3, 7, 40]))
    def turn(self, times):
        self.loop.turn(times)

    @invariant()
    def timers_have_a_cause(self):
        """Drain times run for models that are being unloaded, and for no others."""
        if hasattr(self, "loop"):
            lives = [hosted.life for hosted in self.bench.pool.models.values()]
            drains = [each for each in self.loop.timers if each._callback.__name__ == "apply"]
            assert len(drains) <= sum(life.phase is Phase.UNLOADING for life in lives)

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        try:
            self.settle()
            self.check_at_rest()
            self.loop.run_until_complete(self.bench.pool.aclose())
            self.loop.turn(5)
            assert self.bench.pool.memory.used_bytes == 0
            assert not asyncio.all_tasks(self.loop)
            assert all(engine.closed for engine in self.bench.engines.values())
            assert not self.loop.faults
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    def settle(self):
        """Let everything go on that was held up, and give it the time that drains may take."""
        for _ in range(40):
            if all(call.done() for call in self.calls):
                break
            for knobs in self.bench.knobs.values():
                knobs.release()
            for engine in self.bench.engines.values():
                engine.come_back()
            self.loop.turn(200)
            self.loop.now_s += 31
        for knobs in self.bench.knobs.values():
            knobs.release()
        for _ in range(4):
            self.loop.turn(200)
            self.loop.now_s += 31

    def check_at_rest(self):
        pool, memory = self.bench.pool, self.bench.pool.memory
        for call in self.calls:
            assert call.done(), (call, memory)
            if call.cancelled():
                assert call in self.cancelled
            else:
                error = call.exception()
                assert error is None or isinstance(error, TriptychError), repr(error)
        assert all(hosted.life.settled for hosted in pool.models.values()), pool.models
        assert all(not hosted.users for hosted in pool.models.values())
        held = {name: hosted for name, hosted in pool.models.items() if hosted.engine}
        assert memory.used_bytes == sum(SIZES[name] for name in held), (memory, held)
        assert memory.used_bytes <= BUDGET
        assert memory.waiting == 0
        assert not asyncio.all_tasks(self.loop)
        assert not self.loop.timers
        accepted = {record.request_id for record in self.bench.sink.records}
        assert sorted(record.request_id for record in self.bench.sink.finals) == sorted(accepted)
        for engine in self.bench.engines.values():
            assert engine.closed or engine in [hosted.engine for hosted in held.values()]


class ClosedPool(ModelLives):
    """The same, and the service shuts down in the middle of it."""

    def settle(self):
        closing = self.loop.create_task(self.bench.pool.aclose())
        self.loop.turn(7)
        super().settle()
        assert closing.done()
        assert not any(hosted.engine for hosted in self.bench.pool.models.values())


LIVES = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestModelLives = ModelLives.TestCase
TestModelLives.settings = LIVES
TestClosedPool = ClosedPool.TestCase
TestClosedPool.settings = LIVES
