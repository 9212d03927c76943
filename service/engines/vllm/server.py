"""VllmServer: one life of a vLLM server, with the client that speaks to it and its watchdog."""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from typing import Final

import httpx
from httpx_aiohttp import AiohttpTransport

from model_registry.spec import ResolvedModel
from service.core.errors import ModelNotReady
from service.core.ports import LoadProgress
from service.core.process_memory import family, process_memory
from service.engines.openai.connection import CONNECTION_ERRORS
from service.engines.openai.engine import OpenAiEngine
from service.engines.openai.server import OpenAiServer
from service.engines.supervision.socket_path import socket_path
from service.engines.supervision.watchdog import PATIENCE, Watchdog, Workload
from service.engines.vllm.command import VllmOptions, command, environment, served_name
from service.engines.vllm.plan import VllmPlan
from service.engines.vllm.process import VllmProcess

ENGINE_METRICS: Final = "vllm:"
"""Prefix of the metrics that vLLM updates from its engine's steps."""

FIRST_TOKEN_S: Final = 86_400.0
"""Longest wait for a first token: the request may stand in vLLM's own queue for any time.

A server that does not progress at all is the watchdog's affair.
"""


class VllmServer:
    """A life of the server, from its start until the last of its processes is gone.

    It keeps the watchdog informed: of each token by `stepped`, and while there is none by polling
    the server's metrics, which change with each step of its engine.
    """

    def __init__(
        self,
        model: ResolvedModel,
        plan: VllmPlan,
        options: VllmOptions,
        *,
        workload: Callable[[], Workload],
        on_progress: Callable[[LoadProgress], None],
    ) -> None:
        """Start nothing yet. Raises ModelNotReady for an adapter that cannot be read."""
        stem = file_stem(model.id)
        path = socket_path(options.data_dir, f"vllm-{os.getpid()}-{stem[-8:]}.sock")
        self._model = model
        self._plan = plan
        self._options = options
        self._workload = workload
        self.process = VllmProcess(
            command(model, plan.config, plan.install, options, path),
            environment(plan.install, options),
            socket=path,
            log_path=options.data_dir / "logs" / f"vllm-{stem}.log",
            on_progress=on_progress,
        )
        self.client = OpenAiEngine(
            model,
            OpenAiServer(
                base_url="http://vllm/v1",
                model=served_name(model),
                uds=str(path),
                dialect="vllm",
                first_byte_s=FIRST_TOKEN_S,
                between_tokens_s=options.stall_s * PATIENCE,
            ),
            max_answer_tokens=options.max_answer_tokens,
            state_bytes=plan.state_bytes,
            build=plan.build,
        )
        self.watchdog = Watchdog(options.stall_s)
        self.family_bytes: int | None = None
        """Memory of its processes once it answered, shared pages by share; None on a GPU."""
        self.start_s: float | None = None
        """Duration of its start."""
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the server. Raises OSError."""
        await self.process.start()

    async def ready(self) -> None:
        """Wait until the server answers and knows the model. Raises ModelNotReady."""
        began_s = time.monotonic()
        if not await self.process.ready(start_s=self._options.start_s):
            if self.process.pid is None:
                raise ModelNotReady(await self.ended())
            raise ModelNotReady(
                self._sentence(f"did not answer within {self._options.start_s:g} s")
            )
        await self.client.start()
        if self._plan.install.device == "cpu" and self.process.pid is not None:
            self.family_bytes = await asyncio.to_thread(_family_bytes, self.process.pid)
        self.start_s = time.monotonic() - began_s
        self._watching = [
            asyncio.create_task(work, name=f"watch vLLM for {self._model.id}")
            for work in (
                self.watchdog.watch(self._workload, self.process.kill),
                self._poll_metrics(),
            )
        ]

    async def ended(self) -> str:
        """Wait until the server has ended; the reason, as a sentence."""
        return self._sentence(await self.process.ended())

    async def aclose(self) -> None:
        """Break all connections and end all processes within seconds."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await self.client.aclose()
        await self.process.aclose()

    def _sentence(self, ending: str) -> str:
        return f"{self._model.id}: vLLM {ending}."

    async def _poll_metrics(self) -> None:
        """Poll for progress while requests get no tokens."""
        interval_s = self.watchdog.look_s
        transport = AiohttpTransport(uds=str(self.process.socket))
        seen = None
        async with httpx.AsyncClient(transport=transport, timeout=interval_s * 2) as client:
            while True:
                await asyncio.sleep(interval_s)
                if self.watchdog.stuck_s < interval_s:
                    continue
                try:
                    told = (await client.get("http://vllm/metrics")).text
                except CONNECTION_ERRORS:
                    continue
                self.watchdog.heard()
                metrics = [line for line in told.splitlines() if line.startswith(ENGINE_METRICS)]
                if seen is not None and metrics != seen:
                    self.watchdog.stepped()
                seen = metrics


def _family_bytes(pid: int) -> int | None:
    """Memory of a process and its descendants, shared pages by share; blocking."""
    held = [process_memory(each).pss_bytes for each in family(pid)]
    known = [each for each in held if each is not None]
    return sum(known) if held and len(known) == len(held) else None


def file_stem(model_id: str) -> str:
    """A file name for a model: its id, plus a short hash where the id is not one."""
    name = model_id.replace(":", "-")
    if name == model_id:
        return name
    return f"{name}-{hashlib.sha256(model_id.encode()).hexdigest()[:8]}"
