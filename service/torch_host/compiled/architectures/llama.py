"""Llama and similar architectures: attention, then a gated MLP, each on the normalized stream."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import add_attention
from service.torch_host.compiled.blocks.rotary import angles_of
from service.torch_host.compiled.ops.activations import activation_named


def assemble_llama(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Llama, SmolLM2; Qwen2, whose layers may have windows; Qwen3, which normalizes heads."""
    config, model = a.config, network.model
    function = activation_named(config.hidden_act)
    head = a.begin(model.embed_tokens, network.lm_head)
    angles = angles_of(a.program, model.rotary_emb)
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        x = a.normed(layer.input_layernorm.weight, config.rms_norm_eps)
        window = getattr(attention, "sliding_window", None)
        add_attention(a, x, attention, angles=angles, window_tokens=window)
        x = a.normed(layer.post_attention_layernorm.weight, config.rms_norm_eps)
        a.add_gated_mlp(x, mlp, config.intermediate_size, function)
    a.finish(model.norm.weight, config.rms_norm_eps, head)
