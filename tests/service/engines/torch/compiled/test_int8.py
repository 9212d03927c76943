"""int8 variants of the reference models answer nearly as their parents do, in half the bytes."""

from pathlib import Path

import msgspec
import pytest
import tiny_models
import torch
from torch.nn import functional
from transformers import AutoTokenizer

import model_registry.reference
from model_registry.spec import ResolvedModel, Variant
from service.engines.torch.loading import load

TRIO = Path(model_registry.reference.__file__).parent / "weights"
TEXT = (Path(__file__).parents[5] / "docs" / "architecture.md").read_text(encoding="utf-8")

#: How much worse an int8 variant may predict text than its parent: bits a byte, as a ratio.
BOUND = 1.01


def parent(name: str) -> ResolvedModel:
    return tiny_models.resolved("llama", TRIO / name, dtype="bfloat16")


def int8(name: str) -> ResolvedModel:
    plain = parent(name)
    variants = {"int8": Variant(quantization="int8")}
    spec = msgspec.structs.replace(plain.spec, variants=variants)
    return msgspec.structs.replace(plain, spec=spec, variant="int8")


def loss_and_bytes(resolved: ResolvedModel) -> tuple[float, int]:
    """Nats a token of a text in windows of 250 tokens, and the bytes of the weights."""
    tokens = AutoTokenizer.from_pretrained(resolved.path)(TEXT)["input_ids"]
    model = load(resolved, slots=1, progress=lambda _: None)
    losses = []
    for first in range(0, len(tokens) - 250, 250):
        window = tokens[first : first + 250]
        slot = model.take()
        logits = model.prefill(slot, window, every_logit=True)
        model.release(slot)
        losses.append(functional.cross_entropy(logits[:-1], torch.tensor(window[1:])))
    return float(torch.stack(losses).mean()), model.memory().weights_bytes


@pytest.mark.parametrize("name", ["transformer", "ssm", "hybrid"])
def test_int8_predicts_text_as_its_parent_does(name):
    """Bits a byte within one per cent of bfloat16's, with little more than half the bytes."""
    plain, plain_bytes = loss_and_bytes(parent(name))
    small, small_bytes = loss_and_bytes(int8(name))

    assert small < plain * BOUND
    assert small_bytes < plain_bytes * 0.6
