"""A model served by vLLM: a supervised server of its own, reached over a UNIX socket."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from model_registry.spec import ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Prompt, TextPrompt, TokenPrompt
from service.core.errors import EngineDied, EngineFailed, InvalidRequest
from service.core.events import Delta, EngineEvent, ModelMemory
from service.core.ports import Liveness, LoadProgress, MemoryEstimate, TextTokens, TokenizerInfo
from service.core.process_memory import family
from service.engines.limits import answer_limit
from service.engines.openai.engine import OpenAiEngine
from service.engines.supervision.supervisor import Supervisor
from service.engines.supervision.watchdog import Workload
from service.engines.vllm.command import VllmOptions, context_tokens
from service.engines.vllm.memory_estimate import memory_estimate
from service.engines.vllm.plan import VllmPlan, make_plan
from service.engines.vllm.server import VllmServer

if TYPE_CHECKING:
    from service.engines.text.codec import TextCodec

NOTICE_S: Final = 2.0
"""Time that a request which lost its server waits for the reason."""

TEMPLATE_TOKENS: Final = 128
"""More than a chat template writes around a message, or before all of them."""

DEAD: Final = "EngineCore encountered an issue"
"""vLLM's answer after its engine has died and before its server has ended."""


class VllmEngine:
    """Keeps one vLLM alive from `start` to `aclose`, and passes requests on to it.

    If it dies or hangs, running requests fail, and it is started again after 1, 2, 4 … 60 s.
    """

    def __init__(self, model: ResolvedModel, options: VllmOptions) -> None:
        """Start nothing yet."""
        self.model = model
        self._options = options
        self._plan: VllmPlan | None = None
        self._server: VllmServer | None = None
        self._supervisor = Supervisor(
            f"{model.id}: vLLM", self._new_server, on_ready=self._on_ready, on_lost=self._on_lost
        )
        self._text: TextCodec | None = None
        self._lost = asyncio.Event()
        self._progress: LoadProgress | None = None
        self._start_s = 0.0
        """Duration of the last successful start."""
        self._running = 0
        self._decoding = 0
        """Running requests that have their first token."""
        self._answered = False
        """Whether the present server has finished an answer."""

    def __repr__(self) -> str:
        return f"<VllmEngine {self.model.id} pid={self.pid}: {self._running} running>"

    @property
    def pid(self) -> int | None:
        """Process id, and process group id, of the server while it lives."""
        return self._server.process.pid if self._server else None

    @property
    def restarting(self) -> bool:
        """True while a server that died is being restarted."""
        return self._supervisor.recovering

    @property
    def socket(self) -> Path | None:
        """Path of the present server's socket."""
        return self._server.process.socket if self._server else None

    @property
    def restarts(self) -> int:
        """Restarts since `start`."""
        return self._supervisor.restarts

    # Life

    async def start(self) -> None:
        """Start vLLM and wait until it answers. Raises ModelNotReady with the reason."""
        self._plan = await make_plan(self.model, self._options)
        try:
            await self._supervisor.ready()
        except BaseException:
            await self.aclose()  # a start that failed at first is not repeated
            raise

    async def aclose(self) -> None:
        """End vLLM within seconds; running requests fail."""
        await self._supervisor.aclose()
        self._on_lost(f"{self.model.id}: vLLM was ended with its model.")

    def _new_server(self) -> VllmServer:
        assert self._plan is not None
        self._server = VllmServer(
            self.model,
            self._plan,
            self._options,
            workload=self._workload,
            on_progress=self._report,
        )
        return self._server

    def _report(self, progress: LoadProgress) -> None:
        self._progress = progress

    def _on_ready(self) -> None:
        assert self._server is not None
        self._progress = None
        self._start_s = self._server.start_s or 0.0

    def _on_lost(self, _reason: str) -> None:
        self._progress, self._answered = None, False
        self._lost.set()
        self._lost = asyncio.Event()

    def _workload(self) -> Workload:
        """Work of the engine; the chunks of a prefill cannot be seen, and the first may compile."""
        return Workload(
            requests=self._running, slow_steps=self._decoding == 0 or not self._answered
        )

    # State

    def load_progress(self) -> LoadProgress | None:
        """Progress of the start; None before its first report and after its last."""
        return self._progress

    def trouble(self) -> str | None:
        """Reason why the model cannot answer now; None if it can."""
        match self._supervisor.state:
            case "running":
                return None
            case "closed":
                return f"{self.model.id}: vLLM was ended with its model."
            case _:
                return self._supervisor.trouble() or f"{self.model.id} is being started."

    def liveness(self) -> Liveness:
        """Progress of the server on its requests."""
        server = self._server
        return Liveness(
            running=self._running,
            silent_s=server.watchdog.stuck_s if server and self._running else None,
            stalled=self._supervisor.recovering,
        )

    def processes(self) -> Mapping[str, int]:
        """Server, engine core and workers."""
        pid = self.pid
        members = () if pid is None else family(pid)
        return {f"vllm {self.model.id} {number}": member for number, member in enumerate(members)}

    def memory_estimate(self) -> MemoryEstimate:
        """Predicted memory of the model and its three processes. Raises ModelNotReady."""
        return memory_estimate(self.model, self._options)

    def state_bytes(self, request: ChatRequest, *, prompt_tokens: int | None = None) -> int:  # noqa: ARG002  the same for all
        """Nothing: blocks for all requests are reserved at the start."""
        return 0

    def memory(self) -> ModelMemory:
        """Weights as predicted, and the blocks that vLLM reserved at its start.

        The rest of what its processes hold, Python and torch, counts as workspace.
        """
        plan, server = self._plan, self._server
        if plan is None or server is None or not self._supervisor.running:
            return ModelMemory(slots_total=self._options.slots, slots_used=self._running)
        workspace_bytes = None
        if server.family_bytes is not None and plan.weights_bytes is not None:
            workspace_bytes = max(0, server.family_bytes - plan.weights_bytes - plan.slots_bytes)
        return ModelMemory(
            weights_bytes=plan.weights_bytes,
            slots_bytes=plan.slots_bytes,
            slots_total=self._options.slots,
            slots_used=self._running,
            workspace_bytes=workspace_bytes,
        )

    # Requests

    async def generate(self, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        """Yield Started, Deltas and Finished, or raise a TriptychError."""
        server, lost = self._ready(), self._lost
        if self.model.spec.chat_template == "none" and isinstance(request.prompt, ChatPrompt):
            raise InvalidRequest(
                f"{self.model.id} is a base model without a chat template; ask for a completion.",
                param="messages",
            )
        self._running += 1
        try:
            await self._check_fit(server.client, request)
            async with aclosing(self._stream(server, request)) as events:
                async for event in events:
                    yield event
        except EngineFailed as error:
            died = await self._death(error, lost)
            if died is None:
                raise
            raise died from error
        finally:
            self._running -= 1

    async def _stream(
        self, server: VllmServer, request: ChatRequest
    ) -> AsyncGenerator[EngineEvent]:
        """The server's events; the watchdog hears of each token."""
        decoding = False
        async with aclosing(server.client.generate(request)) as events:
            try:
                async for event in events:
                    if isinstance(event, Delta):
                        server.watchdog.stepped()
                        self._decoding += not decoding
                        decoding = True
                    yield event
                self._answered = True
            finally:
                self._decoding -= decoding

    async def _death(self, error: EngineFailed, lost: asyncio.Event) -> EngineDied | None:
        """The server's death as the cause of a failure; None if it lives.

        The connection breaks, or vLLM reports its engine's death, a moment before its process is
        gone. vLLM does not tell whose step it died in: all running requests are suspects.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NOTICE_S):
                await lost.wait()
        failed = self._failed()
        if failed is None and DEAD not in error.detail:
            return None
        died = failed or error
        return EngineDied(
            str(died),
            retry_after_s=died.retry_after_s,
            suspect=self._supervisor.state != "closed",
        )

    async def _check_fit(self, client: OpenAiEngine, request: ChatRequest) -> None:
        """Raise ContextOverflow for a `max_tokens` that has no room, which vLLM would cut.

        The prompt is tokenized only where it matters: it has at most as many tokens as bytes.
        """
        max_tokens = request.sampling.max_tokens
        context = context_tokens(self.model, self._options)
        if max_tokens is None or _most_tokens(request.prompt) + max_tokens <= context:
            return
        prompt_ids = await client.tokenize(request.prompt, add_special_tokens=True)
        answer_limit(
            context_tokens=context,
            prompt_tokens=len(prompt_ids),
            max_tokens=max_tokens,
            default_tokens=None,
        )

    def _ready(self) -> VllmServer:
        if self._server is None or not self._supervisor.running:
            raise self._failed() or EngineFailed(f"{self.model.id} is not started.")
        return self._server

    def _failed(self) -> EngineFailed | None:
        """The server's absence as an error; None if it is there."""
        trouble = self.trouble()
        if trouble is None:
            return None
        restart_s = self._supervisor.restart_in_s or 0.0
        return EngineFailed(trouble, retry_after_s=restart_s + self._start_s)

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of a prompt."""
        client = self._ready().client
        return await client.tokenize(prompt, add_special_tokens=add_special_tokens)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of token ids."""
        return await self._ready().client.detokenize(token_ids)

    async def tokenizer_info(self) -> TokenizerInfo:
        """Special tokens and chat template, read from the model's files."""
        return (await self._codec()).info

    async def split(self, text: str) -> TextTokens:
        """Tokens of a plain text, and where they begin, read by the model's own files."""
        codec = await self._codec()
        # vLLM samples a token even where only the prompt's scores are asked for.
        context = context_tokens(self.model, self._options) - 1
        return await asyncio.to_thread(codec.split, text, context_tokens=context)

    async def _codec(self) -> "TextCodec":
        if self._text is None:
            from service.engines.text.codec import TextCodec

            self._text = await asyncio.to_thread(
                TextCodec.open, Path(self.model.path), self.model.spec.chat_template
            )
        return self._text


def _most_tokens(prompt: Prompt) -> int:
    """An upper bound on a prompt's tokens, template included."""
    match prompt:
        case TokenPrompt(token_ids=token_ids):
            return len(token_ids)
        case TextPrompt(text=text):
            return len(text.encode()) + TEMPLATE_TOKENS
        case ChatPrompt(messages=messages):
            return sum(len(each.content.encode()) + TEMPLATE_TOKENS for each in messages) + (
                TEMPLATE_TOKENS
            )
