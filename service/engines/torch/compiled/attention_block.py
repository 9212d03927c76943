"""Attention of queries, keys and values that an architecture has made in its own way."""

from service.engines.torch.compiled.blocks import Assembly
from service.engines.torch.compiled.ops.attention import Heads, attend, remember
from service.engines.torch.compiled.program import Buffer


def attended(
    a: Assembly, both: Buffer, heads: Heads, *, angles: Buffer | None, scale: float
) -> Buffer:
    """Attention of `both`, a row's queries, then keys, then values: an operand."""
    queries, keys = heads.queries * heads.size, heads.keys * heads.size
    remembered = remember(
        a.program,
        both.columns(0, queries),
        both.columns(queries, keys),
        both.columns(queries + keys, keys),
        heads,
        scale=scale,
        angles=angles,
    )
    return attend(a.program, remembered, heads)
