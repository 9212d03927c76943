"""ModelLoader: loads models one after the other, in a thread beside the engine's."""

import asyncio
import gc
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from msgspec import Struct

from service.core.errors import ModelNotReady, TriptychError
from service.engines.text.codec import TextCodec
from service.engines.torch.protocol.messages import (
    FromHost,
    Loaded,
    LoadFailed,
    LoadModel,
    LoadProgress,
)
from service.torch_host.compiled.codegen.thread_team import compute_alone
from service.torch_host.faults import log_fault
from service.torch_host.loop import EngineLoop
from service.torch_host.slot_model import SlotModel
from service.torch_host.weights.loading import load

log = logging.getLogger(__name__)


class HostedModel(Struct, frozen=True, kw_only=True):
    """The parts of a loaded model that preparing its requests needs."""

    command: LoadModel
    codec: TextCodec
    context_tokens: int
    vocabulary_tokens: int
    by_snapshot: bool
    """Whether its sequences continue at snapshots alone, one of them before the last message."""


class ModelLoader:
    """The load queue, and the models that came out of it.

    All methods are called on the event loop. A model that is unloaded while it waits or loads is
    dropped as soon as its load has ended.
    """

    def __init__(self, engine: EngineLoop, send: Callable[[FromHost], None]) -> None:
        self._engine = engine
        self._send = send
        self._hosted: dict[str, HostedModel] = {}
        self._wanted: dict[str, LoadModel] = {}
        self._queue: asyncio.Queue[LoadModel] = asyncio.Queue()
        self._loading: str | None = None
        """Id of the model that is being loaded."""
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader", initializer=compute_alone)

    def find(self, model_id: str) -> HostedModel:
        """A loaded model. Raises ModelNotReady."""
        try:
            return self._hosted[model_id]
        except KeyError:
            raise ModelNotReady(f"The model {model_id} is not loaded.") from None

    def load(self, command: LoadModel) -> None:
        """Queue a load; answered by Loaded or LoadFailed."""
        self._wanted[command.model.id] = command
        self._queue.put_nowait(command)

    def unload(self, model_id: str) -> None:
        """Drop a model, loaded or not; answered by Unloaded."""
        self._wanted.pop(model_id, None)
        self._hosted.pop(model_id, None)
        if model_id != self._loading:  # else its memory is free when the load has ended
            self._engine.remove_model(model_id)

    async def run(self) -> None:
        """Serve the load queue until cancelled."""
        while True:
            command = await self._queue.get()
            model_id = command.model.id
            if self._wanted.get(model_id) is command:
                self._loading = model_id
                await self._load(command)
                self._loading = None
                if self._wanted.get(model_id) is not command:  # unloaded meanwhile
                    self._engine.remove_model(model_id)

    async def _load(self, command: LoadModel) -> None:
        model_id = command.model.id
        try:
            codec, model = await asyncio.get_running_loop().run_in_executor(
                self._pool, partial(self._read, command)
            )
        except Exception as error:  # noqa: BLE001 - other people's files may raise anything
            self._fail(model_id, error)
            return
        if self._wanted.get(model_id) is not command:
            model.close()
            return
        try:
            hosted, loaded = _described(command, codec, model)
        except Exception as error:  # noqa: BLE001 - the model's own code
            model.close()
            self._fail(model_id, error)
            return
        self._hosted[model_id] = hosted
        self._engine.add_model(
            model, chunk_tokens=command.prefill_chunk_tokens, max_itl_ms=command.max_itl_ms
        )
        self._send(loaded)

    def _fail(self, model_id: str, error: Exception) -> None:
        if isinstance(error, TriptychError):
            message = str(error)
        else:
            log_fault(log, "a load", error, model_id=model_id)
            message = f"{model_id}: {type(error).__name__}: {error}"
        self._send(LoadFailed(model_id, message))

    def _read(self, command: LoadModel) -> tuple[TextCodec, SlotModel]:
        model = command.model
        self._send(LoadProgress(model_id=model.id, stage="tokenizer"))
        codec = TextCodec.open(Path(model.path), model.spec.chat_template)
        loaded = load(
            model,
            slots=command.slots,
            progress=self._send,
            kernels=command.kernels,
            threads=self._threads,
        )
        gc.collect()  # transformers' modules, of whose weights a program has taken its own copy
        return codec, loaded


def _described(
    command: LoadModel, codec: TextCodec, model: SlotModel
) -> tuple[HostedModel, Loaded]:
    hosted = HostedModel(
        command=command,
        codec=codec,
        context_tokens=model.context_tokens,
        vocabulary_tokens=model.vocabulary_tokens,
        by_snapshot=model.copies is not None and model.copies.by_snapshot,
    )
    loaded = Loaded(
        model_id=command.model.id,
        build=model.build,
        memory=model.memory(),
        context_tokens=model.context_tokens,
        vocabulary_tokens=model.vocabulary_tokens,
        text_bound=codec.bound,
    )
    return hosted, loaded
