"""Mixture of experts: routing of tokens, and products with the matrices of their experts.

The pairs of a token and one of its experts are sorted by expert, so that an expert's matrix is read
once for all its rows. Every sum runs over the inputs of one row, or over the choices of one token
in the order of their scores: who else is in the batch moves rows, and changes no bit of them.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from numba import njit, types

from service.torch_host.compiled import batch
from service.torch_host.compiled.codegen.operand import put_operand, quantized
from service.torch_host.compiled.codegen.scalars import (
    FAST,
    exp,
    float32s,
    int8s,
    int64s,
    number,
    sigmoid,
    uint16s,
)
from service.torch_host.compiled.kernel import Buffer, Float32, Kernel
from service.torch_host.compiled.ops.linear import multiply_panels
from service.torch_host.compiled.packing import Packed
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.uncompilable import Uncompilable


class Scoring(IntEnum):
    """Rule by which a router's logits become chosen experts and their weights."""

    SOFTMAX = 0
    """The largest logits; their weights are those of a softmax over all experts."""
    SIGMOID = 1
    """DeepSeek-V3 (arXiv 2412.19437): the largest of the logistic function plus a correction, among
    the experts of the best groups; the weights are those of the logistic function alone."""
    SPARSE_MIXER = 2
    """Phi-3.5-MoE (arXiv 2409.12136) at inference: the two largest logits; the weight of each is
    that of a softmax over what is left and nearly as large."""


class Routing(NamedTuple):
    """Routing of a layer's tokens to its experts."""

    experts: int
    top_k: int
    scoring: Scoring = Scoring.SOFTMAX
    normalized: bool = False
    """Divide a token's weights by their sum: a softmax over the chosen experts alone."""
    scale: float = 1.0
    """Factor of the weights, after normalization."""
    groups: int = 1
    top_groups: int = 1
    correction: torch.Tensor | None = None
    """Added to the scores (experts,) for the choice only."""
    jitter: float = 0.0
    """SPARSE_MIXER: logits within twice this of the largest, relatively, are nearly as large."""


class Routed(NamedTuple):
    """Routed tokens of a batch: buffers of one row per token, and the experts' first rows."""

    routing: Routing
    choices: Buffer
    """int64 experts, best first."""
    weights: Buffer
    rows: Buffer
    """int64 rows of the choices among all that are sorted by expert."""
    firsts: int
    """Address of each expert's first row; one more says where the last expert's end."""


@njit(fastmath=FAST)
def _largest(scores, count, wanted, indices, values):
    """The largest scores and where they are, best first; of equal ones the first."""
    source, order, best = float32s(scores), int64s(indices), float32s(values)
    found = 0
    for i in range(count):
        score = source[i]
        if found < wanted:
            place = found
            found += 1
        elif score > best[wanted - 1]:
            place = wanted - 1
        else:
            continue
        while place > 0 and score > best[place - 1]:
            best[place], order[place] = best[place - 1], order[place - 1]
            place -= 1
        best[place], order[place] = score, i


@njit(fastmath=FAST)
def _softmax(logits, experts, wanted, chosen, weights):
    _largest(logits, experts, wanted, chosen, weights)
    source, weight = float32s(logits), float32s(weights)
    largest = weight[0]
    total = types.float32(0.0)
    for i in range(experts):
        total += exp(source[i] - largest)
    for i in range(wanted):
        weight[i] = exp(weight[i] - largest) / total


@njit(fastmath=FAST)
def _hide_groups(ranks, experts, groups, kept, scratch):
    """Keep only the experts of the groups with the largest sums of their two best scores."""
    rank = float32s(ranks)
    size = experts // groups
    sums, order, best = scratch, scratch + groups * 8, scratch + groups * 16
    for group in range(groups):
        first, second = types.float32(-1e30), types.float32(-1e30)
        for i in range(group * size, (group + 1) * size):
            second = max(second, min(first, rank[i]))
            first = max(first, rank[i])
        float32s(sums)[group] = first + second
    _largest(sums, groups, kept, order, best)
    keeps = int8s(sums)
    for group in range(groups):
        keeps[group] = 0
    for i in range(kept):
        keeps[int64s(order)[i]] = 1
    for i in range(experts):
        if keeps[i // size] == 0:
            rank[i] = types.float32(-1e30)


@njit(fastmath=FAST)
def _logistic(logits, experts, wanted, chosen, weights, correction, groups, kept, scratch):
    source, rank, weight = float32s(logits), float32s(scratch), float32s(weights)
    for i in range(experts):
        rank[i] = sigmoid(source[i])
    if correction != 0:
        added = float32s(correction)
        for i in range(experts):
            rank[i] += added[i]
    if kept < groups:
        _hide_groups(scratch, experts, groups, kept, scratch + (experts + 1) // 2 * 8)
    _largest(scratch, experts, wanted, chosen, weights)
    for i in range(wanted):
        weight[i] = sigmoid(source[int64s(chosen)[i]])


@njit(fastmath=FAST)
def _sparse_mixer(logits, experts, chosen, weights, jitter):
    _largest(logits, experts, 2, chosen, weights)
    source, order, weight = float32s(logits), int64s(chosen), float32s(weights)
    for choice in range(2):
        largest = weight[choice]
        total = types.float32(0.0)
        for i in range(experts):
            distance = largest - source[i]
            far = distance > types.float32(2.0) * jitter * max(abs(source[i]), largest)
            gone = choice == 1 and i == order[0]
            total += types.float32(0.0) if far or gone else exp(-distance)
        weight[choice] = types.float32(1.0) / total


@Kernel
def _route(
    batch_head,
    thread,
    threads,
    logits,
    logits_stride,
    experts,
    wanted,
    scoring,
    normalized,
    scale: Float32,
    correction,
    groups,
    kept,
    jitter: Float32,
    choices,
    choices_stride,
    weights,
    weights_stride,
):
    fields = int64s(batch_head)
    scale, jitter = number(scale), number(jitter)
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    tokens = fields[batch.TOKENS]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        row, chosen = logits + token * logits_stride, choices + token * choices_stride
        at = weights + token * weights_stride
        if scoring == 0:
            _softmax(row, experts, wanted, chosen, at)
        elif scoring == 1:
            _logistic(row, experts, wanted, chosen, at, correction, groups, kept, scratch)
        else:
            _sparse_mixer(row, experts, chosen, at, jitter)
        weight, factor = float32s(at), scale
        if normalized != 0:
            total = types.float32(1e-20)
            for i in range(wanted):
                total += weight[i]
            factor = scale / total
        for i in range(wanted):
            weight[i] *= factor


def route(program: Program, logits: Buffer, routing: Routing) -> Routed:
    """Choose the experts of each token by its router's float32 logits."""
    experts, wanted = routing.experts, routing.top_k
    if routing.scoring is Scoring.SPARSE_MIXER and wanted != 2:
        raise Uncompilable(f"the sparse mixer chooses 2 experts, not {wanted}")
    routed = Routed(
        routing,
        program.buffer("chosen experts", wanted, element_bytes=8),
        program.buffer("weights of experts", wanted),
        program.buffer("rows of choices", wanted, element_bytes=8),
        program.hold(torch.zeros(experts + 1, dtype=torch.int64)),
    )
    program.scratch((experts + 1) // 2 * 8 + routing.groups * 24)
    program.add(
        _route,
        logits=logits,
        experts=experts,
        wanted=wanted,
        scoring=routing.scoring,
        normalized=routing.normalized,
        scale=routing.scale,
        correction=program.vector(routing.correction),
        groups=routing.groups,
        kept=routing.top_groups,
        jitter=routing.jitter,
        choices=routed.choices,
        weights=routed.weights,
    )
    return routed


@Kernel
def _gather(
    batch_head,
    thread,
    threads,
    x,
    x_stride,
    halves,
    out,
    out_stride,
    choices,
    choices_stride,
    rows,
    rows_stride,
    firsts,
    experts,
    wanted,
):
    fields = int64s(batch_head)
    firsts = int64s(firsts)
    tokens = fields[batch.TOKENS]
    # Every thread sorts for itself, and one says how: no thread waits for another.
    following = int64s(fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES])
    for expert in range(experts + 1):
        following[expert] = 0
    for token in range(tokens):
        chosen = int64s(choices + token * choices_stride)
        for choice in range(wanted):
            following[chosen[choice] + 1] += 1
    for expert in range(experts):
        following[expert + 1] += following[expert]
    if thread == 0:
        for expert in range(experts + 1):
            firsts[expert] = following[expert]
    begin, end = tokens * wanted * thread // threads, tokens * wanted * (thread + 1) // threads
    for token in range(tokens):
        chosen = int64s(choices + token * choices_stride)
        for choice in range(wanted):
            row = following[chosen[choice]]
            following[chosen[choice]] = row + 1
            if thread == 0:
                int64s(rows + token * rows_stride)[choice] = row
            if begin <= token * wanted + choice < end:
                source, target = uint16s(x + token * x_stride), uint16s(out + row * out_stride)
                for i in range(halves):
                    target[i] = source[i]


def gather(program: Program, x: Buffer, routed: Routed) -> Buffer:
    """A row of `x`, an operand, for each choice of each token, sorted by expert."""
    routing = routed.routing
    out = program.operand_buffer("inputs of experts", x.width, rows_per_token=routing.top_k)
    program.scratch((routing.experts + 1) * 8)
    program.add(
        _gather,
        x=x,
        halves=x.width * program.kind.bytes // 2,
        out=out,
        choices=routed.choices,
        rows=routed.rows,
        firsts=routed.firsts,
        experts=routing.experts,
        wanted=routing.top_k,
    )
    return out


@Kernel
def _expert_products(
    batch_head,
    thread,
    threads,
    x,
    x_stride,
    matrices,
    panels,
    steps,
    out,
    out_stride,
    firsts,
    experts,
    scale: Float32,
    kind,
    scales,
):
    matrices = int64s(matrices)
    firsts, scale = int64s(firsts), number(scale)
    scales = int64s(scales)
    # Panels are divided by what they cost: reading one is worth the arithmetic of some rows.
    total = 0
    for expert in range(experts):
        if firsts[expert + 1] > firsts[expert]:
            total += (firsts[expert + 1] - firsts[expert] + 8) * panels
    begin, end = total * thread // threads, total * (thread + 1) // threads
    done = 0
    for expert in range(experts):
        first = firsts[expert]
        rows = firsts[expert + 1] - first
        if rows == 0:
            continue
        cost = rows + 8
        panel = min(panels, max(0, (begin - done + cost - 1) // cost))
        last = min(panels, max(0, (end - done + cost - 1) // cost))
        if panel < last:
            multiply_panels(
                kind,
                x + first * x_stride,
                x_stride,
                matrices[expert],
                panels,
                steps,
                scales[expert],
                out + first * out_stride,
                out_stride,
                0,
                scale,
                0,
                rows,
                panel,
                last,
            )
        done += cost * panels


def expert_linear(
    program: Program,
    x: Buffer,
    weights: Sequence[Packed],
    out: Buffer,
    routed: Routed,
    *,
    scale: float = 1.0,
) -> None:
    """`out = x @ weight.T * scale`, each row of `x` with the matrix of its expert."""
    one = weights[0]
    if any(weight.bias for weight in weights):
        raise Uncompilable("experts' products add no biases")
    assert len(weights) == routed.routing.experts
    assert x.width == one.inputs
    assert out.stride >= one.outputs * 4
    addresses = torch.tensor([weight.address for weight in weights], dtype=torch.int64)
    scales = torch.tensor([weight.scales for weight in weights], dtype=torch.int64)
    x = quantized(program, x, one.kind, rows_per_token=routed.routing.top_k)
    program.add(
        _expert_products,
        x=x,
        matrices=program.hold(addresses),
        panels=one.panels,
        steps=one.steps,
        out=out,
        firsts=routed.firsts,
        experts=routed.routing.experts,
        scale=scale,
        kind=one.kind,
        scales=program.hold(scales),
    )


@Kernel
def _combine(
    batch_head,
    thread,
    threads,
    x,
    x_stride,
    width,
    rows,
    rows_stride,
    weights,
    weights_stride,
    wanted,
    scale: Float32,
    out,
    out_stride,
    kind,
    add,
):
    fields = int64s(batch_head)
    scale = number(scale)
    scratch = fields[batch.SCRATCH] + thread * fields[batch.SCRATCH_BYTES]
    mixed = float32s(scratch)
    parts = (width + 255) // 256
    items = fields[batch.TOKENS] * parts
    for item in range(items * thread // threads, items * (thread + 1) // threads):
        token, first = item // parts, item % parts * 256
        count = min(256, width - first)
        row, weight = int64s(rows + token * rows_stride), float32s(weights + token * weights_stride)
        for i in range(count):
            mixed[i] = types.float32(0.0)
        for choice in range(wanted):
            source = float32s(x + row[choice] * x_stride + first * 4)
            factor = weight[choice] * scale
            for i in range(count):
                mixed[i] += source[i] * factor
        if add != 0:
            target = float32s(out + token * out_stride + first * 4)
            for i in range(count):
                target[i] += mixed[i]
        else:
            element = 2 if kind == 1 else 4
            put_operand(kind, scratch, out + token * out_stride + first * element, count)


def combine(
    program: Program,
    x: Buffer,
    routed: Routed,
    out: Buffer,
    *,
    add: bool = False,
    scale: float = 1.0,
) -> None:
    """Sums of each token's rows of `x`, weighted: operands, or added to a float32 `out`."""
    program.scratch(256 * 4)
    program.add(
        _combine,
        x=x,
        width=out.width,
        rows=routed.rows,
        weights=routed.weights,
        wanted=routed.routing.top_k,
        scale=scale,
        out=out,
        kind=program.kind,
        add=add,
    )
