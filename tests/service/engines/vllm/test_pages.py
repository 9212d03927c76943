"""vLLM's blocks by formula; the numbers are what vLLM 0.32 reported for the same models."""

import pytest

from model_registry.catalog import load_catalog
from service.engines.vllm.pages import vllm_pages

CATALOG = load_catalog()


def pages(model, **options):
    """The blocks of a model of the catalogue."""
    spec = CATALOG.entries[model].spec
    return vllm_pages(spec.architecture, **{"max_tokens": 2048} | options)


@pytest.mark.parametrize(
    ("model", "held_bytes", "blocks", "concurrency"),
    [
        ("smollm2-135m-instruct", 2**30, 364, 22.75),
        ("reference-ssm", 2**28, 441, 441.0),
        ("reference-hybrid", 2**28, 2048, 292.57142857142856),
    ],
)
def test_blocks_are_those_that_vllm_reported(model, held_bytes, blocks, concurrency):
    """`num_gpu_blocks` and `kv_cache_max_concurrency` for 2,048 tokens on the CPU."""
    known = pages(model)

    assert held_bytes // known.block_bytes == blocks
    assert blocks / known.blocks(2048) == concurrency


def test_the_block_of_a_hybrid_holds_a_state():
    """vLLM: "Setting attention block size to 512 tokens", "Padding mamba page size by 29.29%"."""
    known = pages("reference-hybrid")
    state_bytes = (known.ssm_state_bytes + known.conv_state_bytes) // 3

    assert known.block_tokens == 512
    assert round(100 * (known.page_bytes / state_bytes - 1), 2) == 29.29


@pytest.mark.parametrize("model", sorted(CATALOG.entries))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_sequence_holds_more_than_it_reserves(model, device):
    """Padding is never negative."""
    known = pages(model, device=device)
    if known is None:
        pytest.skip("vLLM's rules for this model are not known here")
    for tokens in (1, 127, 128, 129, 2048):
        live_bytes = known.token_bytes * tokens + known.ssm_state_bytes + known.conv_state_bytes
        assert live_bytes <= known.reserved_bytes(tokens)


def test_a_window_that_slides_is_not_guessed():
    """Blocks before the window are given back; when, is not known here."""
    config = {
        "model_type": "phi3", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "sliding_window": 512, "max_position_embeddings": 4096,
    }  # fmt: skip

    assert vllm_pages(config, max_tokens=2048) is None
    assert vllm_pages(config, max_tokens=256) is not None
