"""Attention over keys and values that lie where their slots keep them.

Keys lie 16 tokens side by side, as columns of a packed matrix, and values token by token, as its
steps: scoring and mixing are matrix products like any other. Softmax runs along the keys in
parts of 64, with the running maximum of online softmax (arXiv 1805.02867), so no buffer grows
with the context.
"""

from typing import Final, NamedTuple

import torch
from numba import njit, types

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.lanes import LANES
from service.torch_host.compiled.codegen.operand import put_operand
from service.torch_host.compiled.codegen.scalars import (
    FAST,
    exp,
    float32s,
    int64s,
    number,
    sigmoid,
    to_bf16,
    uint16s,
)
from service.torch_host.compiled.formats.registry import multiply_floats
from service.torch_host.compiled.heads import KEY_TOKENS, QUERY_TOKENS, SPLIT_TOKENS, Heads
from service.torch_host.compiled.kernel import Buffer, Float32, Kernel
from service.torch_host.compiled.ops.norms import rms_norm_row
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.uncompilable import Uncompilable

_SCORES_BYTES: Final = KEY_TOKENS * 4
#: Of one panel, 32 bits a lane.
_STEP_BYTES: Final = LANES * 4


class HeadNorms(NamedTuple):
    """Weights of root-mean-square norms of each head's queries and keys, None for no norm."""

    q: torch.Tensor | None = None
    k: torch.Tensor | None = None
    eps: float = 0.0


@njit(fastmath=FAST, error_model="numpy")
def _rotate(row, angles, half):
    values, cosines, sines = float32s(row), float32s(angles), float32s(angles + half * 4)
    for i in range(half):
        first, second = values[i], values[i + half]
        values[i] = first * cosines[i] - second * sines[i]
        values[i + half] = second * cosines[i] + first * sines[i]


@Kernel
def _append_kv(
    batch_head,
    thread,
    threads,
    q,
    q_stride,
    k,
    k_stride,
    v,
    v_stride,
    heads,
    shared,
    size,
    room,
    layer,
    field,
    angles,
    angles_stride,
    half,
    q_norm,
    k_norm,
    eps: Float32,
    scale: Float32,
    out,
    kind,
):
    fields = int64s(batch_head)
    eps, scale = number(eps), number(scale)
    tokens, positions, segments = (
        fields[batch.TOKENS],
        int64s(fields[batch.POSITIONS]),
        int64s(fields[batch.SEGMENT_OF_TOKENS]),
    )
    firsts = int64s(fields[batch.FIRST_TOKENS])
    bases, capacities = int64s(fields[field]), int64s(fields[field + 1])
    dropped = int64s(fields[field + 2])
    element = 2 if kind == 1 else 4
    row = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    work = float32s(row)
    items = tokens * heads
    for item in range(items * thread // threads, items * (thread + 1) // threads):
        token, head = item // heads, item % heads
        for query in range(head * shared, (head + 1) * shared):
            source = float32s(q + token * q_stride + query * size * 4)
            for i in range(size):
                work[i] = source[i]
            if q_norm != 0:
                rms_norm_row(row, q_norm, row, size, eps)
            if half != 0:
                _rotate(row, angles + token * angles_stride, half)
            for i in range(size):
                work[i] *= scale
            place = (head * tokens + token) * shared + query - head * shared
            put_operand(kind, row, out + place * size * element, size)
        segment = segments[token]
        index, capacity = positions[token] - dropped[segment], capacities[segment]
        keys = bases[segment] + (layer * heads + head) * capacity * (size + room) * element
        source = float32s(k + token * k_stride + head * size * 4)
        for i in range(size):
            work[i] = source[i]
        if k_norm != 0:
            rms_norm_row(row, k_norm, row, size, eps)
        if half != 0:
            _rotate(row, angles + token * angles_stride, half)
        panel = keys + index // 16 * size * 16 * element + index % 16 * 4
        if kind == 1:
            for i in range(size // 2):
                pair = uint16s(panel + i * _STEP_BYTES)
                pair[0] = to_bf16(work[2 * i])
                pair[1] = to_bf16(work[2 * i + 1])
        else:
            for i in range(size):
                float32s(panel + i * _STEP_BYTES)[0] = work[i]
        value = float32s(v + token * v_stride + head * size * 4)
        values = keys + capacity * size * element
        if kind == 1:
            # Two tokens lie side by side; the second must not be what the memory held before.
            last = token + 1 == firsts[segment + 1]
            for i in range(room):
                halves = uint16s(values + index // 2 * room * 4 + i * 4)
                halves[index % 2] = to_bf16(value[i]) if i < size else types.uint16(0)
                if last and index % 2 == 0:
                    halves[1] = types.uint16(0)
        else:
            target = float32s(values + index * room * 4)
            for i in range(room):
                target[i] = value[i] if i < size else types.float32(0.0)


def append_kv(
    program: Program,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    heads: Heads,
    *,
    scale: float,
    angles: Buffer | None,
    norms: HeadNorms | None = None,
) -> Buffer:
    """Normalize and rotate queries and keys, append keys and values to their slots.

    Returns the scaled queries, as `attention` reads them.
    """
    norms = HeadNorms() if norms is None else norms
    width = heads.queries * heads.size
    out = program.operand_buffer("queries", width)
    program.scratch(max(heads.value_size, heads.size) * 4)
    program.add(
        _append_kv,
        q=q,
        k=k,
        v=v,
        heads=heads.keys,
        shared=heads.shared,
        size=heads.size,
        room=heads.value_size,
        layer=heads.layer,
        field=heads.field,
        angles=angles,
        half=angles.width // 2 if angles else 0,
        q_norm=program.vector(norms.q),
        k_norm=program.vector(norms.k),
        eps=norms.eps,
        scale=scale,
        out=out.address,
        kind=program.kind,
    )
    return out


@njit(fastmath=FAST, error_model="numpy")
def _merge(whole, part, width):
    """Merge the mixed values, maximum score and total of a part, (width + 2), into the whole's."""
    to, of = float32s(whole), float32s(part)
    largest = max(to[width], of[width])
    kept, taken = exp(to[width] - largest), exp(of[width] - largest)
    for i in range(width):
        to[i] = to[i] * kept + of[i] * taken
    to[width] = largest
    to[width + 1] = to[width + 1] * kept + of[width + 1] * taken


@njit(fastmath=FAST, error_model="numpy")
def _clear(part, width):
    """Reset to the state before the first key."""
    values = float32s(part)
    for i in range(width):
        values[i] = types.float32(0.0)
    values[width] = types.float32(-1e30)
    values[width + 1] = types.float32(0.0)


@njit(fastmath=FAST, error_model="numpy")
def _online_softmax(scores, part, first, end, width):
    """Scores of the keys `first` to `end` become weights; what was mixed before is scaled to match.

    Always KEY_TOKENS rounds, whatever is hidden: the order of the sum must not depend on it.
    """
    row, out = float32s(scores), float32s(part)
    before = out[width]
    largest = before
    total = types.float32(0.0)
    if first <= 0 and end >= KEY_TOKENS:
        for i in range(KEY_TOKENS):
            largest = max(largest, row[i])
        for i in range(KEY_TOKENS):
            weight = exp(row[i] - largest)
            row[i] = weight
            total += weight
    else:
        for i in range(KEY_TOKENS):
            inside = i >= first and i < end
            largest = max(largest, row[i] if inside else types.float32(-1e30))
        for i in range(KEY_TOKENS):
            inside = i >= first and i < end
            weight = exp(row[i] - largest) if inside else types.float32(0.0)
            row[i] = weight
            total += weight
    if largest > before:
        factor = exp(before - largest)
        for i in range(width):
            out[i] *= factor
        out[width] = largest
        out[width + 1] *= factor
    out[width + 1] += total


@njit(fastmath=FAST, error_model="numpy")
def _attend_to_keys(
    kind,
    queries,
    keys,
    values,
    scores,
    weights,
    mixed,
    part,
    end,
    position,
    shared,
    window,
    size,
    room,
    rows,
):
    """Accumulate KEY_TOKENS keys into the mixed values of some queries."""
    element = 2 if kind == 1 else 4
    first = part * KEY_TOKENS
    held = min(KEY_TOKENS, end - first)
    stride = (room + 2) * 4
    one = types.float32(1.0)
    multiply_floats(
        kind,
        queries,
        size * element,
        keys + first * size * element,
        size * 16 * element,
        _STEP_BYTES,
        size * element // 4,
        0,
        scores,
        _SCORES_BYTES,
        one,
        0,
        rows,
        4,
    )
    for i in range(rows):
        own = position + i // shared
        lost = max(0, own - window + 1 - first) if window != 0 else 0
        seen = min(held, own + 1 - first)
        _online_softmax(scores + i * _SCORES_BYTES, mixed + i * stride, lost, seen, room)
        put_operand(kind, scores + i * _SCORES_BYTES, weights + i * _SCORES_BYTES, KEY_TOKENS)
    multiply_floats(
        kind,
        weights,
        _SCORES_BYTES,
        values + first * room * element,
        _STEP_BYTES,
        room * 4,
        (held * element + 3) // 4,
        0,
        mixed,
        stride,
        one,
        1,
        rows,
        room // 16,
    )


@Kernel
def _attention(
    batch_head,
    thread,
    threads,
    q,
    heads,
    shared,
    size,
    room,
    layer,
    field,
    window,
    out,
    out_stride,
    kind,
):
    fields = int64s(batch_head)
    element = 2 if kind == 1 else 4
    tokens, positions, segments = (
        fields[batch.TOKENS],
        int64s(fields[batch.POSITIONS]),
        int64s(fields[batch.SEGMENT_OF_TOKENS]),
    )
    blocks, firsts, lengths = (
        fields[batch.BLOCKS],
        int64s(fields[batch.BLOCK_FIRSTS]),
        int64s(fields[batch.BLOCK_TOKENS]),
    )
    splits = fields[batch.SPLITS]
    bases, capacities = int64s(fields[field]), int64s(fields[field + 1])
    dropped = int64s(fields[field + 2])
    stride = (room + 2) * 4
    for item in range(thread, blocks * heads * splits, threads):
        split = item % splits
        head = item // splits % heads
        token = firsts[item // splits // heads]
        count = lengths[item // splits // heads]
        segment = segments[token]
        gone, capacity = dropped[segment], capacities[segment]
        position = positions[token] - gone
        end = position + count
        begin = max(0, position - window + 1) if window != 0 else 0
        if splits > 1:
            begin = max(begin, split * SPLIT_TOKENS - gone)
            end = min(end, (split + 1) * SPLIT_TOKENS - gone)
        rows = count * shared
        scores = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
        weights = scores + rows * _SCORES_BYTES
        whole = weights + rows * _SCORES_BYTES
        mixed = whole + rows * stride
        for i in range(rows):
            _clear(whole + i * stride, room)
        keys = bases[segment] + (layer * heads + head) * capacity * (size + room) * element
        values = keys + capacity * size * element
        queries = q + (head * tokens + token) * shared * size * element
        part, last = begin // KEY_TOKENS, (end + KEY_TOKENS - 1) // KEY_TOKENS
        while part < last:
            # Sums are closed at fixed positions, so that they come out the same however
            # the keys are divided among threads.
            stop = min(
                last,
                (((part * KEY_TOKENS + gone) // SPLIT_TOKENS + 1) * SPLIT_TOKENS - gone)
                // KEY_TOKENS,
            )
            for i in range(rows):
                _clear(mixed + i * stride, room)
            while part < stop:
                _attend_to_keys(
                    kind,
                    queries,
                    keys,
                    values,
                    scores,
                    weights,
                    mixed,
                    part,
                    end,
                    position,
                    shared,
                    window,
                    size,
                    room,
                    rows,
                )
                part += 1
            for i in range(rows):
                _merge(whole + i * stride, mixed + i * stride, room)
        for i in range(rows):
            query = head * shared + i % shared
            place = split * tokens + token + i // shared
            target = float32s(out + place * out_stride + query * stride)
            source = float32s(whole + i * stride)
            for j in range(room + 2):
                target[j] = source[j]


@Kernel
def _combine(
    batch_head,
    thread,
    threads,
    parts,
    parts_stride,
    heads,
    size,
    room,
    out,
    out_stride,
    kind,
    gates,
    gates_stride,
):
    fields = int64s(batch_head)
    tokens, splits = fields[batch.TOKENS], fields[batch.SPLITS]
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    row = float32s(scratch)
    whole = scratch + heads * size * 4
    positions = int64s(fields[batch.POSITIONS])
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        used = min(splits, positions[token] // SPLIT_TOKENS + 1)
        for head in range(heads):
            _clear(whole, room)
            for split in range(used):
                place = parts + (split * tokens + token) * parts_stride + head * (room + 2) * 4
                _merge(whole, place, room)
            mixed = float32s(whole)
            for i in range(size):
                row[head * size + i] = mixed[i] / mixed[room + 1]
            if gates != 0:
                opened = float32s(gates + token * gates_stride + head * size * 4)
                for i in range(size):
                    row[head * size + i] *= sigmoid(opened[i])
        put_operand(kind, scratch, out + token * out_stride, heads * size)


def attention(
    program: Program, queries: Buffer, heads: Heads, *, gates: Buffer | None = None
) -> Buffer:
    """Softmax attention of each query: an operand (tokens, query heads * head size).

    `gates` are (tokens, query heads * head size), whose logistic function opens the result.
    """
    if heads.size % 2:
        raise Uncompilable(f"a head size of {heads.size} is odd")
    room, rows = heads.value_size, QUERY_TOKENS * heads.shared
    parts = program.buffer("attention parts", heads.queries * (room + 2))
    out = program.operand_buffer("attended", heads.queries * heads.size)
    part = room + 2
    program.scratch(max(rows * 2 * (KEY_TOKENS + part), heads.queries * heads.size + part) * 4)
    program.add(
        _attention,
        q=queries.address,
        heads=heads.keys,
        shared=heads.shared,
        size=heads.size,
        room=room,
        layer=heads.layer,
        field=heads.field,
        window=heads.window_tokens,
        out=parts,
        kind=program.kind,
    )
    program.add(
        _combine,
        parts=parts,
        heads=heads.queries,
        size=heads.size,
        room=room,
        out=out,
        kind=program.kind,
        gates=gates,
    )
    return out
