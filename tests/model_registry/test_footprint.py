"""Predicted bytes by hand: the formulas, without transformers."""

import pytest

from model_registry.catalog import load_catalog
from model_registry.footprint import predict

CATALOG = load_catalog()


def architecture(model):
    return CATALOG.entries[model].spec.architecture


def test_attention_keeps_keys_and_values_of_each_token():
    """SmolLM2 135M: 30 layers x 2 x 3 heads x 64 x 2 bytes are 23,040 bytes a token."""
    assert predict(architecture("smollm2-135m-instruct"), context_tokens=100).state_bytes == (
        100 * 23_040
    )


def test_ssm_state_does_not_grow():
    """Codestral Mamba keeps 64 layers of 128 heads x 64 x 128 in float32, at any length."""
    for tokens in (1, 1000, 256_000):
        footprint = predict(architecture("codestral-mamba-7b"), context_tokens=tokens)

        assert footprint.ssm_state_bytes == 64 * 128 * 64 * 128 * 4
        assert footprint.conv_state_bytes == 64 * (8192 + 2 * 8 * 128) * 4 * 2


def test_jamba_needs_4_gb_at_256k():
    """Jamba at 256k tokens keeps the 4 GB of keys and values that its paper reports."""
    footprint = predict(architecture("jamba-1.5-mini"), context_tokens=256 * 1024)

    assert footprint.attention_kv_bytes == 4 * 1024**3


@pytest.mark.parametrize(("tokens", "kept"), [(7, 7), (8, 7), (500, 7)])
def test_window_keeps_one_token_less_than_it_spans(tokens, kept):
    """A window of 8 keeps 7 tokens: the eighth is the one that is being computed."""
    config = architecture("smollm2-135m-instruct") | {"model_type": "phi3", "sliding_window": 8}
    footprint = predict(config, context_tokens=tokens)

    assert footprint.window_kv_bytes == 30 * 2 * 3 * 64 * 2 * kept
    assert footprint.attention_kv_bytes == 0


def test_float32_doubles_all_but_the_ssm_state():
    """The recurrent state is float32 in a bf16 model too, so only the rest doubles."""
    half = predict(architecture("granite-4.0-h-350m"), context_tokens=64, dtype="bfloat16")
    full = predict(architecture("granite-4.0-h-350m"), context_tokens=64, dtype="float32")

    assert full.ssm_state_bytes == half.ssm_state_bytes
    for part in ("weights_bytes", "attention_kv_bytes", "conv_state_bytes"):
        assert getattr(full, part) == 2 * getattr(half, part)


def test_nothing_is_kept_of_no_tokens_but_the_fixed_state():
    """At length 0 only the fixed-size state is there."""
    footprint = predict(architecture("falcon-h1-0.5b-instruct"), context_tokens=0)

    assert footprint.attention_kv_bytes == 0
    assert footprint.ssm_state_bytes > 0


def test_negative_length_is_refused():
    """A negative length is a mistake, not a prediction."""
    with pytest.raises(ValueError, match="-1, not a length"):
        predict(architecture("mamba-130m"), context_tokens=-1)
