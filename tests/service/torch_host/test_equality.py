"""Every architecture type in slots against transformers' own generate, token by token."""

from collections.abc import Iterator

import pytest
import torch
from transformers import DynamicCache

from model_registry.architecture import MODEL_TYPES
from model_registry.footprint import predict
from service.core.events import StateBytes
from service.torch_host.slot_model import SlotModel
from support import oracle, tiny_models
from support.oracle import Answer, assert_same

LENGTHS = (1, 7, 8, 31, 50)


@pytest.fixture(params=tiny_models.NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(params=["compiled", "eager"])
def model(name, tiny_model, request) -> SlotModel:
    return tiny_model(name, kernels=request.param)


@pytest.fixture
def expected(name, tiny_answers) -> list[Answer]:
    return tiny_answers(name)


@pytest.fixture
def poisoned_allocator() -> Iterator[None]:
    """Fill every uninitialized tensor with NaN, as memory that another request left could be."""
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(mode=False)


def test_every_served_type_is_tested():
    """No model type is served that is not held against transformers here or in test_loading."""
    tested = {tiny_models.model_type(name) for name in tiny_models.NAMES}

    assert set(MODEL_TYPES) - tested == {"qwen3_5", "recurrent_gemma"}


def test_answers_vary(expected):
    """The questions are worth asking: a model that repeats one token would hide a broken state."""
    tokens = [answer.tokens for answer in expected]

    assert sum(map(len, map(set, tokens))) > sum(map(len, tokens)) / 2


def test_alone_equals_generate(model, expected):
    """One request, prefilled whole, answers what transformers' generate answers."""
    for answer in expected:
        assert_same(oracle.alone(model, answer), answer)


@pytest.mark.parametrize("seed", [1, 2])
def test_batched_equals_generate(model, expected, seed):
    """Requests that join, leave and are cancelled at random change nobody else's answer."""
    for found, answer in zip(oracle.crowded(model, expected, seed=seed), expected, strict=True):
        assert_same(found, answer)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_equal_the_whole(model, expected, chunk):
    """A prompt prefilled in chunks of any size gives each token's logits, and then the answer."""
    answer = max(expected, key=lambda a: len(a.prompt))
    whole, part = (model.take(prompt_tokens=len(answer.prompt)) for _ in range(2))

    once = model.prefill(whole, answer.prompt, every_logit=True)
    chunks = [answer.prompt[i : i + chunk] for i in range(0, len(answer.prompt), chunk)]
    parts = torch.cat([model.prefill(part, ids, every_logit=True) for ids in chunks])
    model.release(whole)
    model.release(part)

    torch.testing.assert_close(parts, once, atol=oracle.TOLERANCE, rtol=0)
    assert_same(oracle.alone(model, answer, chunk=chunk), answer)


@pytest.mark.usefixtures("poisoned_allocator")
def test_no_state_leaks(model, expected):
    """NaN in all memory that no live token owns, after every step, never reaches an answer."""
    found = oracle.crowded(model, expected, seed=3, between_steps=model.poison)

    for one, answer in zip(found, expected, strict=True):
        assert_same(one, answer)


def test_a_model_loading_meanwhile_changes_nothing(model, expected):
    """Another thread that loads a model sets torch's process-wide default element type."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = oracle.alone(model, expected[0], chunk=3)
    finally:
        torch.set_default_dtype(torch.float32)

    assert_same(found, expected[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", ["compiled", "eager"])
def test_state_bytes_are_predicted(name, tiny_model, dtype, kernels):
    """At five lengths the live bytes of each kind are those that the registry predicts."""
    model = tiny_model(name, dtype, kernels=kernels)
    config = tiny_models.config(name).to_dict()
    for tokens in LENGTHS:
        slot = model.take()
        model.prefill(slot, list(range(3, 3 + tokens)))
        state = model.state_bytes(slot)
        model.release(slot)

        predicted = predict(config, context_tokens=tokens, dtype=dtype)
        assert state.attention_kv_bytes == predicted.attention_kv_bytes
        assert state.window_kv_bytes == predicted.window_kv_bytes
        assert state.ssm_state_bytes == predicted.ssm_state_bytes
        assert state.conv_state_bytes == predicted.conv_state_bytes
        assert state.reserved_bytes >= predicted.state_bytes


def test_state_bytes_equal_transformers_cache(name, model):
    """The live bytes are those of the tensors in transformers' own cache, one step at a time."""
    network = tiny_models.network(name)
    for tokens in (3, 12):
        slot = model.take()
        model.prefill(slot, list(range(3, 3 + tokens)))
        state = model.state_bytes(slot)
        model.release(slot)

        assert total(state) == cached_bytes(network, tokens)


def total(state: StateBytes) -> int:
    return (
        state.attention_kv_bytes
        + state.window_kv_bytes
        + state.ssm_state_bytes
        + state.conv_state_bytes
    )


@torch.inference_mode()
def cached_bytes(network: torch.nn.Module, tokens: int) -> int:
    cache = DynamicCache(config=network.config)
    argument = "cache_params" if network.config.model_type in MAMBAS else "past_key_values"
    network(torch.arange(3, 3 + tokens)[None], use_cache=True, **{argument: cache})
    tensors = []
    for layer in cache.layers:
        tensors += [getattr(layer, "keys", None), getattr(layer, "values", None)]
        tensors += [*getattr(layer, "conv_states", {}).values()]
        tensors += [*getattr(layer, "recurrent_states", {}).values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


MAMBAS = ("mamba", "mamba2", "falcon_mamba")
