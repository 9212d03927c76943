"""A slot that was restored goes on to the bit as the one that was copied."""

import random

import pytest
import torch

from service.torch_host.compiled.model import CompiledModel
from service.torch_host.compiled.state_copies import BLOCK_TOKENS
from service.torch_host.weights.loading import load
from support import tiny_models

PROMPT = random.Random(6).choices(range(3, 100), k=200)
NAMES = tuple(name for name in tiny_models.NAMES if "longrope" not in name)
#: At a block's end, one token behind it, in the middle, before the first, and one before a block.
POSITIONS = (64, 65, 150, 5, 127)


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request) -> str:
    return request.param


@pytest.fixture(params=NAMES)
def model(request, dtype, tiny_model) -> CompiledModel:
    return tiny_model(request.param, dtype, kernels="compiled")


def copied(model, slot, tokens):
    """What the cache keeps of a slot."""
    copies = model.copies
    blocks = [copies.copy_block(slot, index) for index in range(tokens // BLOCK_TOKENS)]
    return blocks, copies.copy_snapshot(slot)


def live_state(model, slot):
    """All state that a later token may read: by group the live keys and values, and the states."""
    copies, length = model.copies, model.length_tokens(slot)
    found = [state.clone() for state in model._slots.states(slot)]
    for group in model._slots.groups:
        first = max(0, length - group.window_tokens + 1) if group.window_tokens else 0
        held = range(first - int(group.dropped[slot]), length - int(group.dropped[slot]))
        keys, values = group.parts(slot)
        depth = 2 if keys.dtype is torch.bfloat16 else 1
        packed = keys.view(keys.shape[0], -1, group.size // depth, 16, depth)
        pairs = values.view(values.shape[0], -1, group.row_bytes[1] // values.itemsize, depth)
        found += [packed[:, token // 16, :, token % 16].clone() for token in held]
        found += [pairs[:, token // depth, : group.size, token % depth].clone() for token in held]
    assert copies.snapshot_bytes(slot) > 0 or not length % BLOCK_TOKENS
    return found


def assert_equal(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)


@torch.inference_mode()
def test_a_restored_slot_continues_to_the_bit(model):
    """At every kind of position, beside poison: equal state, logits and next state."""
    for position in POSITIONS:
        source = model.take(most_tokens=len(PROMPT))
        model.prefill(source, PROMPT[:position])
        blocks, snapshot = copied(model, source, position)
        before = live_state(model, source)
        expected = model.prefill(source, PROMPT[position:], every_logit=True)
        after = live_state(model, source)
        model.release(source)
        neighbour, slot = model.take(), model.take(most_tokens=len(PROMPT))
        model.prefill(neighbour, PROMPT[7:50])
        model.copies.restore(slot, position, blocks, snapshot)
        model.poison()

        assert_equal(live_state(model, slot), before)
        if model.copies.decode_differs:
            first = model.prefill(slot, [PROMPT[position]])
        else:
            first = model.decode([neighbour, slot], [PROMPT[0], PROMPT[position]])[1]
        model.poison()
        rest = model.prefill(slot, PROMPT[position + 1 :], every_logit=True)
        assert torch.equal(torch.cat([first[None], rest]), expected)
        assert_equal(live_state(model, slot), after)
        model.release(slot)
        model.release(neighbour)


@torch.inference_mode()
def test_a_copy_is_not_changed_by_its_slot(model):
    """The slot goes on, is freed and taken by another: the copy still restores the same state."""
    source = model.take()
    model.prefill(source, PROMPT[:100])
    blocks, snapshot = copied(model, source, 100)
    expected = model.prefill(source, PROMPT[100:])
    model.release(source)
    for _ in range(2):
        slot = model.take()
        model.copies.restore(slot, 100, blocks, snapshot)
        assert torch.equal(model.prefill(slot, PROMPT[100:]), expected)
        model.release(slot)


@torch.inference_mode()
def test_sizes_are_told_before_the_copy(model):
    """The cap is kept by sizes that are known before memory is taken."""
    slot = model.take()
    for part in (PROMPT[:40], PROMPT[40:64], PROMPT[64:170]):
        model.prefill(slot, part)
        blocks, snapshot = copied(model, slot, model.length_tokens(slot))
        sizes = [sum(part.nbytes for part in block) for block in blocks]
        assert sizes == [model.copies.block_bytes] * len(blocks)
        told = model.copies.snapshot_bytes(slot)
        assert told == sum(each.nbytes for parts in snapshot for each in parts)
    model.release(slot)


@torch.inference_mode()
def test_models_with_full_attention_alone_need_no_snapshot(tiny_model):
    """Their blocks are their whole state; others continue at snapshots alone."""
    by_snapshot = {
        name: tiny_model(name, "float32", kernels="compiled").copies.by_snapshot
        for name in ("llama", "qwen3", "phi3-window", "gemma3_text", "mamba", "lfm2", "jamba")
    }

    assert [name for name, needed in by_snapshot.items() if not needed] == ["llama", "qwen3"]


@pytest.mark.parametrize("name", ["llama", "mamba2", "jamba-experts"])
@torch.inference_mode()
def test_quantized_matrices_change_nothing(name, tiny_folder):
    """The state of a quantized model is copied like any other."""
    resolved = tiny_models.quantized(name, tiny_folder(name), "int8", dtype="bfloat16")
    model = load(resolved, slots=2, progress=lambda _: None)
    slots = [model.take(), model.take()]
    model.prefill(slots[0], PROMPT[:130])
    model.copies.restore(slots[1], 130, *copied(model, slots[0], 130))

    logits = [model.prefill(slot, PROMPT[130:]) for slot in slots]
    assert torch.equal(*logits)


@torch.inference_mode()
def test_a_model_says_where_decoding_leaves_another_state(tiny_model):
    """Zamba2 limits its time steps in a prefill alone: an answer's state is not a prompt's."""
    for name, differs in (("zamba2", True), ("mamba2", False), ("llama", False)):
        model = tiny_model(name, "float32", kernels="compiled")
        logits = []
        for step in (model.prefill, lambda slot, ids, model=model: model.decode([slot], ids)):
            slot = model.take()
            model.prefill(slot, PROMPT[:9])
            step(slot, PROMPT[9:10])
            logits.append(model.prefill(slot, PROMPT[10:20]))
            model.release(slot)

        assert model.copies.decode_differs == differs
        assert torch.equal(*logits) == (not differs)
