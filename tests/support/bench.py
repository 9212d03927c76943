"""Scripted engines, and a pool and a chat service on them."""

import asyncio
import time
from collections.abc import AsyncGenerator

from model_registry.catalog import Catalog, CatalogEntry
from model_registry.spec import ModelSpec, ResolvedModel, Variant
from service.core.chat import ChatPrompt, ChatRequest, Message, Sampling
from service.core.events import (
    Delta,
    EngineEvent,
    Finished,
    ModelBuild,
    ModelMemory,
    Started,
    StateBytes,
    TokenAlternative,
    TokenLogprob,
)
from service.core.ports import MemoryEstimate
from service.core.record import RequestRecord
from service.serving.gate import Gate
from service.serving.memory.device_memory import DeviceMemory
from service.serving.models.pool import Pool
from service.serving.requests.chat import ChatService
from service.serving.requests.recorder import Recorder
from service.serving.routes.router import Router
from service.serving.routes.table import RouteTable

BUILD = ModelBuild(
    weights_sha256=None,
    dtype="float32",
    quantization=None,
    engine="scripted",
    engine_version="1",
    device="cpu",
    kernel_path="none",
)


class ScriptedEngine:
    """Answers `a b c …`; its behaviour is public and can be changed while it runs."""

    def __init__(self, model: ResolvedModel) -> None:
        self.model = model
        self.load_error: Exception | None = None
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.error: Exception | None = None
        self.fail_after_tokens: int | None = None
        self.may_step = asyncio.Event()
        self.may_step.set()
        self.ends_early = False
        self.running = 0
        self.most_running = 0
        self.closed = False

    async def start(self) -> None:
        await self.may_load.wait()
        if self.load_error is not None:
            raise self.load_error

    async def generate(self, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async for event in self._answer(request):
                yield event
        finally:
            self.running -= 1

    async def _answer(self, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        if self.error is not None and self.fail_after_tokens is None:
            raise self.error
        queued_ns = time.monotonic_ns()
        await asyncio.sleep(0)
        yield Started(queued_ns=queued_ns, scheduled_ns=time.monotonic_ns(), prompt_tokens=3)
        first_ns = at_ns = None
        tokens = request.sampling.max_tokens or 5
        for number in range(tokens):
            await self.may_step.wait()
            await asyncio.sleep(0)
            if self.fail_after_tokens == number and self.error is not None:
                raise self.error
            at_ns = time.monotonic_ns()
            first_ns = first_ns or at_ns
            yield self.delta(request, number, at_ns)
        if not self.ends_early:
            yield Finished(
                reason="length",
                prompt_tokens=3,
                completion_tokens=tokens,
                first_ns=first_ns,
                last_ns=at_ns,
                state=StateBytes(
                    attention_kv_bytes=10, window_kv_bytes=0, ssm_state_bytes=5, conv_state_bytes=1
                ),
                build=BUILD,
            )

    def delta(self, request: ChatRequest, number: int, at_ns: int) -> Delta:
        logprobs = None
        if request.sampling.logprobs is not None:
            top = (TokenAlternative(number, "x", -0.1), TokenAlternative(99, "y", -3.0))
            logprobs = (TokenLogprob(token_id=number, text="x", logprob=-0.1, top=top),)
        text = f"{chr(97 + number % 26)} "
        return Delta(text=text, token_ids=(number,), at_ns=at_ns, logprobs=logprobs)

    def memory(self) -> ModelMemory:
        return ModelMemory(weights_bytes=1000, slots_total=2, slots_used=self.running)

    async def aclose(self) -> None:
        self.closed = True


class SizedEngine(ScriptedEngine):
    """Counts against the memory budget: so many bytes at rest, and one for each token asked for."""

    held_bytes = 0
    predicted_bytes: int | None = None

    def memory_estimate(self) -> MemoryEstimate:
        predicted = self.held_bytes if self.predicted_bytes is None else self.predicted_bytes
        return MemoryEstimate(held_bytes=predicted, setup="scripted")

    def state_bytes(self, request: ChatRequest, *, prompt_tokens: int | None = None) -> int:
        return request.sampling.max_tokens or 0

    def memory(self) -> ModelMemory:
        return ModelMemory(weights_bytes=self.held_bytes, slots_total=2, slots_used=self.running)


class ListSink:
    """Keeps records in the order they came."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.flushes = 0
        self.may_flush = asyncio.Event()
        self.may_flush.set()

    def submit(self, record: RequestRecord) -> None:
        self.records.append(record)

    async def flushed(self) -> None:
        await self.may_flush.wait()
        self.flushes += 1

    @property
    def finals(self) -> list[RequestRecord]:
        return [record for record in self.records if record.phase == "final"]


class Bench:
    """A pool of scripted engines, and a chat service on it."""

    def __init__(
        self,
        tmp_path,
        models=("one", "two", "three"),
        routes=None,
        sizes=None,
        budget=None,
        max_waiting=256,
        gate=None,
        **pool_options,
    ):
        self.sizes = sizes or {}
        self.engines: dict[str, ScriptedEngine] = {}
        self.opened = 0
        self.prepare = {}
        self.gate = gate or Gate()
        self.sink = ListSink()
        pool_options.setdefault("probe", False)
        if budget is not None:
            clock_ns = pool_options.get("clock_ns", time.monotonic_ns)
            pool_options["memory"] = DeviceMemory(
                budget, max_waiting=max_waiting, clock_ns=clock_ns
            )
        self.pool = Pool(catalog_of(*models), tmp_path, self.open, self.gate, **pool_options)
        router = Router(RouteTable(routes or {}, self.pool.models), lambda: self.pool.statuses)
        self.chat = ChatService(self.pool, Recorder(self.sink), self.gate, router)

    def open(self, model: ResolvedModel) -> ScriptedEngine:
        self.opened += 1
        kind = SizedEngine if model.id in self.sizes else ScriptedEngine
        engine = self.engines[model.id] = kind(model)
        engine.held_bytes = self.sizes.get(model.id, 0)
        self.prepare.get(model.id, lambda _: None)(engine)
        return engine

    def request(self, model="one", *, max_tokens=5, **fields) -> ChatRequest:
        return ChatRequest(
            request_id=fields.pop("request_id", f"req-{len(self.sink.records)}"),
            model=model,
            prompt=ChatPrompt((Message(role="user", content="hello"),)),
            sampling=Sampling(max_tokens=max_tokens),
            accepted_ns=time.monotonic_ns(),
            accepted_at_ns=time.time_ns(),
            **fields,
        )

    async def ask(self, model="one", **fields):
        """All events of one request."""
        async with self.chat.open(self.request(model, **fields)) as answer:
            return [event async for event in answer]


def catalog_of(*models: str) -> Catalog:
    entries = {}
    for name in models:
        spec = ModelSpec(
            id=name,
            family="transformer",
            licence="Apache-2.0",
            context_tokens=100,
            sources=(),
            engine="echo",
            dtype="float32",
            variants={"int8": Variant(quantization="int8")},
        )
        entries[name] = CatalogEntry(spec=spec, file=None)
    return Catalog(entries=entries)
