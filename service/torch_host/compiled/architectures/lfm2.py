"""LFM2: short convolutions between two gates, and attention in some of the layers."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import add_attention
from service.torch_host.compiled.blocks.rotary import angles_of
from service.torch_host.compiled.formats.floats import FLOAT32
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import Activation, act_and_mul
from service.torch_host.compiled.ops.convolution import convolution


def assemble_lfm2(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """LFM2."""
    config, model = a.config, network.model
    head = a.begin(model.embed_tokens, network.lm_head)
    angles = angles_of(a.program, model.rotary_emb)
    for layer in model.layers:
        x = a.normed(layer.operator_norm.weight, config.norm_eps)
        if layer.is_attention_layer:
            add_attention(a, x, layer.self_attn, angles=angles)
        else:
            _add_convolution(a, x, layer.conv)
        mlp = layer.feed_forward
        x = a.normed(layer.ffn_norm.weight, config.norm_eps)
        width = mlp.w1.out_features
        a.add(a.gated_mlp(x, a.pack(mlp.w1, mlp.w3), width, Activation.SILU), a.pack(mlp.w2))
    a.finish(model.embedding_norm.weight, config.norm_eps, head)


def _add_convolution(a: Assembly, x: Buffer, mixer: Any) -> None:  # noqa: ANN401
    """`out_proj(c * convolution(b * x))`, where one product makes b, c and x."""
    program, width = a.program, a.width
    weight = mixer.conv.weight.squeeze(1)
    both = a.project(x, a.pack(mixer.in_proj), "gates and inputs")
    before, after = both.columns(0, width), both.columns(width, width)
    inputs = program.buffer("inputs of convolution", width)
    written = both.columns(2 * width, width)
    act_and_mul(program, before, written, inputs, Activation.IDENTITY, kind=FLOAT32)
    convolved = program.buffer("convolved", width)
    state = a.slots.convolution(weight.shape[0], weight.shape[1], weight.dtype)
    convolution(program, inputs, convolved, weight, mixer.conv.bias, state, silu=False)
    opened = program.operand_buffer("opened", width)
    act_and_mul(program, after, convolved, opened, Activation.IDENTITY)
    a.add(opened, a.pack(mixer.out_proj))
