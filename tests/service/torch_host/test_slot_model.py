"""A hosted model's slots, memory and logits."""

from pathlib import Path

import pytest
import torch

import model_registry.reference
from service.torch_host.compiled.codegen.cpu_features import KERNEL_PATH
from service.torch_host.weights.loading import load
from support import oracle, tiny_models

TRIO = Path(model_registry.reference.__file__).parent / "weights"


def test_logits_are_float32_in_the_order_asked_for(tiny_model):
    """Whatever the weights' type and the rows' order: one float32 row a slot, as asked."""
    model = tiny_model("falcon_h1", "bfloat16")
    slots = [model.take() for _ in range(3)]
    last = [model.prefill(slot, [5 + slot, 9, 7]) for slot in slots]
    every = model.prefill(slots[0], [4, 5], every_logit=True)

    forward = model.decode(slots, [3, 4, 5])
    for slot in slots:
        model.release(slot)

    assert [tuple(row.shape) for row in (*last, *every)] == [(128,)] * 5
    assert forward.shape == (3, 128)
    assert {forward.dtype, last[0].dtype, every.dtype} == {torch.float32}


@pytest.mark.parametrize("name", ["llama", "mamba2", "zamba2"])
def test_rows_belong_to_the_slots_asked_for(tiny_model, name):
    """Slots named in another order give the same rows in that order."""
    model = tiny_model(name)
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        slots = [model.take() for _ in range(3)]
        for index, slot in enumerate(slots):
            model.prefill(slot, [10 * index + 3, 8])
        rows = model.decode([slots[index] for index in order], [50 + index for index in order])
        found.append(rows[[order.index(index) for index in range(3)]])
        for slot in slots:
            model.release(slot)

    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0][0], found[0][1])


def test_every_slot_counts(tiny_model):
    """Taken slots are counted, their keys and values reserved, and given back on release."""
    model = tiny_model("llama")
    empty = model.memory()
    slots = [model.take() for _ in range(model.slots_total)]
    for slot in slots:
        model.prefill(slot, [3, 4, 5])
    full = model.memory()
    reserved = sum(model.state_bytes(slot).reserved_bytes for slot in slots)

    assert model.take() is None
    for slot in slots:
        model.release(slot)
    assert (empty.slots_used, full.slots_used, full.slots_total) == (0, 5, 5)
    assert full.slots_bytes == empty.slots_bytes + reserved
    assert model.memory() == empty


def test_keys_and_values_are_reserved_for_the_announced_length(tiny_model):
    """No byte more is reserved while the sequence grows to it, and some when it goes beyond."""
    model = tiny_model("llama")
    slot = model.take(most_tokens=60)
    reserved = []
    for _ in range(7):
        model.prefill(slot, [3] * 10)
        reserved.append(model.state_bytes(slot).reserved_bytes)
    model.release(slot)
    taken_again = model.take()
    model.prefill(taken_again, [3])
    unannounced = model.state_bytes(taken_again).reserved_bytes
    model.release(taken_again)

    assert len(set(reserved[:6])) == 1
    assert reserved[6] > 1.25 * reserved[5]
    assert unannounced > reserved[0]


def test_constant_states_are_reserved_at_load(tiny_model):
    """A model without attention reserves the same bytes for every slot, taken or not."""
    model = tiny_model("mamba2")
    slot = model.take()
    one = model.state_bytes(slot)
    model.release(slot)

    assert one.attention_kv_bytes == one.window_kv_bytes == 0
    assert model.memory().slots_bytes == model.slots_total * one.reserved_bytes


def test_tied_weights_count_once(tmp_path, monkeypatch):
    """Embeddings that are the output head too are counted once."""
    sizes = {}
    for tied in (False, True):
        config = tiny_models.config("llama")
        config.tie_word_embeddings = tied
        monkeypatch.setattr(tiny_models, "config", lambda _, config=config: config)
        folder = tiny_models.write("llama", tmp_path / str(tied))
        model = load(tiny_models.resolved("llama", folder), slots=1, progress=lambda _: None)
        sizes[tied] = model.memory().weights_bytes

    assert sizes[False] - sizes[True] == 128 * 64 * 4


@pytest.mark.parametrize(
    ("kernels", "path"), [("eager", "transformers-eager"), ("compiled", KERNEL_PATH)]
)
def test_the_build_says_what_answers(tiny_model, kernels, path):
    """Comparisons over time need type, versions, device and kernels."""
    build = tiny_model("llama", "bfloat16", kernels=kernels).build

    assert build.engine_version.startswith(f"torch {torch.__version__}, transformers ")
    assert (build.dtype, build.device, build.kernel_path) == ("bfloat16", "cpu", path)


def test_a_longer_neighbour_changes_no_bit(tiny_model):
    """In float32 too, how long a neighbour's sequence is does not reach the logits."""
    model = tiny_model("llama")
    found = []
    for neighbour in (2, 150):
        slots = [model.take(), model.take()]
        model.prefill(slots[0], [3, 4, 5])
        model.prefill(slots[1], [7] * neighbour)
        found.append(model.decode(slots, [6, 6])[0])
        for slot in slots:
            model.release(slot)

    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["transformer", "ssm", "hybrid"])
def test_reference_models_equal_generate(name):
    """The shipped weights answer in slots, alone and crowded, what transformers answers."""
    expected = oracle.answers(TRIO / name)
    resolved = tiny_models.resolved("llama", TRIO / name)
    model = load(resolved, slots=4, progress=lambda _: None)

    for found, answer in zip(oracle.crowded(model, expected, seed=4), expected, strict=True):
        oracle.assert_same(found, answer)


@pytest.mark.parametrize("kernels", ["eager", "compiled"])
@pytest.mark.parametrize("token", [128, 10**12, -1])
def test_a_token_beyond_the_vocabulary_fails_its_request(tiny_model, kernels, token):
    """A compiled embedding once read beyond its matrix, which ended the whole process."""
    model = tiny_model("llama", kernels=kernels)
    slot = model.take()
    with pytest.raises(IndexError):
        model.prefill(slot, [3, token])
    model.release(slot)
