"""One model of the torch host, as an engine."""

from collections.abc import AsyncGenerator, Sequence

from model_registry.spec import ResolvedModel
from service.core.chat import ChatRequest, Prompt
from service.core.events import EngineEvent, ModelMemory
from service.core.ports import LoadProgress, ModelNeed, Pulse, TokenizerInfo
from service.engines.torch.client import TorchHost
from service.engines.torch.memory_estimate import TorchNeed


class TorchEngine:
    """One model of a torch host: an Engine that can tokenize, report its load and its trouble."""

    def __init__(self, model: ResolvedModel, host: TorchHost) -> None:
        self.model = model
        self._host = host
        self._progress: LoadProgress | None = None
        self._need: TorchNeed | None = None

    def __repr__(self) -> str:
        """Name the model."""
        return f"<TorchEngine {self.model.id}>"

    async def start(self) -> None:
        """Load the model. Raises ModelNotReady with the reason."""
        try:
            await self._host.load(self.model, self._report)
        finally:
            self._progress = None

    def load_progress(self) -> LoadProgress | None:
        """How far `start` has come, None before its first report and after its last."""
        return self._progress

    def trouble(self) -> str | None:
        """Why the model cannot answer now, None if it can."""
        return self._host.trouble(self.model.id)

    def pulse(self) -> Pulse:
        """Whether the host makes steps while this model's requests run."""
        return self._host.pulse(self.model.id)

    def need(self) -> ModelNeed:
        """What the model will hold; reads its config. Raises ModelNotReady."""
        self._need = self._host.need(self.model)
        return self._need.need

    def state_bytes(self, request: ChatRequest, *, prompt_tokens: int | None = None) -> int:
        """Most that one request adds: what its keys and values will reserve."""
        assert self._need is not None  # no request comes before the load
        return self._need.state_bytes(request, prompt_tokens)

    def generate(self, request: ChatRequest) -> AsyncGenerator[EngineEvent]:
        """Yield Started, Deltas and Finished, or raise a TriptychError."""
        return self._host.generate(self.model.id, request)

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids of a prompt."""
        return await self._host.tokenize(
            self.model.id, prompt, add_special_tokens=add_special_tokens
        )

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of token ids."""
        return await self._host.detokenize(self.model.id, token_ids)

    async def tokenizer_info(self) -> TokenizerInfo:
        """Special tokens and chat template."""
        return await self._host.tokenizer_info(self.model.id)

    def memory(self) -> ModelMemory:
        """Bytes that the host last reported."""
        return self._host.memory(self.model.id)

    async def aclose(self) -> None:
        """Unload the model; running requests fail."""
        await self._host.unload(self.model.id)

    def _report(self, progress: LoadProgress) -> None:
        self._progress = progress
