"""The predictions against what transformers really builds and caches, for every model type."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
import transformers as hf
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig

from model_registry.architecture import MODEL_TYPES, read_layers
from model_registry.footprint import predict

SMALL = {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 4}
HEADS = {"intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 2}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 8,
    "head_dim": 32,
}
NEMOTRON = {
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "head_dim": 16,
}
NO_LAYERS = {key: value for key, value in SMALL.items() if key != "num_hidden_layers"}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": hf.LlamaConfig(**SMALL, **HEADS),
    "llama tied, biased, wide heads": hf.LlamaConfig(
        **SMALL, **HEADS, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=24
    ),
    "phi3": hf.Phi3Config(**SMALL, **HEADS, pad_token_id=0),
    "phi3 window": hf.Phi3Config(**SMALL, **HEADS, pad_token_id=0, sliding_window=32),
    "phimoe": hf.PhimoeConfig(**SMALL, **HEADS, num_local_experts=4),
    "phimoe biased": hf.PhimoeConfig(
        **SMALL, **HEADS, num_local_experts=4, attention_bias=True, lm_head_bias=True
    ),
    "gemma3_text": hf.Gemma3TextConfig(
        **SMALL | {"num_hidden_layers": 7}, **HEADS, head_dim=32, sliding_window=32
    ),
    "qwen2": hf.Qwen2Config(**SMALL, **HEADS),
    "qwen2 window": hf.Qwen2Config(
        **SMALL, **HEADS, use_sliding_window=True, sliding_window=32, max_window_layers=2
    ),
    "qwen3": hf.Qwen3Config(**SMALL, **HEADS, head_dim=24),
    "mamba": hf.MambaConfig(**SMALL),
    "mamba biased": hf.MambaConfig(**SMALL, use_bias=True, use_conv_bias=False, expand=3),
    "falcon_mamba": hf.FalconMambaConfig(**SMALL, state_size=8, tie_word_embeddings=False),
    "falcon_mamba as published": hf.FalconMambaConfig(**SMALL, expand=16, intermediate_size=128),
    "mamba2": hf.Mamba2Config(**SMALL, num_heads=8, head_dim=16, state_size=16, n_groups=2),
    "mamba2 biased": hf.Mamba2Config(
        **SMALL, num_heads=8, head_dim=16, state_size=16, n_groups=2, use_bias=True
    ),
    "jamba": hf.JambaConfig(
        **SMALL, **HEADS, num_experts=4, attn_layer_period=4, attn_layer_offset=2
    ),
    "jamba dense": hf.JambaConfig(
        **SMALL, **HEADS, num_experts=1, attn_layer_period=2, attn_layer_offset=1
    ),
    "falcon_h1": hf.FalconH1Config(**SMALL, **HEADS, **MAMBA2, mamba_d_ssm=128),
    "falcon_h1 normed, biased": hf.FalconH1Config(
        **SMALL,
        **HEADS,
        **MAMBA2,
        mamba_d_ssm=128,
        mamba_rms_norm=True,
        mamba_proj_bias=True,
        mlp_bias=True,
        attention_bias=True,
        tie_word_embeddings=True,
    ),
    "falcon_h1 output biased": hf.FalconH1Config(
        **SMALL, **HEADS, **MAMBA2, mamba_d_ssm=128, projectors_bias=True
    ),
    "granitemoehybrid": hf.GraniteMoeHybridConfig(
        **SMALL,
        **HEADS,
        **MAMBA2,
        shared_intermediate_size=80,
        num_local_experts=0,
        num_experts_per_tok=0,
        layer_types=["mamba", "mamba", "attention", "mamba"],
    ),
    "granitemoehybrid experts": hf.GraniteMoeHybridConfig(
        **SMALL,
        **HEADS,
        **MAMBA2,
        num_local_experts=4,
        layer_types=["linear_attention", "full_attention"] * 2,
    ),
    "bamba": hf.BambaConfig(**SMALL, **HEADS, **MAMBA2, attn_layer_indices=[1]),
    "zamba2": hf.Zamba2Config(
        **SMALL | {"num_hidden_layers": 6},
        intermediate_size=96,
        num_attention_heads=4,
        mamba_d_state=16,
        adapter_rank=12,
        n_mamba_heads=8,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid", "mamba", "hybrid"],
    ),
    "zamba2 two blocks, attention adapters": hf.Zamba2Config(
        **SMALL | {"num_hidden_layers": 6},
        intermediate_size=96,
        num_attention_heads=4,
        mamba_d_state=16,
        mamba_ngroups=2,
        adapter_rank=12,
        n_mamba_heads=8,
        num_mem_blocks=2,
        use_shared_attention_adapter=True,
        add_bias_linear=True,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid", "mamba", "hybrid"],
    ),
    "nemotron_h": hf.NemotronHConfig(
        **NO_LAYERS, **HEADS, **NEMOTRON, layers_block_type=["mamba", "mlp", "attention", "mlp"]
    ),
    "nemotron_h experts": hf.NemotronHConfig(
        **NO_LAYERS,
        **HEADS,
        **NEMOTRON,
        n_routed_experts=4,
        moe_intermediate_size=48,
        moe_shared_expert_intermediate_size=40,
        moe_latent_size=24,
        mlp_bias=True,
        use_bias=True,
        layers_block_type=["mamba", "moe", "attention", "mlp"],
    ),
    "lfm2": hf.Lfm2Config(**SMALL, **HEADS, full_attn_idxs=[2], conv_bias=True),
    "lfm2 adjusted": hf.Lfm2Config(
        **SMALL, **HEADS, layer_types=["conv", "full_attention"] * 2, block_multiple_of=32
    ),
    "qwen3_next": hf.Qwen3NextConfig(
        **SMALL,
        **HEADS,
        **DELTA,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=40,
        mlp_only_layers=[1],
    ),
    "qwen3_5_text": hf.Qwen3_5TextConfig(**SMALL, **HEADS, **DELTA, tie_word_embeddings=True),
}
DEFAULT_SIZED: dict[str, PreTrainedConfig] = {
    "llama": hf.LlamaConfig(),
    "phi3": hf.Phi3Config(),
    "phimoe": hf.PhimoeConfig(),
    "gemma3_text": hf.Gemma3TextConfig(),
    "qwen2": hf.Qwen2Config(),
    "qwen3": hf.Qwen3Config(),
    "mamba": hf.MambaConfig(),
    "falcon_mamba": hf.FalconMambaConfig(),
    "mamba2": hf.Mamba2Config(),
    "jamba": hf.JambaConfig(),
    "falcon_h1": hf.FalconH1Config(mamba_d_ssm=None, mamba_n_heads=128),
    "granitemoehybrid": hf.GraniteMoeHybridConfig(layer_types=(["mamba"] * 7 + ["attention"]) * 4),
    "bamba": hf.BambaConfig(attn_layer_indices=[9, 18, 27]),
    "zamba2": hf.Zamba2Config(),
    "nemotron_h": hf.NemotronHConfig(),
    "lfm2": hf.Lfm2Config(full_attn_idxs=[2, 5, 8]),
    "qwen3_next": hf.Qwen3NextConfig(),
    "qwen3_5_text": hf.Qwen3_5TextConfig(),
    "qwen3_5": hf.Qwen3_5Config(),
}
LENGTHS = (1, 7, 31, 32, 90)


def test_every_readable_type_is_measured():
    """No type can be read without being compared here; RecurrentGemma keeps its state elsewhere."""
    measured = {config.model_type for config in CONFIGS.values()}

    assert set(MODEL_TYPES) - measured == {"recurrent_gemma", "qwen3_5"}


def parameters_of(config: PreTrainedConfig) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_count_is_exact(name):
    """The weights of a small model are counted to the parameter."""
    config = CONFIGS[name]

    assert read_layers(config.to_dict()).parameters == parameters_of(config)


@pytest.mark.parametrize("name", DEFAULT_SIZED)
def test_parameter_count_is_exact_at_full_size(name):
    """The weights of a model of each type's default size are counted to the parameter."""
    config = DEFAULT_SIZED[name]

    assert read_layers(config.to_dict()).parameters == parameters_of(config)


def live_bytes(config: PreTrainedConfig, tokens: int) -> dict[str, int]:
    """Bytes of the cache tensors after a forward of so many tokens, by kind."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    cache = DynamicCache(config=model.config)
    attention_free = config.model_type in ("mamba", "mamba2", "falcon_mamba")
    key = "cache_params" if attention_free else "past_key_values"
    with torch.inference_mode():
        model(torch.randint(3, 100, (1, tokens)), use_cache=True, **{key: cache})
    found = dict.fromkeys(("attention_kv", "window_kv", "ssm_state", "conv_state"), 0)
    for layer in cache.layers:
        kv = "window_kv" if getattr(layer, "is_sliding", False) else "attention_kv"
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            found[kv] += 0 if tensor is None else tensor.nbytes
        for kind, states in (("ssm_state", "recurrent_states"), ("conv_state", "conv_states")):
            for tensor in getattr(layer, states, {}).values():
                found[kind] += 0 if tensor is None else tensor.nbytes
    return {f"{kind}_bytes": size for kind, size in found.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_state_bytes_equal_the_live_cache(name):
    """At five lengths, before and beyond a window, each kind of state has the predicted bytes."""
    config = CONFIGS[name]
    for tokens in LENGTHS:
        predicted = predict(config.to_dict(), context_tokens=tokens)

        live = live_bytes(config, tokens)
        assert {kind: getattr(predicted, kind) for kind in live} == live, tokens


def test_recurrent_gemma_parameters_are_exact():
    """RecurrentGemma is read for planning: its weights are counted to the parameter."""
    config = hf.RecurrentGemmaConfig(
        **SMALL, intermediate_size=96, num_attention_heads=4, num_key_value_heads=1, lru_width=48
    )

    assert read_layers(config.to_dict()).parameters == parameters_of(config)
