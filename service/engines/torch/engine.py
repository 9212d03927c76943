"""TorchEngine: one model in the torch host."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import msgspec

from model_registry.spec import ResolvedModel
from service.core.chat import ChatRequest, Prompt, TextPrompt
from service.core.errors import EngineFailed, ModelNotReady
from service.core.events import EngineEvent, Finished, ModelMemory
from service.core.ports import Liveness, LoadProgress, MemoryEstimate, TextTokens, TokenizerInfo
from service.core.runtime import ModelRuntime
from service.engines.torch.device_support import EAGER, check, uncompiled
from service.engines.torch.host import ModelMessage, TorchHost
from service.engines.torch.memory_estimate import TorchMemoryEstimate
from service.engines.torch.protocol import messages as wire

FATAL_LOADS: Final = 3
"""Host deaths during one model's load after which it is not loaded again by itself."""

log = logging.getLogger(__name__)


class TorchEngine:
    """State of one model: its load, its requests, and what the host reports of it.

    A model that was loaded once is loaded again whenever the host comes back.
    """

    def __init__(self, model: ResolvedModel, host: TorchHost) -> None:
        """Load nothing yet."""
        self.model = model
        self._host = host
        options = host.options
        self._order = wire.LoadModel(
            model=model,
            slots=options.slots,
            prefill_chunk_tokens=options.prefill_chunk_tokens,
            max_itl_ms=options.max_itl_ms,
            kernels=options.kernels,
            max_answer_tokens=options.max_answer_tokens,
        )
        self._estimate: TorchMemoryEstimate | None = None
        self._waiter: asyncio.Future[None] | None = None
        """Resolved when the load that `start` waits for has ended."""
        self._freed: asyncio.Future[None] | None = None
        """Resolved when the host has unloaded the model."""
        self._open = False
        """Whether the model is to be in the host."""
        self._was_loaded = False
        """Whether it was loaded since `start`, and is to be whenever the host comes back."""
        self._ordered = False
        """True if the host holds the model, or was asked to load it."""
        self.loading = False
        """Whether the host reads the model."""
        self._fatal_loads = 0
        self._trouble: str | None = None
        """Why it is not loaded again by itself."""
        self._loaded: wire.Loaded | None = None
        self._memory = ModelMemory()
        self._steps = wire.StepTimes()
        self._progress: LoadProgress | None = None
        self._running = 0
        self._answered = False
        """Whether it has finished an answer in this life of the host."""

    def __repr__(self) -> str:
        return f"<TorchEngine {self.model.id}: {self._running} running>"

    # Load and unload

    async def start(self) -> None:
        """Load the model, starting the host if need be; a cancelled load is undone.

        Raises ModelNotReady with the reason.
        """
        await self._host.open(self.model.id, self)
        self._open, self._was_loaded, self._trouble, self._fatal_loads = True, False, None, 0
        try:
            hello = await self._host.ready()
            check(self.model, device=hello.device, kernels=self._order.kernels)
            self._waiter = asyncio.get_running_loop().create_future()
            self._load()
            await self._waiter
        except BaseException:
            self._leave()
            raise
        finally:
            if self._waiter is not None and self._waiter.done() and not self._waiter.cancelled():
                self._waiter.exception()  # retrieved, also where a cancellation overtook it
            self._waiter = self._progress = None

    async def aclose(self) -> None:
        """Unload the model; running requests fail."""
        self._leave()
        await self.unloaded()

    async def unloaded(self) -> None:
        """Wait until the model has left the host; return at once if it does not leave."""
        if self._freed is not None:
            await asyncio.wait([self._freed])

    def _load(self) -> None:
        self._ordered = True
        self._host.send(self._order)

    def _leave(self) -> None:
        """Have the model unloaded, if the host has it."""
        self._open, self._loaded = False, None
        if not self._ordered:
            self._host.close(self.model.id, self)
        elif self._freed is None:
            self._freed = asyncio.get_running_loop().create_future()
            self._host.send(wire.UnloadModel(self.model.id))

    def _left(self) -> None:
        """True once the host has unloaded the model."""
        self._ordered, self.loading, self._answered = False, False, False
        self._loaded, self._memory, self._steps = None, ModelMemory(), wire.StepTimes()
        if not self._open:
            self._host.close(self.model.id, self)
        if self._freed is not None:
            self._freed.set_result(None)
            self._freed = None

    # Called by the host

    @property
    def awaited(self) -> bool:
        """True while the host has a load or unload of the model to do."""
        return self._ordered and self._loaded is None

    @property
    def unproven(self) -> bool:
        """True until its first answer while it loads or runs requests: its steps may compile."""
        return self.loading or (self._running > 0 and not self._answered)

    def host_ready(self) -> None:
        """Load the model again, unless `start` still has to, or its load is fatal."""
        if self._open and self._trouble is None and self._was_loaded:
            self._load()

    def host_lost(self, reason: str) -> None:
        """Reset the state; fail a load that is waited for, count one that is not."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ModelNotReady(f"{self.model.id} was not loaded. {reason}"))
        elif self.loading and self._open:
            self._fatal_loads += 1
            if self._fatal_loads >= FATAL_LOADS:
                self._trouble = (
                    f"{self.model.id} is not loaded any more: its load ended the host. {reason}"
                )
        self._left()

    def receive(self, message: ModelMessage) -> None:
        """Take a message about the model; while it is being unloaded only its end counts."""
        if isinstance(message, wire.Unloaded) == self._open:
            return
        match message:
            case wire.LoadProgress(stage=stage, done_bytes=done, total_bytes=total):
                self.loading = True
                self._progress = LoadProgress(stage=stage, done_bytes=done, total_bytes=total)
            case wire.MemoryReport(memory=memory, steps=steps):
                self._memory, self._steps = memory, steps
            case wire.Loaded():
                self._receive_loaded(message)
            case wire.LoadFailed(message=reason):
                self._receive_failed(reason)
            case wire.Unloaded():
                self._left()

    def _receive_loaded(self, message: wire.Loaded) -> None:
        self._loaded, self._memory = message, message.memory
        self.loading, self._fatal_loads, self._was_loaded = False, 0, True
        build, hello = message.build, self._host.hello
        log.info("%s runs on %s, %s", message.model_id, build.kernel_path, build.dtype)
        if build.kernel_path == EAGER and self._order.kernels != "eager" and hello is not None:
            why = uncompiled(device=hello.device, kernels=self._order.kernels)
            log.warning(
                "%s runs without compiled kernels, which is slow: %s",
                message.model_id,
                why or "there is no program for its architecture, see logs/torch-host.log",
            )
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _receive_failed(self, reason: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ModelNotReady(reason))
        else:
            self._trouble = reason
        self._left()

    # State

    def load_progress(self) -> LoadProgress | None:
        """Progress of `start`; None before its first report and after its last."""
        return self._progress if self._waiter is not None else None

    def trouble(self) -> str | None:
        """Reason why the model cannot answer now; None if it can."""
        if self._loaded is not None or self._trouble is not None:
            return self._trouble
        if not self._open:
            return f"{self.model.id} is not loaded."
        return self._host.trouble() or f"{self.model.id} is being loaded."

    @property
    def restarts(self) -> int:
        """Restarts of the host so far."""
        return self._host.status.restarts

    @property
    def restarting(self) -> bool:
        """True while the host is being restarted, after which the model is loaded again."""
        return self._open and self._was_loaded and self._loaded is None and self._trouble is None

    def liveness(self) -> Liveness:
        """Progress of the host on this model's requests."""
        return Liveness(
            running=self._running,
            silent_s=self._host.stuck_s if self._running else None,
            stalled=self._host.recovering,
        )

    def memory(self) -> ModelMemory:
        """The host's latest report."""
        return self._memory

    def memory_estimate(self) -> MemoryEstimate:
        """Predicted memory, from the model's config. Raises ModelNotReady."""
        self._estimate = TorchMemoryEstimate(
            self.model, self._host.options, threads=self._host.threads
        )
        return self._estimate.at_rest

    def state_bytes(self, request: ChatRequest, *, prompt_tokens: int | None = None) -> int:
        """Upper bound on what a request adds: its KV buffers."""
        assert self._estimate is not None  # no request comes before the load
        return self._estimate.state_bytes(request, prompt_tokens)

    def runtime(self) -> ModelRuntime | None:
        """Runtime configuration of the model; None if it is not loaded."""
        if self._loaded is None:
            return None
        build, order, steps = self._loaded.build, self._order, self._steps
        return ModelRuntime(
            id=self.model.id,
            kernel_path=build.kernel_path,
            dtype=build.dtype,
            quantization=build.quantization,
            slots=order.slots,
            prefill_chunk_tokens=order.prefill_chunk_tokens,
            max_itl_ms=order.max_itl_ms,
            decode_step_ns=steps.decode_step_ns,
            decode_step_requests=steps.decode_step_requests,
            prefill_token_ns=steps.prefill_token_ns,
        )

    # Requests

    async def generate(self, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        """Yield Started, Deltas and Finished; closing the generator cancels the request.

        Raises TriptychErrors.
        """
        self._check()
        self._check_length(request.prompt)
        request_id = request.request_id
        sent = msgspec.structs.replace(
            request,
            model=self.model.id,
            cache_salt=self._host.prefix_cache.salt("", request.cache_salt),
        )
        asked = wire.Generate(sent, queued_ns=time.monotonic_ns())
        stream = self._host.streams.open(request_id)
        self._running += 1
        finished = False
        try:
            self._host.send(asked)
            while not finished:
                event = await stream.next()
                finished = isinstance(event, Finished)
                self._answered |= finished
                yield event
        finally:
            # No await here: a client that hangs up may be gone before one returns.
            self._running -= 1
            self._host.streams.close(request_id)
            if not finished:
                self._host.send(wire.Cancel(request_id))

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of a prompt."""
        self._check()
        reply: wire.TokenIds = await self._host.calls.ask(
            lambda call_id: wire.Tokenize(call_id, self.model.id, prompt, add_special_tokens)
        )
        return reply.token_ids

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of token ids."""
        self._check()
        reply: wire.Text = await self._host.calls.ask(
            lambda call_id: wire.Detokenize(call_id, self.model.id, tuple(token_ids))
        )
        return reply.text

    async def tokenizer_info(self) -> TokenizerInfo:
        """Special tokens and chat template."""
        self._check()
        reply: wire.Tokenizer = await self._host.calls.ask(
            lambda call_id: wire.DescribeTokenizer(call_id, self.model.id)
        )
        return reply.info

    async def split(self, text: str) -> TextTokens:
        """Tokens of a plain text, and where they begin."""
        self._check()
        reply: wire.SplitIntoTokens = await self._host.calls.ask(
            lambda call_id: wire.SplitText(call_id, self.model.id, text)
        )
        return reply.tokens

    def _check_length(self, prompt: Prompt) -> None:
        """Refuse a text that cannot fit the context before the host tokenizes it."""
        loaded = self._loaded
        if isinstance(prompt, TextPrompt) and loaded is not None and loaded.text_bound is not None:
            loaded.text_bound.check(prompt.text, context_tokens=loaded.context_tokens)

    def _check(self) -> None:
        trouble = self.trouble()
        if trouble is not None:
            raise EngineFailed(trouble, retry_after_s=self._host.restart_in_s)
