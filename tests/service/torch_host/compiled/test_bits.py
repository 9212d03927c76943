"""A token's logits are the same to the bit, whatever shares its pass, however prompts are cut."""

import random
from itertools import pairwise

import pytest
import torch

from service.torch_host.compiled.model import CompiledModel
from service.torch_host.weights.loading import load
from support import tiny_models

PROMPT = random.Random(5).choices(range(3, 100), k=90)
#: LongRoPE rotates a token by the length of the chunk's end, so cutting changes what is asked.
NAMES = tuple(name for name in tiny_models.NAMES if "longrope" not in name)


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request) -> str:
    return request.param


@pytest.fixture(params=NAMES)
def model(request, dtype, tiny_model) -> CompiledModel:
    return tiny_model(request.param, dtype, kernels="compiled")


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "mamba2", "jamba-experts"])
def test_quantized_matrices_change_no_bit(name, quantization, tiny_folder):
    """Neither cuts nor neighbours are seen in the logits of a quantized model."""
    resolved = tiny_models.quantized(name, tiny_folder(name), quantization)
    model = load(resolved, slots=3, progress=lambda _: None)
    slots = [model.take() for _ in range(2)]
    cuts = [0, 1, 7, 90]
    parts = [model.prefill(slots[0], PROMPT[a:b], every_logit=True) for a, b in pairwise(cuts)]
    model.prefill(slots[1], PROMPT[:89])
    together = model.decode([slots[1], model.take()], [PROMPT[89], PROMPT[3]])

    model.release(slots[0])
    expected = whole(model)
    assert torch.equal(torch.cat(parts), expected)
    assert torch.equal(together[0], expected[-1])


def whole(model: CompiledModel) -> torch.Tensor:
    slot = model.take()
    logits = model.prefill(slot, PROMPT, every_logit=True)
    model.release(slot)
    return logits


def test_cutting_a_prompt_changes_no_bit(model):
    """Chunks of one, of a few and of many tokens give the logits of the prompt in one piece."""
    slot = model.take()
    cuts = [0, 1, 2, 9, 25, 26, 70, 90]
    parts = [model.prefill(slot, PROMPT[a:b], every_logit=True) for a, b in pairwise(cuts)]
    model.release(slot)

    assert torch.equal(torch.cat(parts), whole(model))


def test_neighbours_change_no_bit(model):
    """Sequences that decode together get the logits that each gets alone."""
    lengths = (3, 64, 65, 17)
    slots = [model.take() for _ in lengths]
    for slot, length in zip(slots, lengths, strict=True):
        model.prefill(slot, PROMPT[:length])
    together = torch.stack([model.decode(slots, PROMPT[step : step + 4]) for step in range(5)])
    for slot in slots:
        model.release(slot)

    for row, length in enumerate(lengths):
        slot = model.take()
        model.prefill(slot, PROMPT[:length])
        alone = [model.decode([slot], [PROMPT[step + row]])[0] for step in range(5)]
        model.release(slot)
        assert torch.equal(torch.stack(alone), together[:, row])


@pytest.mark.parametrize(
    "name", ["llama", "mamba", "mamba2", "falcon_h1", "lfm2", "qwen3_next", "phimoe"]
)
def test_threads_change_no_bit(name, dtype):
    """Three threads give the logits of one."""
    element = getattr(torch, dtype)
    found = []
    for threads in (1, 3):
        network = tiny_models.network(name, dtype=element)
        model = tiny_models.compiled(network, name, slots=2, threads=threads)
        found.append(whole(model))

    assert torch.equal(*found)


def test_long_contexts_are_divided_without_changing_a_bit(tiny_model):
    """Keys of a long context that several threads read are summed as one thread sums them."""
    model = tiny_model("llama", kernels="compiled")
    tokens = random.Random(6).choices(range(3, 100), k=2500)
    together, apart = model.take(), model.take()
    once = model.prefill(together, tokens, every_logit=True)
    model.prefill(apart, tokens[:-1])
    last = model.decode([apart], tokens[-1:])[0]
    model.release(together)
    model.release(apart)

    assert torch.equal(last, once[-1])
