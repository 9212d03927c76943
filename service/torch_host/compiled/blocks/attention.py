"""The block of attention, as transformers' modules hold its weights."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.heads import Heads
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops import attention as ops
from service.torch_host.compiled.ops.attention import HeadNorms
from service.torch_host.compiled.packing import Packed


def add_attention(
    a: Assembly,
    x: Buffer,
    attention: Any,  # noqa: ANN401 - a transformers module
    *,
    angles: Buffer | None,
    qkv: Packed | None = None,
    window_tokens: int | None = None,
    scale: float = 1.0,
) -> None:
    """Add the attention of `x`, times `scale`, to the stream.

    Without `qkv` the module has `q_proj`, `k_proj` and `v_proj`. Queries and keys are normalized if
    it says how.
    """
    if qkv is None:
        qkv = a.pack(attention.q_proj, attention.k_proj, attention.v_proj)
    q_norm, k_norm = (
        getattr(attention, f"{which}_norm", getattr(attention, f"{which}_layernorm", None))
        for which in "qk"
    )
    mixed = attention_of(
        a,
        a.project(x, qkv, "queries, keys and values"),
        heads_of(a, attention, window_tokens=window_tokens),
        angles=angles,
        scale=attention.scaling,
        norms=None
        if q_norm is None or k_norm is None
        else HeadNorms(q_norm.weight, k_norm.weight, q_norm.variance_epsilon),
    )
    output = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
    a.add_layer(mixed, output, scale=scale)


def heads_of(a: Assembly, attention: Any, *, window_tokens: int | None = None) -> Heads:  # noqa: ANN401
    """Heads of a layer as the config says, with a place for its keys and values."""
    config = a.config
    return a.slots.attention(
        config.num_attention_heads,
        config.num_key_value_heads,
        attention.head_dim,
        window_tokens=window_tokens,
    )


def attention_of(
    a: Assembly,
    projected: Buffer,
    heads: Heads,
    *,
    angles: Buffer | None,
    scale: float,
    gated: bool = False,
    norms: HeadNorms | None = None,
) -> Buffer:
    """Attention of `projected`, an operand: its rows are queries, gates if any, keys, values."""
    queries, keys = heads.queries * heads.size, heads.keys * heads.size
    before_keys = 2 * queries if gated else queries
    scaled = ops.append_kv(
        a.program,
        projected.columns(0, queries),
        projected.columns(before_keys, keys),
        projected.columns(before_keys + keys, keys),
        heads,
        scale=scale,
        angles=angles,
        norms=norms,
    )
    gates = projected.columns(queries, queries) if gated else None
    return ops.attention(a.program, scaled, heads, gates=gates)
