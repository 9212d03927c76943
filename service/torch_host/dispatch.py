"""The host's front desk: takes the service's messages, reads text, hands requests to the loop."""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from msgspec import Struct

from service.core.errors import EngineFailed, ModelNotReady, TriptychError
from service.engines.limits import check_tokens
from service.engines.text.codec import TextCodec
from service.engines.torch.protocol.messages import (
    CallFailed,
    Cancel,
    DescribeTokenizer,
    Detokenize,
    FromHost,
    Generate,
    Loaded,
    LoadFailed,
    LoadModel,
    LoadProgress,
    RequestFailed,
    Text,
    ToHost,
    TokenIds,
    Tokenize,
    Tokenizer,
    UnloadModel,
)
from service.torch_host.compiled.codegen.thread_team import compute_alone
from service.torch_host.loop import EngineLoop
from service.torch_host.sequence import Sequence
from service.torch_host.slot_model import SlotModel
from service.torch_host.weights.loading import load

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class _Hosted(Struct, frozen=True, kw_only=True):
    """What is needed of a loaded model to prepare its requests."""

    order: LoadModel
    codec: TextCodec
    context_tokens: int
    vocabulary_tokens: int


class Dispatch:
    """Handles messages on the event loop; tokenizers and loads run in threads of their own."""

    def __init__(
        self,
        engine: EngineLoop,
        send: Callable[[FromHost], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        """Serve nothing yet.

        Args:
            engine: The loop that runs the models.
            send: Takes messages for the service; callable from any thread.
            fatal: Told of an error after which requests or loads would wait for ever.
        """
        self._engine = engine
        self._send = send
        self._fatal = fatal
        self._hosted: dict[str, _Hosted] = {}
        self._wanted: dict[str, LoadModel] = {}
        self._orders: asyncio.Queue[LoadModel] = asyncio.Queue()
        self._reading: str | None = None
        """The model that the loader is at."""
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._text = ThreadPoolExecutor(2, thread_name_prefix="text")
        self._threads = torch.get_num_threads()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader", initializer=compute_alone)
        self._librarian = self._begin(self._load_in_turn())

    def handle(self, message: ToHost) -> None:
        """Begin what a message asks for; never blocks."""
        match message:
            case Generate():
                task = self._begin(self._prepare(message))
                self._preparing[message.request.request_id] = task
            case Cancel(request_id=request_id):
                task_or_none = self._preparing.pop(request_id, None)
                if task_or_none is not None:
                    task_or_none.cancel()
                self._engine.cancel(request_id)
            case LoadModel():
                self._wanted[message.model.id] = message
                self._orders.put_nowait(message)
            case UnloadModel(model_id=model_id):
                self._wanted.pop(model_id, None)
                self._hosted.pop(model_id, None)
                if model_id != self._reading:  # else its memory is free when the load has ended
                    self._engine.remove_model(model_id)
            case Tokenize() | Detokenize() | DescribeTokenizer():
                call = self._begin(self._answer(message))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task whose unexpected end is fatal: somebody waits for what it did not say."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._fatal(error)

        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(ended)
        return task

    async def _prepare(self, message: Generate) -> None:
        request = message.request
        try:
            hosted = self._find(request.model)
            build = partial(
                Sequence,
                request,
                hosted.codec,
                model_id=request.model,
                queued_ns=message.queued_ns,
                context_tokens=hosted.context_tokens,
                vocabulary_tokens=hosted.vocabulary_tokens,
                max_answer_tokens=hosted.order.max_answer_tokens,
            )
            sequence = await _run_in(self._text, build)
        except TriptychError as error:
            self._fail(request.request_id, error)
        else:
            self._engine.submit(sequence)
        finally:
            self._preparing.pop(request.request_id, None)

    def _fail(self, request_id: str, error: TriptychError) -> None:
        self._send(
            RequestFailed(
                request_id=request_id, code=error.code, message=str(error), param=error.param
            )
        )

    async def _answer(self, call: Tokenize | Detokenize | DescribeTokenizer) -> None:
        try:
            hosted = self._find(call.model_id)
            reply = await _run_in(self._text, partial(_reply, call, hosted))
        except TriptychError as error:
            reply = CallFailed(call_id=call.call_id, code=error.code, message=str(error))
        self._send(reply)

    def _find(self, model_id: str) -> _Hosted:
        try:
            return self._hosted[model_id]
        except KeyError:
            raise ModelNotReady(f"The model {model_id} is not loaded.") from None

    async def _load_in_turn(self) -> None:
        while True:
            order = await self._orders.get()
            if self._wanted.get(order.model.id) is order:
                self._reading = order.model.id
                await self._load(order)
                self._reading = None
                if self._wanted.get(order.model.id) is not order:  # unloaded meanwhile
                    self._engine.remove_model(order.model.id)

    async def _load(self, order: LoadModel) -> None:
        model_id = order.model.id
        try:
            codec, model = await _run_in(self._loader, partial(self._read, order))
        except TriptychError as error:
            self._send(LoadFailed(model_id, str(error)))
            return
        if self._wanted.get(model_id) is not order:
            model.close()
            return
        try:
            hosted, loaded = _described(order, codec, model)
        except Exception as error:  # the model's own code; the others' answers must go on
            log.exception("%s was loaded, and cannot say what it is", model_id)
            model.close()
            self._send(LoadFailed(model_id, f"{model_id}: {type(error).__name__}: {error}"))
            return
        self._hosted[model_id] = hosted
        self._engine.add_model(
            model, chunk_tokens=order.prefill_chunk_tokens, max_itl_ms=order.max_itl_ms
        )
        self._send(loaded)

    def _read(self, order: LoadModel) -> tuple[TextCodec, SlotModel]:
        model = order.model
        self._send(LoadProgress(model_id=model.id, stage="tokenizer"))
        codec = TextCodec.open(Path(model.path), model.spec.chat_template)
        loaded = load(
            model,
            slots=order.slots,
            progress=self._send,
            kernels=order.kernels,
            threads=self._threads,
        )
        gc.collect()  # transformers' modules, of whose weights a program has taken its own copy
        return codec, loaded


def _described(order: LoadModel, codec: TextCodec, model: SlotModel) -> tuple[_Hosted, Loaded]:
    hosted = _Hosted(
        order=order,
        codec=codec,
        context_tokens=model.context_tokens,
        vocabulary_tokens=model.vocabulary_tokens,
    )
    loaded = Loaded(
        model_id=order.model.id,
        build=model.build,
        memory=model.memory(),
        context_tokens=model.context_tokens,
        vocabulary_tokens=model.vocabulary_tokens,
    )
    return hosted, loaded


async def _run_in(executor: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
    """Run `call` in a thread; what it did not expect becomes EngineFailed."""
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, call)
    except TriptychError:
        raise
    except Exception as error:  # other people's code on other people's files may raise anything
        log.exception("%r failed", call)
        raise EngineFailed(f"{type(error).__name__}: {error}") from error


def _reply(call: Tokenize | Detokenize | DescribeTokenizer, hosted: _Hosted) -> FromHost:
    match call:
        case Tokenize(call_id=call_id, prompt=prompt, add_special_tokens=add):
            return TokenIds(call_id, tuple(hosted.codec.encode(prompt, add_special_tokens=add)))
        case Detokenize(call_id=call_id, token_ids=token_ids):
            check_tokens(token_ids, vocabulary_tokens=hosted.vocabulary_tokens)
            return Text(call_id, hosted.codec.decode(token_ids))
        case DescribeTokenizer(call_id=call_id):
            return Tokenizer(call_id, hosted.codec.info)
