"""Competitor: `transformers.generate`, one batch whose streams begin and end together."""

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

from measurement import WARMUP_STEPS, Tokens, measure


class Transformers:
    """A model as `from_pretrained` gives it."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        import transformers

        torch.manual_seed(0)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            options.path, dtype=getattr(torch, options.dtype)
        ).eval()
        self._model.generation_config.eos_token_id = None  # an end token does not end an answer
        linear = "mamba" in type(self._model).__name__.lower()  # generate's own criterion
        self._cache_name = "cache_params" if linear else "past_key_values"
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        self.settings: dict[str, Any] = {
            "torch_threads": torch.get_num_threads(),
            "attention": self._model.config._attn_implementation,  # noqa: SLF001
            "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        }

    def greedy(self, prompt: Tokens, new_tokens: int) -> list[int]:
        """The most probable continuation."""
        import torch

        ids = torch.tensor([prompt])
        answer = self._generate(ids, torch.ones_like(ids), new_tokens)
        new: list[int] = answer[0, len(prompt) :].tolist()
        return new

    def decode_s(self, prompts: Sequence[Tokens], steps: int) -> float:
        """Seconds of `generate`'s steps, stamped by a stopping criterion.

        One prompt is read and its cache repeated for every stream: reading a batch of long prompts
        takes minutes and, in a Mamba layer, tens of gigabytes.
        """
        import torch
        from transformers import DynamicCache

        streams, context = len(prompts), len(prompts[0])
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        with torch.inference_mode():
            self._model(
                torch.tensor([prompts[0][:-1]]),
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_name: cache},
            )
            cache.reorder_cache(torch.zeros(streams).long())  # type: ignore[arg-type]
        stamps: list[float] = []

        def stamp(ids: torch.Tensor, _: Any) -> torch.Tensor:  # noqa: ANN401
            stamps.append(time.perf_counter())
            return torch.zeros(ids.shape[0], dtype=torch.bool)

        # A mask longer than the ids tells that only the new ones are given; a Mamba layer
        # multiplies by the mask and must have it as long as the ids.
        mask_tokens = 1 if self._cache_name == "cache_params" else context
        answer = self._generate(
            torch.tensor([[prompt[-1]] for prompt in prompts]),
            torch.ones(streams, mask_tokens, dtype=torch.long),
            WARMUP_STEPS + steps,
            stopping_criteria=[stamp],
            **{self._cache_name: cache},
        )
        assert answer.shape == (streams, 1 + WARMUP_STEPS + steps)
        return stamps[-1] - stamps[WARMUP_STEPS - 1]

    def _generate(self, ids: Any, mask: Any, new_tokens: int, **extra: Any) -> Any:  # noqa: ANN401
        import torch

        with torch.inference_mode():
            return self._model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=new_tokens,
                pad_token_id=0,
                **extra,
            )


if __name__ == "__main__":
    measure(Transformers)
