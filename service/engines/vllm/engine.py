"""A model served by vLLM: a supervised server of its own, spoken to over a UNIX socket."""

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from model_registry.spec import ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Prompt, TextPrompt, TokenPrompt
from service.core.errors import EngineDied, EngineFailed, InvalidRequest, ModelNotReady
from service.core.events import EngineEvent, ModelMemory
from service.core.ports import LoadProgress, ModelNeed, TokenizerInfo
from service.engines.limits import answer_limit
from service.engines.openai.engine import OpenAiEngine
from service.engines.openai.server import OpenAiServer
from service.engines.supervision import Backoff, socket_path
from service.engines.vllm.command import (
    VllmOptions,
    command,
    context_tokens,
    environment,
    served_name,
)
from service.engines.vllm.memory_estimate import family_bytes, need
from service.engines.vllm.plan import VllmPlan, make_plan
from service.engines.vllm.process import VllmProcess

FATAL_STARTS: Final = 3
"""Starts in a row that end before the server answers, after which it is not started again."""

NOTICE_S: Final = 2.0
"""How long a request that lost its server waits to learn why."""

TEMPLATE_TOKENS: Final = 128
"""More than a chat template writes around a message, or before all of them."""

DEAD: Final = "EngineCore encountered an issue"
"""What vLLM answers while its engine is dead and its server not yet."""

log = logging.getLogger(__name__)


class VllmEngine:
    """Keeps one vLLM alive from `start` to `aclose`, and passes requests on to it.

    If it dies, running requests fail, and it is started again after 1, 2, 4 … 60 s.
    """

    def __init__(self, model: ResolvedModel, options: VllmOptions) -> None:
        """Start nothing yet."""
        self.model = model
        self._options = options
        self._plan: VllmPlan | None = None
        self._process: VllmProcess | None = None
        self._client: OpenAiEngine | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._first_start: asyncio.Future[None] | None = None
        self._lost = asyncio.Event()
        self._progress: LoadProgress | None = None
        self._failure: str | None = None
        self._given_up = False
        self._closing = False
        self._restart_at_s: float | None = None
        self._began_s = 0.0
        self._start_s: float | None = None
        """How long the last start took."""
        self._family_bytes: int | None = None
        """What its processes held when it answered first; None on a GPU."""
        self._running = 0
        self.restarts = 0

    def __repr__(self) -> str:
        """Name the model, its process and its load."""
        return f"<VllmEngine {self.model.id} pid={self.pid}: {self._running} running>"

    @property
    def pid(self) -> int | None:
        """Process id of the server while it lives; it is the id of its process group, too."""
        return self._process.pid if self._process else None

    @property
    def socket(self) -> Path | None:
        """Where the server's present life listens."""
        return self._process.socket if self._process else None

    # Its life

    async def start(self) -> None:
        """Start vLLM and wait until it answers. Raises ModelNotReady with the reason."""
        self._plan = await make_plan(self.model, self._options)
        self._first_start = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(
            self._supervise(self._plan), name=f"supervise vLLM for {self.model.id}"
        )
        await self._first_start

    async def aclose(self) -> None:
        """End vLLM within seconds; running requests fail."""
        self._closing = True
        if self._supervisor is not None and not self._supervisor.done():
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        await self._lose(f"{self.model.id}: vLLM was ended with its model.")
        if self._first_start is not None and not self._first_start.done():
            self._first_start.cancel()

    async def _supervise(self, plan: VllmPlan) -> None:
        """Start the server, and again whenever it dies."""
        backoff, starts = Backoff(), 0
        while starts < FATAL_STARTS:
            self._began_s = time.monotonic()
            answered = await self._live(plan)
            if self._first_start is not None and not self._first_start.done():
                self._first_start.set_exception(ModelNotReady(self._failure or ""))
                return
            starts = 0 if answered else starts + 1
            wait_s = backoff.died(after_s=time.monotonic() - self._began_s)
            self._restart_at_s = time.monotonic() + wait_s
            await asyncio.sleep(wait_s)
            self._restart_at_s = None
            self.restarts += 1
        self._given_up = True

    async def _live(self, plan: VllmPlan) -> bool:
        """One life of the server, until its last process is gone; whether it ever answered."""
        answered = False
        try:
            process = self._process = self._new_process(plan)
            try:
                await process.start()
                answered = await process.ready(start_s=self._options.start_s)
                if answered:
                    await self._open(plan, process)
                elif process.pid is not None:
                    raise ModelNotReady(f"did not answer within {self._options.start_s:g} s")
                reason = await process.ended()
                await self._lose(f"{self.model.id}: vLLM {reason}.")
            finally:
                await process.aclose()
        except ModelNotReady as error:
            await self._lose(f"{self.model.id}: vLLM {error}.")
        except OSError as error:
            await self._lose(f"{self.model.id}: vLLM could not be started: {error}.")
        log.error("%s", self._failure)
        return answered

    def _new_process(self, plan: VllmPlan) -> VllmProcess:
        stem = file_stem(self.model.id)
        path = socket_path(self._options.data_dir, f"vllm-{os.getpid()}-{stem[-8:]}.sock")
        return VllmProcess(
            command(self.model, plan.config, plan.install, self._options, path),
            environment(plan.install, self._options),
            socket=path,
            log_path=self._options.data_dir / "logs" / f"vllm-{stem}.log",
            on_progress=self._report,
        )

    def _report(self, progress: LoadProgress) -> None:
        self._progress = progress

    async def _open(self, plan: VllmPlan, process: VllmProcess) -> None:
        """The server answers: speak to it. Raises ModelNotReady if it does not know the model."""
        client = OpenAiEngine(
            self.model,
            OpenAiServer(
                base_url="http://vllm/v1",
                model=served_name(self.model),
                uds=str(process.socket),
                dialect="vllm",
            ),
            max_answer_tokens=self._options.max_answer_tokens,
            state_bytes=plan.state_bytes,
            build=plan.build,
        )
        try:
            await client.start()
        except BaseException:
            await client.aclose()
            raise
        if plan.install.device == "cpu" and process.pid is not None:
            self._family_bytes = await asyncio.to_thread(family_bytes, process.pid)
        self._client, self._failure, self._progress = client, None, None
        self._start_s = time.monotonic() - self._began_s
        log.info("vLLM %s runs for %s: %s", self.pid, self.model.id, plan.build.engine_version)
        if self._first_start is not None and not self._first_start.done():
            self._first_start.set_result(None)

    async def _lose(self, reason: str) -> None:
        """The server is gone: note why, and fail what speaks to it."""
        client, self._client, self._failure, self._progress = self._client, None, reason, None
        self._lost.set()
        self._lost = asyncio.Event()
        if client is not None:
            await client.aclose()

    # What others ask of it

    def load_progress(self) -> LoadProgress | None:
        """How far `start` has come, None before its first report and after its last."""
        return self._progress

    def trouble(self) -> str | None:
        """Why the model cannot answer now, None if it can."""
        if self._client is not None:
            return None
        reason = self._failure or f"{self.model.id} is being started."
        if self._given_up:
            return f"{reason} It did not come up {FATAL_STARTS} times and is not started again."
        return f"{reason} It is being started again." if self._failure else reason

    async def generate(self, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        """Yield Started, Deltas and Finished, or raise a TriptychError."""
        client, lost = self._ready(), self._lost
        if self.model.spec.chat_template == "none" and isinstance(request.prompt, ChatPrompt):
            raise InvalidRequest(
                f"{self.model.id} is a base model without a chat template; ask for a completion.",
                param="messages",
            )
        self._running += 1
        try:
            await self._check_fit(client, request)
            async with aclosing(client.generate(request)) as events:
                async for event in events:
                    yield event
        except EngineFailed as error:
            # The connection broke, or vLLM said so, a moment before its process is gone.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NOTICE_S):
                    await lost.wait()
            failed = self._failed()
            if failed is None and DEAD not in error.detail:
                raise
            # vLLM does not tell whose step it died in: everybody who ran is a suspect.
            died = failed or error
            raise EngineDied(
                str(died), retry_after_s=died.retry_after_s, suspect=not self._closing
            ) from error
        finally:
            self._running -= 1

    async def _check_fit(self, client: OpenAiEngine, request: ChatRequest) -> None:
        """Raise ContextOverflow for a named length that has no room, which vLLM would cut.

        Tokens are asked for only where they matter: there are no more of them than bytes.
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

    def _ready(self) -> OpenAiEngine:
        if self._client is None:
            raise self._failed() or EngineFailed(f"{self.model.id} is not started.")
        return self._client

    def _failed(self) -> EngineFailed | None:
        """What the server's absence means to a request, None if it is there."""
        trouble = self.trouble()
        if trouble is None:
            return None
        restart_s = max(0.0, (self._restart_at_s or 0.0) - time.monotonic())
        return EngineFailed(trouble, retry_after_s=restart_s + (self._start_s or 0.0))

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of a prompt."""
        return await self._ready().tokenize(prompt, add_special_tokens=add_special_tokens)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of token ids."""
        return await self._ready().detokenize(token_ids)

    async def tokenizer_info(self) -> TokenizerInfo:
        """Special tokens and chat template, read from the model's files."""
        from service.engines.text.codec import TextCodec

        codec = await asyncio.to_thread(
            TextCodec.open, Path(self.model.path), self.model.spec.chat_template
        )
        return codec.info

    def need(self) -> ModelNeed:
        """What the model will hold, three processes among it. Raises ModelNotReady."""
        return need(self.model, self._options)

    def state_bytes(self, request: ChatRequest, *, prompt_tokens: int | None = None) -> int:  # noqa: ARG002  the same for all
        """Nothing: blocks for all requests are reserved at the start."""
        return 0

    def memory(self) -> ModelMemory:
        """What vLLM holds: weights as predicted, and the blocks that it reserved at its start.

        The rest of what its processes hold, Python and torch, counts as workspace.
        """
        plan = self._plan
        if plan is None or self._client is None:
            return ModelMemory(slots_total=self._options.slots, slots_used=self._running)
        return ModelMemory(
            weights_bytes=plan.weights_bytes,
            slots_bytes=plan.slots_bytes,
            slots_total=self._options.slots,
            slots_used=self._running,
            workspace_bytes=self._workspace_bytes(plan),
        )

    def _workspace_bytes(self, plan: VllmPlan) -> int | None:
        if self._family_bytes is None or plan.weights_bytes is None:
            return None
        return max(0, self._family_bytes - plan.weights_bytes - plan.slots_bytes)


def _most_tokens(prompt: Prompt) -> int:
    """A bound of a prompt's tokens, with room for what a template writes."""
    match prompt:
        case TokenPrompt(token_ids=token_ids):
            return len(token_ids)
        case TextPrompt(text=text):
            return len(text.encode()) + TEMPLATE_TOKENS
        case ChatPrompt(messages=messages):
            return sum(len(each.content.encode()) + TEMPLATE_TOKENS for each in messages) + (
                TEMPLATE_TOKENS
            )


def file_stem(model_id: str) -> str:
    """A file name for a model: its id, with a short hash where the id is not one."""
    name = model_id.replace(":", "-")
    if name == model_id:
        return name
    return f"{name}-{hashlib.sha256(model_id.encode()).hexdigest()[:8]}"
