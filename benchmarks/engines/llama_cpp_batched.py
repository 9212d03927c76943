"""Competitor: llama.cpp by the C functions that its own `llama-batched-bench` calls.

Runs under the Python that has llama-cpp-python; the model is a GGUF file. Each measurement of
decode has a context of its own, with as many sequences as streams and no more memory than needed.
"""

import argparse
import ctypes
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import llama_cpp
import numpy as np
from measurement import WARMUP_STEPS, Tokens, measure

FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
#: llama.cpp's own default of tokens in one computation.
PASS_TOKENS = 512


class Sequences:
    """A context that holds one state for each stream."""

    def __init__(
        self, model: int, vocabulary: int, options: argparse.Namespace, streams: int, tokens: int
    ) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = streams * -(-tokens // 256) * 256
        parameters.n_seq_max = streams
        parameters.n_batch = parameters.n_ubatch = max(PASS_TOKENS, streams)
        parameters.n_threads = parameters.n_threads_batch = options.threads
        parameters.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
        parameters.kv_unified = False  # streams do not attend over each other's masked keys
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        if not self._context:
            raise RuntimeError("llama.cpp made no context")
        self._batch = llama_cpp.llama_batch_init(parameters.n_batch, 0, 1)
        self._vocabulary = vocabulary
        self._lengths = [0] * streams

    def clear(self) -> None:
        """Forget all states."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        self._lengths = [0] * len(self._lengths)

    def close(self) -> None:
        """Free the context."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)

    def read(self, stream: int, prompt: Tokens) -> int:
        """Prefill a stream; the most probable next token."""
        for first in range(0, len(prompt), PASS_TOKENS):
            part = prompt[first : first + PASS_TOKENS]
            wanted = [len(part) - 1] if first + len(part) == len(prompt) else []
            logits = self._run([(stream, token) for token in part], wanted)
        return int(logits[0].argmax())

    def copy_first(self) -> None:
        """Give every stream the first one's state."""
        memory = llama_cpp.llama_get_memory(self._context)
        for stream in range(1, len(self._lengths)):
            llama_cpp.llama_memory_seq_cp(memory, 0, stream, -1, -1)
            self._lengths[stream] = self._lengths[0]

    def step(self, tokens: Tokens) -> list[int]:
        """One token more for every stream; the most probable next ones."""
        logits = self._run(list(enumerate(tokens)), range(len(tokens)))
        best: list[int] = logits.argmax(-1).tolist()
        return best

    def _run(self, tokens: list[tuple[int, int]], wanted: Sequence[int]) -> np.ndarray:
        """Append `(stream, token)`; logits of the wanted ones, shape (wanted, vocabulary)."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for index, (stream, token) in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = self._lengths[stream]
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = stream
            batch.logits[index] = index in wanted
            self._lengths[stream] += 1
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        logits = llama_cpp.llama_get_logits(self._context)
        address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(address, shape=(len(wanted), self._vocabulary))


class LlamaCpp:
    """A GGUF file as llama.cpp loads it."""

    def __init__(self, options: argparse.Namespace) -> None:
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(options.path.encode(), parameters)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {options.path}")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._options = options
        self._lone: Sequences | None = None
        self.versions = {"llama-cpp-python": version("llama-cpp-python")}
        self.settings: dict[str, Any] = {
            "flash_attention": options.flash_attention,
            "pass_tokens": PASS_TOKENS,
            "processor": llama_cpp.llama_print_system_info().decode().strip(),
        }

    def greedy(self, prompt: Tokens, new_tokens: int) -> list[int]:
        """The most probable continuation."""
        if self._lone is None:
            self._lone = self._sequences(1, self._options.max_tokens)
        self._lone.clear()
        answer = [self._lone.read(0, prompt)]
        while len(answer) < new_tokens:
            answer += self._lone.step(answer[-1:])
        return answer

    def decode_s(self, prompts: Sequence[Tokens], steps: int) -> float:
        """Seconds of decode steps; one prompt is read and its state copied to all streams."""
        if self._lone is not None:
            self._lone.close()
            self._lone = None
        sequences = self._sequences(len(prompts), len(prompts[0]) + WARMUP_STEPS + steps)
        answers = [sequences.read(0, prompts[0])] * len(prompts)
        sequences.copy_first()
        begun = 0.0
        for step in range(WARMUP_STEPS + steps):
            if step == WARMUP_STEPS:
                begun = time.perf_counter()
            answers = sequences.step(answers)
        seconds = time.perf_counter() - begun
        sequences.close()
        return seconds

    def _sequences(self, streams: int, tokens: int) -> Sequences:
        return Sequences(self._model, self._vocabulary, self._options, streams, tokens)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only llama.cpp can be told."""
    parser.add_argument("--flash-attention", choices=list(FLASH_ATTENTION), default="auto")


if __name__ == "__main__":
    measure(LlamaCpp, add_options)
