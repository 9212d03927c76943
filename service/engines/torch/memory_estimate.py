"""What a model of the torch engine will hold, predicted from its config alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from model_registry.errors import RegistryError
from model_registry.footprint import DTYPE_BYTES, StateGrowth, predict, state_growth
from model_registry.sources.model_files import read_config
from model_registry.spec import Quantization, ResolvedModel
from service.core.chat import ChatPrompt, ChatRequest, Prompt, TextPrompt, TokenPrompt
from service.core.errors import ModelNotReady
from service.core.ports import ModelNeed

WEIGHT_BYTES: Final[dict[Quantization, float]] = {
    "int8": 1.07,
    "int4": 0.75,
    "fp8": 1.07,
    "gguf": 1.15,
}
"""Bytes of one quantized parameter, its share of scales and of what stays in 16 bits included.

Of GGUF that of a file whose blocks have 8 bits, which is the most; the first load measures it.
"""

PASS_TOKENS: Final = 512
"""Tokens that a compiled program's workspace is made for."""

SCORED_LOGITS: Final = 2**23
"""Most logits of one chunk of a prompt whose tokens are scored."""

BYTES_PER_TOKEN: Final = 2
"""Shortest text that a token of a prompt is taken to stand for; real ones stand for about 4."""

MESSAGE_TOKENS: Final = 8
"""What a chat template puts around each message."""

FIRST_TOKENS: Final = 64
"""Least room that a buffer of keys and values has beyond what it must hold."""

KEY_TOKENS: Final = 64
"""A compiled program's buffers have room for a multiple of these."""


class TorchNeed:
    """The numbers of one model: computed at its load, and asked for at each request."""

    def __init__(
        self,
        model: ResolvedModel,
        *,
        slots: int,
        kernels: str,
        threads: int,
        max_answer_tokens: int | None,
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
            weights_bytes = round(parameters * WEIGHT_BYTES[model.quantization])
        self._context_tokens = model.spec.context_tokens
        self._max_answer_tokens = max_answer_tokens
        self.need = ModelNeed(
            held_bytes=weights_bytes
            + slots * self._growth.constant_bytes
            + workspace_bytes(config, slots=slots),
            setup=f"torch slots={slots} kernels={kernels} threads={threads}",
        )

    def state_bytes(self, request: ChatRequest, prompt_tokens: int | None = None) -> int:
        """Most that a request adds: keys and values grow, all else is reserved at the load.

        A buffer that must grow is given room for half as much again (`KeyValues.reserve`).
        """
        known = estimated_tokens(request.prompt) if prompt_tokens is None else prompt_tokens
        left = max(0, self._context_tokens - known)
        wanted = request.sampling.max_tokens
        answer = self._max_answer_tokens if wanted is None else wanted
        tokens = min(known, self._context_tokens) + (left if answer is None else min(left, answer))
        room = min(self._context_tokens, tokens + max(tokens // 2, FIRST_TOKENS))
        return self._growth.kv_bytes(-(-room // KEY_TOKENS) * KEY_TOKENS)


def workspace_bytes(config: Mapping[str, Any], *, slots: int) -> int:
    """About what a compiled program computes in, until it has been measured once.

    A pass holds some four vectors of float32 for each token as wide as the model, its MLPs and its
    recurrent layers: a rule of thumb, within a fifth for the reference models. To it come the
    logits of the largest decode step or scored chunk.
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
    """About how many tokens a prompt has, more rather than less."""
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
