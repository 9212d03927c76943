"""Zamba2: Mamba-2's mixers, some of which also take the output of a shared transformer block.

A few blocks of attention and MLP are used in rotation, each use with its own low-rank adapters
(arXiv 2411.15242). They take the embeddings beside the stream, and their output enters the next
mixer, not the stream.
"""

from typing import Any, NamedTuple

from service.torch_host.compiled.blocks.assembly import Assembly, free
from service.torch_host.compiled.blocks.attention import attention_of, heads_of
from service.torch_host.compiled.blocks.mamba2 import add_mamba2
from service.torch_host.compiled.blocks.rotary import angles_of
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import act_and_mul, activation_named
from service.torch_host.compiled.ops.linear import linear
from service.torch_host.compiled.ops.rows import as_operand, move
from service.torch_host.compiled.packing import Packed


class _Block(NamedTuple):
    """Matrices shared by all uses of a block."""

    qkv: Packed
    output: Packed
    gate_up: Packed
    down: Packed


def assemble_zamba2(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Zamba2."""
    config, model = a.config, network.model
    # The stream and the embeddings lie side by side, as a block's first norm reads them.
    both = a.program.buffer("stream and embeddings", 2 * a.width)
    a.stream = both.columns(0, a.width)
    head = a.begin(model.embed_tokens, network.lm_head)
    move(a.program, a.stream, both.columns(a.width, a.width))
    angles = angles_of(a.program, model.rotary_emb) if config.use_mem_rope else None
    blocks: dict[int, _Block] = {}
    uses = 0
    for layer in model.layers:
        if hasattr(layer, "shared_transformer"):
            decoder, x = layer.mamba_decoder, a.program.buffer("stream and block", a.width)
            block = _block(a, layer.shared_transformer, blocks)
            made = _used(a, both, layer.shared_transformer, block, angles, uses)
            move(a.program, a.stream, x)
            a.add(as_operand(a.program, made, "made by block"), a.pack(layer.linear), to=x)
            uses += 1
        else:
            decoder, x = layer, a.stream
        x = a.normed(decoder.input_layernorm.weight, config.rms_norm_eps, x=x)
        add_mamba2(a, x, decoder.mamba)
    a.finish(model.final_layernorm.weight, config.rms_norm_eps, head)


def _block(a: Assembly, shared: Any, blocks: dict[int, _Block]) -> _Block:  # noqa: ANN401
    """Pack a block when it is first used; its modules in later layers hold the same weights."""
    attention, mlp = shared.self_attn, shared.feed_forward
    layers = (
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        mlp.gate_up_proj,
        mlp.down_proj,
    )
    key = id(attention.q_proj.weight)
    if key not in blocks:
        blocks[key] = _Block(a.pack(*layers[:3]), *(a.pack(layer) for layer in layers[3:]))
    free(*layers)
    return blocks[key]


def _used(
    a: Assembly,
    both: Buffer,
    shared: Any,  # noqa: ANN401 - a transformers module
    block: _Block,
    angles: Buffer | None,
    use: int,
) -> Buffer:
    """Output of a block for the stream and the embeddings, with one use's adapters; float32."""
    config, attention, mlp = a.config, shared.self_attn, shared.feed_forward
    heads = heads_of(a, attention)
    x = a.normed(shared.input_layernorm.weight, config.rms_norm_eps, x=both)
    qkv = a.project(x, block.qkv, "queries, keys and values")
    if config.use_shared_attention_adapter:
        adapters = (
            attention.linear_q_adapter_list[use],
            attention.linear_k_adapter_list[use],
            attention.linear_v_adapter_list[use],
        )
        keys = heads.keys * heads.size
        widths = [heads.queries * heads.size, keys, keys]
        _adapt(a, x, adapters, qkv, widths)
    mixed = attention_of(a, qkv, heads, angles=angles, scale=attention.scaling)
    mixed = a.project(mixed, block.output, "made by attention")
    x = a.normed(shared.pre_ff_layernorm.weight, config.rms_norm_eps, x=mixed)
    width = config.intermediate_size
    gate_up = a.project(x, block.gate_up, "gate and up")
    _adapt(a, x, (mlp.gate_up_proj_adapter_list[use],), gate_up, [2 * width])
    gates, ups = gate_up.columns(0, width), gate_up.columns(width, width)
    gated = a.program.operand_buffer("gated by MLP", width)
    act_and_mul(a.program, gates, ups, gated, activation_named(config.hidden_act))
    return a.project(gated, block.down, "made by MLP")


def _adapt(a: Assembly, x: Buffer, adapters: Any, out: Buffer, widths: list[int]) -> None:  # noqa: ANN401
    """Add the adapters' outputs for `x` to their columns of `out`, side by side."""
    narrow = a.pack(*(down for down, _ in adapters))
    inner = as_operand(a.program, a.project(x, narrow, "adapters"), "in adapters")
    rank = a.config.adapter_rank
    column = 0
    for index, ((_, up), width) in enumerate(zip(adapters, widths, strict=True)):
        part = inner.columns(index * rank, rank, element_bytes=a.program.kind.bytes)
        linear(a.program, part, a.pack(up), out.columns(column, width), add=True)
        column += width
