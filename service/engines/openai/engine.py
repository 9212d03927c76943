"""Any server of the OpenAI API as an engine: vLLM, llama.cpp, Ollama, another Triptych."""

import contextlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, Final, cast

import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport
from msgspec import Struct

from model_registry.spec import ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Prompt, TextPrompt, TokenPrompt
from service.core.chat.sampling import ServerKind
from service.core.errors import EngineFailed, ModelNotReady, TriptychError, UnsupportedField
from service.core.events import EngineEvent, ModelBuild, ModelMemory, StateBytes
from service.core.ports import TokenizerInfo
from service.core.sse import SseReader
from service.engines.openai.answer import UNKNOWN_VERSION, ArrivingAnswer
from service.engines.openai.dialects import DIALECTS, Dialect, body, wire_messages
from service.engines.openai.errors import of_status
from service.engines.openai.reachability import CONNECTION_ERRORS, Reachability, describe

CONNECT_S: Final = 10.0
ANSWER_S: Final = 30.0
"""Longest wait for an answer to a question about the server itself; streams may take any time."""

_NO_LIST: Final = (KeyError, TypeError, AttributeError, msgspec.MsgspecError)
"""What reading a list of models raises where there is none."""


class OpenAiServer(Struct, frozen=True, kw_only=True):
    """Where a model is answered for, and how to speak to it."""

    base_url: str
    """Up to and including `/v1`."""
    model: str
    """The name that it knows the model by."""
    api_key: str | None = None
    uds: str | None = None
    """Path of the UNIX socket that it listens on."""
    dialect: ServerKind | None = None
    """None is found out."""

    def __repr__(self) -> str:
        """Name the server and the model, never the key."""
        return f"<OpenAiServer {self.model} at {self.uds or self.base_url}>"

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"The server {self.uds or self.base_url}"


class OpenAiEngine:
    """One model of another server. What the far side does not tell is None."""

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
            model: What the catalogue says of it.
            server: Who answers.
            max_answer_tokens: Longest answer to a request that names no `max_tokens`.
            state_bytes: Bytes of a request's state by its length in tokens, where it is known.
            build: What exactly answers, where it is known.
        """
        self.model = model
        self.server = server
        self.dialect: Dialect = DIALECTS[server.dialect or "openai"]
        self._max_answer_tokens = max_answer_tokens
        self._state_bytes = state_bytes
        self._build = build
        self._context_tokens: int | None = None
        self._client = _client(server)
        self._reachability = Reachability(server.name)
        self._root = server.base_url.rstrip("/").removesuffix("/v1")

    def __repr__(self) -> str:
        """Name the model and its server."""
        return f"<OpenAiEngine {self.model.id} at {self.server.uds or self.server.base_url}>"

    async def start(self) -> None:
        """See that the server has the model. Raises ModelNotReady with the reason."""
        try:
            contexts = await self._models()
        except (*CONNECTION_ERRORS, *_NO_LIST) as error:
            raise ModelNotReady(
                f"{self.model.id}: {self.server.name} does not answer as an OpenAI API would: "
                f"{describe(error)}"
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
        answer = ArrivingAnswer(request, self.server.name, self._limit(request), prompt_text)
        max_tokens = await self._max_tokens(request)
        wanted = body(request, self.server.model, self.dialect, max_tokens=max_tokens)
        asked = msgspec.json.encode(wanted)
        kind = "chat/completions" if isinstance(request.prompt, ChatPrompt) else "completions"
        responded = False
        try:
            async with self._connected().stream(
                "POST", f"{self._root}/v1/{kind}", content=asked
            ) as response:
                responded = True
                self._reachability.reached()
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                events = SseReader()
                async for received in response.aiter_raw():
                    at_ns = time.monotonic_ns()
                    for data in events.push(received):
                        for event in answer.take(data, at_ns):
                            yield event
                    if answer.cut:  # else read to the end: the connection serves again
                        break
        except (*CONNECTION_ERRORS, msgspec.MsgspecError, ValueError) as error:
            if not responded:
                self._reachability.failed(error)
            raise EngineFailed(f"{self.server.name} failed: {describe(error)}") from error
        yield answer.finished(self._build, self._state_bytes)

    async def _refusal(self, response: httpx.Response) -> TriptychError:
        """What a response that is no answer stands for; a model that is gone, by what is there."""
        await response.aread()
        if response.status_code == httpx.codes.NOT_FOUND:
            with contextlib.suppress(*CONNECTION_ERRORS, *_NO_LIST):
                models = await self._models()
                if self.server.model not in models:
                    return self._missing(models)
        return self._error(response)

    def _error(self, response: httpx.Response) -> TriptychError:
        """What a response stands for that was read and is no answer."""
        return of_status(
            response.status_code, response.headers, response.content, server=self.server.name
        )

    async def _models(self) -> dict[str, int | None]:
        """The server's models, and how long their contexts are where it tells."""
        listed = await self._get(f"{self._root}/v1/models")
        return {each["id"]: each.get("max_model_len") for each in listed["data"]}

    def _missing(self, models: Iterable[str]) -> ModelNotReady:
        known = ", ".join(sorted(models)[:10]) or "none"
        return ModelNotReady(
            f"{self.model.id}: {self.server.name} has no model {self.server.model!r}; "
            f"it has: {known}"
        )

    def _limit(self, request: ChatRequest) -> int | None:
        """After how many tokens the answer is cut here: the far side was told of no limit."""
        return self._max_answer_tokens if request.sampling.max_tokens is None else None

    async def _max_tokens(self, request: ChatRequest) -> int | None:
        """What is asked for, None for as many as fit; a number too large would be refused."""
        asked, context_tokens = request.sampling.max_tokens, self._context_tokens
        fills = self.dialect.short_completions and not isinstance(request.prompt, ChatPrompt)
        if asked is not None or not fills or context_tokens is None:
            return asked
        prompt_ids = await self.tokenize(request.prompt, add_special_tokens=True)
        return max(1, context_tokens - len(prompt_ids))

    async def _echoed(self, request: ChatRequest) -> str | None:
        """The prompt's text, which not every server sends back."""
        match request.prompt:
            case TextPrompt(text=text):
                return text
            case TokenPrompt(token_ids=token_ids) if self.dialect.tokenizes:
                return await self.detokenize(token_ids)
        return None

    def memory(self) -> ModelMemory:
        """Nothing is known of another machine's memory."""
        return ModelMemory()

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of a prompt. Raises UnsupportedField where the server cannot tell."""
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
        """Text of token ids. Raises UnsupportedField where the server cannot tell."""
        told = await self._ask("/detokenize", {"tokens": list(token_ids)})
        return str(told["prompt"])

    async def tokenizer_info(self) -> TokenizerInfo:
        """Nothing is told of it."""
        return TokenizerInfo(bos_token=None, eos_token=None, pad_token=None, chat_template=None)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def trouble(self) -> str | None:
        """Why the server cannot answer now, None if it is not known to be out of reach."""
        return self._reachability.trouble()

    def _connected(self) -> httpx.AsyncClient:
        if self._client.is_closed:
            raise EngineFailed(f"{self.model.id} is closed.")
        return self._client

    async def _ask(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        if not self.dialect.tokenizes:
            raise UnsupportedField(f"{self.server.name} does not show its tokenizer.")
        content = msgspec.json.encode({"model": self.server.model, **asked})
        try:
            response = await self._connected().post(
                self._root + path, content=content, timeout=ANSWER_S
            )
        except CONNECTION_ERRORS as error:
            self._reachability.failed(error)
            raise EngineFailed(f"{self.server.name} failed: {describe(error)}") from error
        self._reachability.reached()
        if response.status_code != httpx.codes.OK:
            raise self._error(response)
        return cast("dict[str, Any]", response.json())

    async def _get(self, url: str) -> dict[str, Any]:
        response = await self._client.get(url, timeout=ANSWER_S)
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise self._error(response)
        response.raise_for_status()
        return cast("dict[str, Any]", msgspec.json.decode(response.content))

    async def _who(self) -> tuple[ServerKind, str]:
        """What kind of server it is, by what only that kind has, and its version."""
        for name, path, field in (
            ("triptych", "/health", "version"),
            ("vllm", "/version", "version"),
            ("llama.cpp", "/props", "build_info"),
        ):
            try:
                told = await self._get(self._root + path)
            except (*CONNECTION_ERRORS, msgspec.MsgspecError):
                continue
            if isinstance(told, dict) and field in told:
                return cast("ServerKind", name), f"{name} {told[field]}"
        return "openai", UNKNOWN_VERSION


def _client(server: OpenAiServer) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=0)  # aiohttp's word for as many as are asked for
    headers = {"content-type": "application/json"}
    if server.api_key is not None:
        headers["authorization"] = f"Bearer {server.api_key}"
    return httpx.AsyncClient(
        # httpx's own transport takes some 65 µs more for each piece that arrives: measured with
        # `benchmarks/service_overhead.py --remote --itl-ms 20`.
        transport=AiohttpTransport(uds=server.uds, limits=limits),
        timeout=httpx.Timeout(None, connect=CONNECT_S),
        headers=headers,
    )


def remote_server(model: ResolvedModel) -> OpenAiServer:
    """The server that the catalogue names. Raises ModelNotReady where its key is not set."""
    remote = model.spec.remote
    assert remote is not None  # the catalogue sees to it
    api_key = None
    if remote.api_key_env:
        api_key = os.environ.get(remote.api_key_env)
        if not api_key:
            raise ModelNotReady(
                f"{model.id}: the environment variable {remote.api_key_env}, which is to hold the "
                "API key of its server, is not set"
            )
    return OpenAiServer(
        base_url=remote.base_url, model=remote.model or model.spec.id, api_key=api_key
    )
