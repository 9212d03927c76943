"""Llama and what is built like it: attention, then a gated MLP, each on the normalized stream."""

from typing import Any

from service.engines.torch.compiled.architectures.rotary_of import angles_of
from service.engines.torch.compiled.blocks import Assembly
from service.engines.torch.compiled.ops.gates import activation_named
from service.engines.torch.compiled.packing import Packed
from service.engines.torch.compiled.program import Buffer


def assemble_llama(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Llama, SmolLM2; Qwen2, whose layers may have windows; Qwen3, which normalizes heads."""
    config, model = a.config, network.model
    function = activation_named(config.hidden_act)
    head = a.begin(model.embed_tokens, network.lm_head)
    angles = angles_of(a.program, model.rotary_emb)
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        x = a.normed(layer.input_layernorm.weight, config.rms_norm_eps)
        qkv = a.pack(attention.q_proj, attention.k_proj, attention.v_proj)
        window = getattr(attention, "sliding_window", None)
        add_attention(a, x, attention, qkv, angles=angles, window_tokens=window)
        x = a.normed(layer.post_attention_layernorm.weight, config.rms_norm_eps)
        gate_up = a.pack(mlp.gate_proj, mlp.up_proj)
        gated = a.gated_mlp(x, gate_up, config.intermediate_size, function)
        a.add(gated, a.pack(mlp.down_proj))
    a.finish(model.norm.weight, config.rms_norm_eps, head)


def add_attention(
    a: Assembly,
    x: Buffer,
    attention: Any,  # noqa: ANN401 - a transformers module
    qkv: Packed,
    *,
    angles: Buffer,
    window_tokens: int | None,
) -> None:
    """Add the attention of `x` to the stream. Queries and keys are normalized if it says how."""
    config = a.config
    heads = a.slots.attention(
        config.num_attention_heads,
        config.num_key_value_heads,
        attention.head_dim,
        window_tokens=window_tokens,
    )
    normalized = hasattr(attention, "q_norm")
    mixed = a.attention(
        x,
        qkv,
        heads,
        angles=angles,
        scale=attention.scaling,
        q_norm=attention.q_norm.weight if normalized else None,
        k_norm=attention.k_norm.weight if normalized else None,
        eps=config.rms_norm_eps,
    )
    a.add(mixed, a.pack(attention.o_proj))
