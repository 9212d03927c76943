"""Quantized variants of the reference models predict text nearly as their parents do.

A variant that does not is not shipped: raise no bound here, repair or remove the variant.
"""

from functools import cache
from pathlib import Path

import pytest
import tiny_models
import torch
from torch.nn import functional
from transformers import AutoTokenizer

import model_registry.reference
from model_registry.spec import Quantization, ResolvedModel
from service.engines.torch.loading import load

TRIO = Path(model_registry.reference.__file__).parent / "weights"
TEXT = (Path(__file__).parents[5] / "docs" / "architecture.md").read_text(encoding="utf-8")

#: How much worse a variant may predict text than its parent, and its bytes: both as ratios.
BOUNDS = {"int8": (1.01, 0.6), "int4": (1.02, 0.4)}


def parent(name: str) -> ResolvedModel:
    return tiny_models.resolved("llama", TRIO / name, dtype="bfloat16")


def variant(name: str, quantization: Quantization) -> ResolvedModel:
    return tiny_models.quantized("llama", TRIO / name, quantization, dtype="bfloat16")


@cache
def plain_loss_and_bytes(name: str) -> tuple[float, int]:
    return loss_and_bytes(parent(name))


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


@pytest.mark.parametrize("quantization", BOUNDS)
@pytest.mark.parametrize("name", ["transformer", "ssm", "hybrid"])
def test_a_variant_predicts_text_as_its_parent_does(name, quantization):
    """Bits a byte within one or two per cent of bfloat16's, with few more bytes than its codes."""
    plain, plain_bytes = plain_loss_and_bytes(name)
    small, small_bytes = loss_and_bytes(variant(name, quantization))
    worse, smaller = BOUNDS[quantization]

    assert small < plain * worse
    assert small_bytes < plain_bytes * smaller
