"""Any server of the OpenAI API as an engine: vLLM, llama.cpp, Ollama, another Triptych."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

import httpx
import msgspec

from model_registry.spec import ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Prompt, TextPrompt, TokenPrompt
from service.core.chat.sampling import ServerKind
from service.core.errors import ModelNotReady, TriptychError, UnsupportedField
from service.core.events import EngineEvent, ModelBuild, ModelMemory, StateBytes
from service.core.ports import TokenizerInfo
from service.engines.openai.answer import UNKNOWN_VERSION, ArrivingAnswer
from service.engines.openai.connection import CONNECTION_ERRORS, Connection
from service.engines.openai.dialects import DIALECTS, Dialect, body, wire_messages
from service.engines.openai.errors import FarSide, one_line
from service.engines.openai.server import OpenAiServer

log = logging.getLogger(__name__)

_NO_LIST: Final = (KeyError, TypeError, AttributeError, msgspec.MsgspecError)
"""What reading a list of models raises where there is none."""

_VERSIONS: Final[tuple[tuple[ServerKind, str, str], ...]] = (
    ("triptych", "/health", "version"),
    ("vllm", "/version", "version"),
    ("llama.cpp", "/props", "build_info"),
)
"""Kind of server, an endpoint that only that kind has, and the field with its version."""


class OpenAiEngine:
    """Model of another server. What the server does not report is None."""

    def __init__(
        self,
        model: ResolvedModel,
        server: OpenAiServer,
        *,
        max_answer_tokens: int | None = None,
        state_bytes: Callable[[int], StateBytes] | None = None,
        build: ModelBuild | None = None,
    ) -> None:
        """Open no connection yet.

        Args:
            model: Catalogue entry.
            server: Server that answers.
            max_answer_tokens: Longest answer to a request without `max_tokens`.
            state_bytes: Bytes of a request's state by its length in tokens, if known.
            build: Weights, engine and device that answer, if known.
        """
        self.model = model
        self.server = server
        self.dialect: Dialect = DIALECTS[server.dialect or "openai"]
        self._max_answer_tokens = max_answer_tokens
        self._state_bytes = state_bytes
        self._build = build
        self._context_tokens: int | None = None
        self._far_side = FarSide(model.id, server)
        self._connection = Connection(self._far_side)

    def __repr__(self) -> str:
        return f"<OpenAiEngine {self.model.id} at {self.server.address}>"

    async def start(self) -> None:
        """Check that the server has the model. Raises ModelNotReady with the reason."""
        try:
            contexts = await self._models()
        except (*CONNECTION_ERRORS, *_NO_LIST) as error:
            where, why = self.server.address, one_line(error)
            log.warning("%s: no OpenAI API at %s: %s", self.model.id, where, why)
            raise ModelNotReady(
                f"{self.model.id}: its server does not speak the OpenAI API; the log has "
                "the address and the error"
            ) from error
        if self.server.model not in contexts:
            raise self._missing(contexts)
        self._context_tokens = contexts[self.server.model]
        if self.server.dialect is not None and self._build is not None:
            return
        name, version = await self._who()
        self.dialect = DIALECTS[self.server.dialect or name]
        self._build = self._build or ModelBuild(
            weights_sha256=None,
            dtype=self.model.dtype,
            quantization=self.model.quantization,
            engine=self.dialect.name,
            engine_version=version,
            device="remote",
            kernel_path="unknown",
        )

    async def generate(self, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        """Yield Started, Deltas and Finished; closing the generator closes the connection."""
        assert self._build is not None
        prompt_text = await self._echoed(request) if request.echo else None
        answer = ArrivingAnswer(request, self._far_side, self._limit(request), prompt_text)
        max_tokens = await self._max_tokens(request)
        wanted = body(request, self.server.model, self.dialect, max_tokens=max_tokens)
        kind = "chat/completions" if isinstance(request.prompt, ChatPrompt) else "completions"
        async with self._connection.stream(f"/v1/{kind}", msgspec.json.encode(wanted)) as response:
            if response.status_code != httpx.codes.OK:
                raise await self._refusal(response)
            arriving = self._connection.events(response, answer)
            async with aclosing(arriving):
                async for at_ns, events in arriving:
                    for data in events:
                        for event in answer.take(data, at_ns):
                            yield event
                    if answer.cut:  # else read to the end: the connection serves again
                        break
        yield answer.finished(self._build, self._state_bytes)

    async def _refusal(self, response: httpx.Response) -> TriptychError:
        """Return the error that a response without an answer stands for."""
        content = await self._connection.read(response)
        if response.status_code == httpx.codes.NOT_FOUND:
            with contextlib.suppress(*CONNECTION_ERRORS, *_NO_LIST):
                models = await self._models()
                if self.server.model not in models:
                    return self._missing(models)
        return self._far_side.of_status(response.status_code, response.headers, content)

    async def _models(self) -> dict[str, int | None]:
        """List the server's models with their context lengths, None where it does not say."""
        listed = await self._connection.get("/v1/models")
        return {each["id"]: each.get("max_model_len") for each in listed["data"]}

    def _missing(self, models: Iterable[str]) -> ModelNotReady:
        known = ", ".join(sorted(models)[:10]) or "none"
        log.warning("%s: the server at %s has: %s", self.model.id, self.server.address, known)
        return ModelNotReady(
            f"{self.model.id}: its server has no model {self.server.model!r}; the log lists those "
            "that it has"
        )

    def _limit(self, request: ChatRequest) -> int | None:
        """Length to truncate the answer to here, if no limit was sent to the server."""
        return self._max_answer_tokens if request.sampling.max_tokens is None else None

    async def _max_tokens(self, request: ChatRequest) -> int | None:
        """Return the limit to send; None lets the server fill the context."""
        asked, context_tokens = request.sampling.max_tokens, self._context_tokens
        fills = self.dialect.short_completions and not isinstance(request.prompt, ChatPrompt)
        if asked is not None or not fills or context_tokens is None:
            return asked
        prompt_ids = await self.tokenize(request.prompt, add_special_tokens=True)
        return max(1, context_tokens - len(prompt_ids))

    async def _echoed(self, request: ChatRequest) -> str | None:
        """Return the prompt's text, which not every server sends back."""
        match request.prompt:
            case TextPrompt(text=text):
                return text
            case TokenPrompt(token_ids=token_ids) if self.dialect.tokenizes:
                return await self.detokenize(token_ids)
        return None

    def memory(self) -> ModelMemory:
        """Memory of another machine: unknown."""
        return ModelMemory()

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Return the token ids of a prompt. Raises UnsupportedField if the server cannot tell."""
        match prompt:
            case TokenPrompt(token_ids=token_ids):
                return token_ids
            case TextPrompt(text=text):
                asked: dict[str, Any] = {"prompt": text, "add_special_tokens": add_special_tokens}
            case ChatPrompt() as chat:  # its template writes the special tokens
                asked = {"messages": wire_messages(chat)}
        told = await self._ask("/tokenize", asked)
        return tuple(told["tokens"])

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids. Raises UnsupportedField if the server cannot tell."""
        told = await self._ask("/detokenize", {"tokens": list(token_ids)})
        return str(told["prompt"])

    async def tokenizer_info(self) -> TokenizerInfo:
        """Special tokens and template: unknown."""
        return TokenizerInfo(bos_token=None, eos_token=None, pad_token=None, chat_template=None)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connection.aclose()

    def trouble(self) -> str | None:
        """Say why the server cannot answer now, None if it is not known to be out of reach."""
        return self._connection.trouble()

    async def _ask(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        if not self.dialect.tokenizes:
            raise UnsupportedField(f"The server of {self.model.id} does not expose its tokenizer.")
        return await self._connection.ask(path, {"model": self.server.model, **asked})

    async def _who(self) -> tuple[ServerKind, str]:
        """Detect the kind of server and its version."""
        for kind, path, field in _VERSIONS:
            try:
                told = await self._connection.get(path)
            except (*CONNECTION_ERRORS, msgspec.MsgspecError):
                continue
            if isinstance(told, dict) and field in told:
                return kind, f"{kind} {told[field]}"
        return "openai", UNKNOWN_VERSION
