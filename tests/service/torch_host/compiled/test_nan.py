"""A NaN stays one: no variant answers from broken numbers, and none reads foreign memory."""

from collections.abc import Iterator

import pytest
import torch

from service.torch_host.compiled.model import CompiledModel
from support import oracle, tiny_models
from support.oracle import Answer

VARIANTS = ("float32", "bfloat16", "int8", "int4", "gguf")
NAMES = ("llama", "mamba", "mamba2", "jamba-experts", "qwen3_next", "zamba2")
BROKEN = 77
"""The token whose embedding is NaN."""


def variant(name: str, kind: str, *, broken: bool = False, slots: int = 1) -> CompiledModel:
    """A tiny model with matrices of a kind."""
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    network = tiny_models.network(name, dtype=dtype)
    if broken:
        with torch.no_grad():
            network.get_input_embeddings().weight[BROKEN] = torch.nan
    quantization = None if kind in ("float32", "bfloat16") else kind
    return tiny_models.compiled(network, name, slots=slots, quantization=quantization)


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_nan_comes_out_as_nan(name, kind):
    """Logits before a broken token are finite, those of it and after it are all NaN.

    Activations were once quantized by their largest value without regard to NaN, so a row of NaN
    became a row of zeros and the answer token 0.
    """
    model = variant(name, kind, broken=True)
    slot = model.take()

    before = model.prefill(slot, [5, 9], every_logit=True)
    after = model.prefill(slot, [BROKEN, 3], every_logit=True)

    assert before.isfinite().all()
    assert after.isnan().all()


@pytest.fixture
def poisoned_allocator() -> Iterator[None]:
    """Fill every uninitialized tensor with NaN, as memory that another request left could be."""
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.usefixtures("poisoned_allocator")
@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_no_state_leaks(name, kind):
    """NaN in all memory that no live token owns, after every step, changes no bit of an answer."""
    model = variant(name, kind, slots=5)
    prompts = ([5, 9, 77, 3, 41], list(range(3, 43)), [8])
    asked = [Answer(prompt, [0] * 9, torch.empty(0)) for prompt in prompts]
    expected = [oracle.alone(model, answer) for answer in asked]

    found = oracle.crowded(model, asked, seed=3, between_steps=model.poison)

    for one, answer in zip(found, expected, strict=True):
        assert one.tokens == answer.tokens
        assert torch.equal(one.logits, answer.logits)
