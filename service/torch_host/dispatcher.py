"""Dispatcher: takes the service's messages, prepares requests and hands them to the loop."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TypeVar

from service.core.chat import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from service.core.errors import EngineFailed, TriptychError
from service.engines.limits import check_tokens
from service.engines.torch.protocol.messages import (
    CallFailed,
    Cancel,
    DescribeTokenizer,
    Detokenize,
    FromHost,
    Generate,
    LimitPrefixCache,
    LoadModel,
    Question,
    RequestFailed,
    SplitIntoTokens,
    SplitText,
    Text,
    ToHost,
    TokenIds,
    Tokenize,
    Tokenizer,
    UnloadModel,
)
from service.torch_host.faults import fault_message, log_fault
from service.torch_host.loader import HostedModel, ModelLoader
from service.torch_host.loop import EngineLoop
from service.torch_host.sequence import Sequence
from service.torch_host.text_threads import TextThreads

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Dispatcher:
    """Handles messages on the event loop; tokenization and loads run in threads of their own."""

    def __init__(
        self,
        engine: EngineLoop,
        send: Callable[[FromHost], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        """Start the load queue.

        Args:
            engine: The loop that runs the models.
            send: Sends a message to the service; callable from any thread.
            fatal: Called with an error after which requests or loads would wait forever.
        """
        self._engine = engine
        self._send = send
        self._fatal = fatal
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._text = TextThreads()
        self._loader = ModelLoader(engine, send)
        self._loading = self._begin(self._loader.run())

    def handle(self, message: ToHost) -> None:
        """Handle a message; never blocks."""
        match message:
            case Generate():
                task = self._begin(self._prepare(message))
                self._preparing[message.request.request_id] = task
            case Cancel(request_id=request_id):
                preparing = self._preparing.pop(request_id, None)
                if preparing is not None:
                    preparing.cancel()
                self._engine.cancel(request_id)
            case LimitPrefixCache(max_bytes=max_bytes):
                self._engine.limit_prefix_cache(max_bytes)
            case LoadModel():
                self._loader.load(message)
            case UnloadModel(model_id=model_id):
                self._loader.unload(model_id)
            case Tokenize() | Detokenize() | DescribeTokenizer() | SplitText():
                call = self._begin(self._answer(message))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)

    def close(self) -> None:
        """Stop loading and preparing."""
        self._loading.cancel()
        self._text.close()

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start a task whose unexpected end is fatal, since somebody waits for its answer."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._fatal(error)

        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(ended)
        return task

    async def _prepare(self, message: Generate) -> None:
        request = message.request
        request_id, model_id = request.request_id, request.model
        try:
            hosted = self._loader.find(model_id)
            if isinstance(request.prompt, TextPrompt) and hosted.codec.bound is not None:
                hosted.codec.bound.check(request.prompt.text, context_tokens=hosted.context_tokens)
            build = partial(
                Sequence,
                request,
                hosted.codec,
                model_id=model_id,
                queued_ns=message.queued_ns,
                context_tokens=hosted.context_tokens,
                vocabulary_tokens=hosted.vocabulary_tokens,
                max_answer_tokens=hosted.command.max_answer_tokens,
                marks_message=hosted.by_snapshot,
            )
            sequence = await self._text.run(
                build, model_id=model_id, characters=_characters(request.prompt)
            )
        except Exception as error:  # noqa: BLE001 - templates and tokenizers may raise anything
            self._fail(request_id, model_id, error)
        else:
            self._engine.submit(sequence)
        finally:
            self._preparing.pop(request_id, None)

    def _fail(self, request_id: str, model_id: str, error: Exception) -> None:
        told = _told(error, "the preparation of a prompt", model_id, request_id)
        self._send(
            RequestFailed(
                request_id=request_id, code=told.code, message=str(told), param=told.param
            )
        )

    async def _answer(self, call: Question) -> None:
        try:
            hosted = self._loader.find(call.model_id)
            characters = 0
            if isinstance(call, Tokenize):
                characters = _characters(call.prompt)
            elif isinstance(call, Detokenize):
                characters = len(call.token_ids)
            elif isinstance(call, SplitText):
                characters = len(call.text)
            reply = await self._text.run(
                partial(_reply, call, hosted), model_id=call.model_id, characters=characters
            )
        except Exception as error:  # noqa: BLE001 - as above
            told = _told(error, type(call).__name__, call.model_id, None)
            reply = CallFailed(
                call_id=call.call_id, code=told.code, message=str(told), param=told.param
            )
        self._send(reply)


def _told(error: Exception, doing: str, model_id: str, request_id: str | None) -> TriptychError:
    """Convert an error to one for the client; unexpected errors are logged."""
    if isinstance(error, TriptychError):
        return error
    log_fault(log, doing, error, model_id=model_id, request_id=request_id)
    return EngineFailed(fault_message(doing, error))


def _characters(prompt: Prompt) -> int:
    match prompt:
        case TextPrompt(text=text):
            return len(text)
        case TokenPrompt(token_ids=token_ids):
            return len(token_ids)
        case ChatPrompt(messages=messages):
            return sum(len(message.content) for message in messages)


def _reply(call: Question, hosted: HostedModel) -> FromHost:
    match call:
        case Tokenize(call_id=call_id, prompt=prompt, add_special_tokens=add):
            return TokenIds(call_id, tuple(hosted.codec.encode(prompt, add_special_tokens=add)))
        case Detokenize(call_id=call_id, token_ids=token_ids):
            check_tokens(token_ids, vocabulary_tokens=hosted.vocabulary_tokens, param="tokens")
            return Text(call_id, hosted.codec.decode(token_ids))
        case DescribeTokenizer(call_id=call_id):
            return Tokenizer(call_id, hosted.codec.info)
        case SplitText(call_id=call_id, text=text):
            tokens = hosted.codec.split(text, context_tokens=hosted.context_tokens)
            return SplitIntoTokens(call_id, tokens)
