"""The work formulas against the products that transformers computes, for every tiny model."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model_registry.architecture import LayerMix, read_layers
from model_registry.work import work_formula
from support import tiny_models

PROMPT_TOKENS = 13

#: Mamba and Mamba-2 read their state out by a matrix product; transformers computes all else of a
#: recurrence element by element.
READ_BY_PRODUCT = frozenset(
    {
        "mamba",
        "falcon_mamba",
        "mamba2",
        "jamba",
        "falcon_h1",
        "granitemoehybrid",
        "bamba",
        "zamba2",
        "nemotron_h",
    }
)


class Counted:
    """Operations of a prefill and of the decode step after it, by kind of product."""

    def __init__(self, name: str) -> None:
        network = tiny_models.network(
            name, attn_implementation="eager", experts_implementation="eager"
        )
        self.config = network.config.to_dict()
        last_logit_alone = "logits_to_keep" in inspect.signature(network.forward).parameters
        self.logits = 1 if last_logit_alone else PROMPT_TOKENS
        prompt = torch.arange(3, 3 + PROMPT_TOKENS)[None]
        options = {"logits_to_keep": 1} if last_logit_alone else {}
        self.prefill, answer = self._count(
            lambda: network(prompt, use_cache=True, **options)  # type: ignore[arg-type]
        )
        name_of_cache = "past_key_values" if "past_key_values" in answer else "cache_params"
        cache = {name_of_cache: answer[name_of_cache]}
        self.step, _ = self._count(lambda: network(torch.tensor([[5]]), use_cache=True, **cache))

    @staticmethod
    def _count(run: Callable[[], Any]) -> tuple[dict[str, int], Any]:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            answer = run()
        counts = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
        linear = counts.pop("aten.mm", 0) + counts.pop("aten.addmm", 0)
        batched = counts.pop("aten.bmm", 0) + counts.pop("aten.baddbmm", 0)
        counts.pop("aten.convolution", None)
        assert not counts, f"products of a kind that this test does not know: {counts}"
        return {"linear": linear, "batched": batched}, answer


@pytest.fixture(scope="module", params=tiny_models.NAMES)
def counted(request: pytest.FixtureRequest) -> tuple[str, Counted]:
    """A tiny model's name and what was counted of it."""
    return request.param, Counted(request.param)


def recurrent_flops(mix: LayerMix) -> int:
    return sum(layer.recurrent.token_flops for layer in mix.layers if layer.recurrent)


def test_products_with_weights_are_those_that_are_computed(counted: tuple[str, Counted]) -> None:
    """Every linear layer counts, of the experts only those that a token uses, exactly."""
    _, found = counted
    formula, mix = work_formula(found.config), read_layers(found.config)
    linear = formula.token_flops - recurrent_flops(mix)
    head = 2 * formula.head.products
    assert found.step["linear"] == linear + head
    assert found.prefill["linear"] == PROMPT_TOKENS * linear + found.logits * head


def test_attention_of_a_decode_step_is_what_is_computed(counted: tuple[str, Counted]) -> None:
    """A step's query sees every token so far and itself, or a window of them."""
    name, found = counted
    formula, mix = work_formula(found.config), read_layers(found.config)
    step = formula.of(prompt_tokens=PROMPT_TOKENS, new_tokens=2)
    attention = step.decode_flops - formula.token_flops - 2 * formula.head.products
    read_out = 0
    if tiny_models.model_type(name) in READ_BY_PRODUCT:
        states = [layer.recurrent.state_elements for layer in mix.layers if layer.recurrent]
        read_out = 2 * sum(states)
    assert found.step["batched"] == attention + read_out


def test_attention_of_a_prefill_is_the_triangle_of_the_square(
    counted: tuple[str, Counted],
) -> None:
    """Eager attention computes the whole square; of it the causal triangle is work."""
    _, found = counted
    mix = read_layers(found.config)
    if any(layer.recurrent and layer.recurrent.state_elements for layer in mix.layers):
        pytest.skip("its recurrence is computed by products too")
    formula = work_formula(found.config)
    square = sum(pair_flops for pair_flops, _ in formula.attention) * PROMPT_TOKENS**2
    assert found.prefill["batched"] == square
    prefill = formula.of(prompt_tokens=PROMPT_TOKENS, new_tokens=1).prefill_flops
    attention = prefill - PROMPT_TOKENS * formula.token_flops - 2 * formula.head.products
    triangle = sum(
        pair_flops * sum(min(place + 1, window or place + 1) for place in range(PROMPT_TOKENS))
        for pair_flops, window in formula.attention
    )
    assert attention == triangle
