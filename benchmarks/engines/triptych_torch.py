"""Ours: the torch engine's models in this process, by the verbs that its loop uses."""

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

from measurement import WARMUP_STEPS, Tokens, measure

from model_registry.spec import ModelSpec, ResolvedModel, Variant


class Triptych:
    """A model with slots."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        from service.torch_host.weights.build import ENGINE_VERSION
        from service.torch_host.weights.loading import load

        variants = {}
        if options.quantization:
            variants[options.quantization] = Variant(quantization=options.quantization)
        spec = ModelSpec(
            id="benchmark",
            family="transformer",
            licence="none",
            context_tokens=options.max_tokens,
            sources=(),
            dtype=options.dtype,
            chat_template="none",
            variants=variants,
        )
        self._model = load(
            ResolvedModel(
                spec=spec, variant=options.quantization, path=options.path, weights_sha256=None
            ),
            slots=options.max_streams,
            progress=lambda _: None,
            kernels=options.kernels,
        )
        self._chunk_tokens = options.chunk_tokens or options.max_tokens
        self.versions = {"engine": ENGINE_VERSION}
        self.settings: dict[str, Any] = {
            "torch_threads": torch.get_num_threads(),
            "kernel_path": self._model.build.kernel_path,
            "quantization": options.quantization,
            "chunk_tokens": options.chunk_tokens,
            "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        }

    def greedy(self, prompt: Tokens, new_tokens: int) -> list[int]:
        """The most probable continuation."""
        slot = self._taken()
        answer = [self._read(slot, prompt)]
        while len(answer) < new_tokens:
            answer += self._model.decode([slot], answer[-1:]).argmax(-1).tolist()
        self._model.release(slot)
        return answer

    def decode_s(self, prompts: Sequence[Tokens], steps: int) -> float:
        """Seconds of decode steps, the choice of the most probable tokens included."""
        slots = [self._taken() for _ in prompts]
        tokens = [self._read(slot, prompt) for slot, prompt in zip(slots, prompts, strict=True)]
        begun = 0.0
        for step in range(WARMUP_STEPS + steps):
            if step == WARMUP_STEPS:
                begun = time.perf_counter()
            tokens = self._model.decode(slots, tokens).argmax(-1).tolist()
        seconds = time.perf_counter() - begun
        for slot in slots:
            self._model.release(slot)
        return seconds

    def _taken(self) -> int:
        slot = self._model.take()
        assert slot is not None
        return slot

    def _read(self, slot: int, prompt: Tokens) -> int:
        """Prefill in chunks; the most probable next token."""
        token = 0
        for first in range(0, len(prompt), self._chunk_tokens):
            logits = self._model.prefill(slot, prompt[first : first + self._chunk_tokens])
            token = int(logits.argmax())
        return token


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only we can be told."""
    parser.add_argument("--kernels", choices=["compiled", "eager"], default="compiled")
    parser.add_argument("--quantization", choices=["int8", "int4"])
    parser.add_argument(
        "--chunk-tokens", type=int, default=0, help="prefill in chunks, as the service does"
    )


if __name__ == "__main__":
    measure(Triptych, add_options)
