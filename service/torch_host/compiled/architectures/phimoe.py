"""Phi-3.5-MoE: layer norms with biases, and two of many experts for each token."""

from typing import Any

import torch

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import add_attention
from service.torch_host.compiled.blocks.experts import add_experts
from service.torch_host.compiled.blocks.rotary import angles_of
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import activation_named
from service.torch_host.compiled.ops.experts import Routing, Scoring
from service.torch_host.compiled.ops.rotary import angles


def assemble_phimoe(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Phi-3.5-MoE."""
    config, model = a.config, network.model
    function = activation_named(config.hidden_act)
    head = a.begin(model.embed_tokens, network.lm_head)
    turns = _angles(a, model.rotary_emb)
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        x = _normed(a, layer.input_layernorm)
        add_attention(a, x, attention, angles=turns, window_tokens=config.sliding_window)
        routing = Routing(
            config.num_local_experts,
            config.num_experts_per_tok,
            Scoring.SPARSE_MIXER,
            jitter=config.router_jitter_noise,
        )
        x = _normed(a, layer.post_attention_layernorm)
        add_experts(a, x, mlp.router, mlp.experts, routing, function)
    norm = model.norm
    a.finish(norm.weight, config.rms_norm_eps, head, bias=norm.bias, layer_norm=True)


def _normed(a: Assembly, norm: torch.nn.LayerNorm) -> Buffer:
    return a.normed(norm.weight, norm.eps, bias=norm.bias, layer_norm=True)


def _angles(a: Assembly, rotary: Any) -> Buffer:  # noqa: ANN401 - a transformers module
    """Angles as transformers computes them: beyond the switch only the scale differs."""
    parameters = rotary.config.rope_parameters
    if parameters["rope_type"] == "default":
        return angles_of(a.program, rotary)
    frequencies, _ = rotary.rope_init_fn(rotary.config)
    return angles(
        a.program,
        "angles",
        frequencies,
        factor=parameters["short_mscale"],
        long_frequencies=frequencies,
        long_factor=parameters["long_mscale"],
    )
