"""The memory of a model in the torch engine, predicted from its config alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from model_registry.errors import RegistryError
from model_registry.footprint import DTYPE_BYTES, StateGrowth, predict, state_growth
from model_registry.sources.model_files import read_config
from model_registry.spec import QUANTIZED_WEIGHT_BYTES, ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Prompt, TextPrompt, TokenPrompt
from service.core.errors import ModelNotReady
from service.core.ports import MemoryEstimate
from service.engines.torch.options import TorchOptions

PASS_TOKENS: Final = 512
"""Tokens that a compiled program has workspace for."""

SCORED_LOGITS: Final = 2**23
"""Most logits of one chunk of a prompt whose tokens are scored."""

BYTES_PER_TOKEN: Final = 2
"""Text bytes per prompt token, assumed low; the real average is about 4."""

MESSAGE_TOKENS: Final = 8
"""Tokens that a chat template adds to each message."""

FIRST_TOKENS: Final = 64
"""Smallest reserve of a KV buffer beyond its content."""

KEY_TOKENS: Final = 64
"""Granularity of a compiled program's KV buffers, in tokens."""


class TorchMemoryEstimate:
    """The prediction for one model: for itself, made at its load, and for each of its requests."""

    def __init__(
        self,
        model: ResolvedModel,
        options: TorchOptions,
        *,
        threads: int,
    ) -> None:
        """Read the config. Raises ModelNotReady if the model's type is not known."""
        try:
            config = read_config(Path(model.path))
            footprint = predict(config, context_tokens=0, dtype=model.dtype)
            self._growth: StateGrowth = state_growth(config, dtype=model.dtype)
        except RegistryError as error:
            raise ModelNotReady(f"{model.id}: {error}") from error
        weights_bytes = footprint.weights_bytes
        if model.quantization is not None:
            parameters = weights_bytes / DTYPE_BYTES[model.dtype]
            weights_bytes = round(parameters * QUANTIZED_WEIGHT_BYTES[model.quantization])
        self._context_tokens = model.spec.context_tokens
        self._max_answer_tokens = options.max_answer_tokens
        self.at_rest = MemoryEstimate(
            held_bytes=weights_bytes
            + options.slots * self._growth.constant_bytes
            + workspace_bytes(config, slots=options.slots),
            setup=f"torch slots={options.slots} kernels={options.kernels} threads={threads}",
        )

    def state_bytes(self, request: ChatRequest, prompt_tokens: int | None = None) -> int:
        """Upper bound on what a request adds: its KV buffers; all else is reserved at the load.

        A KV buffer that must grow is reserved half as large again (`KeyValues.reserve`).
        """
        known = estimated_tokens(request.prompt) if prompt_tokens is None else prompt_tokens
        left = max(0, self._context_tokens - known)
        wanted = request.sampling.max_tokens
        answer = self._max_answer_tokens if wanted is None else wanted
        tokens = min(known, self._context_tokens) + (left if answer is None else min(left, answer))
        room = min(self._context_tokens, tokens + max(tokens // 2, FIRST_TOKENS))
        return self._growth.kv_bytes(-(-room // KEY_TOKENS) * KEY_TOKENS)


def workspace_bytes(config: Mapping[str, Any], *, slots: int) -> int:
    """Approximate workspace of a compiled program, used until it was measured once.

    A pass holds about four float32 vectors per token, as wide as the model, its MLP and its
    recurrent layers together: a rule of thumb, within 20 % for the reference models. The logits of
    the largest decode step or scored chunk are added.
    """
    hidden = int(config.get("hidden_size") or config.get("d_model") or 0)
    inner = config.get("intermediate_size")
    expand = config.get("expand") or config.get("mamba_expand") or 0
    width = hidden + (inner if isinstance(inner, int) else 0) + int(expand) * hidden
    vocabulary = int(config.get("vocab_size") or 0)
    scored = min(PASS_TOKENS, SCORED_LOGITS // max(1, vocabulary))
    logits = vocabulary * max(slots, scored)
    return 4 * (4 * max(slots, PASS_TOKENS) * width + logits)


def estimated_tokens(prompt: Prompt) -> int:
    """Estimated tokens of a prompt, rather too many than too few."""
    match prompt:
        case TokenPrompt(token_ids=token_ids):
            return len(token_ids)
        case TextPrompt(text=text):
            return _text_tokens(text)
        case ChatPrompt(messages=messages):
            return sum(MESSAGE_TOKENS + _text_tokens(message.content) for message in messages)


def _text_tokens(text: str) -> int:
    count = len(text) if text.isascii() else len(text.encode())
    return -(-count // BYTES_PER_TOKEN)
