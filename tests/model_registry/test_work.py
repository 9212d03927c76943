"""Work of a request: sums over its passes, its conventions, and the operations of recurrences."""

from collections.abc import Mapping
from typing import Any

import pytest

from model_registry.architecture import Weights, mixers
from model_registry.work import WorkFormula, work_formula

SMALL = {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 4}
HEADS = {"intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA = {"model_type": "llama", **SMALL, **HEADS}
WINDOW = {"model_type": "phi3", **SMALL, **HEADS, "sliding_window": 8}
MAMBA = {"model_type": "mamba", **SMALL, "state_size": 16}
LFM2 = {
    "model_type": "lfm2",
    **SMALL,
    **HEADS,
    "layer_types": ["conv", "full_attention", "conv", "conv"],
}
JAMBA = {
    "model_type": "jamba",
    **SMALL,
    **HEADS,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
}
CONFIGS = {"llama": LLAMA, "window": WINDOW, "mamba": MAMBA, "lfm2": LFM2, "jamba": JAMBA}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """Numbers of an architecture."""
    return CONFIGS[request.param]


def kept_bytes(formula: WorkFormula, tokens: int) -> int:
    return formula.growth.kv_bytes(tokens)


def test_an_answer_is_the_sum_of_its_passes(config: Mapping[str, Any]) -> None:
    """A longer answer adds for each token what a step at that place takes, and nothing else."""
    formula = work_formula(config)
    whole = formula.of(prompt_tokens=11, new_tokens=9)
    flops, read_bytes, written_bytes = 0, 0, 0
    for place in range(11, 11 + 8):
        pairs = sum(
            pair_flops * min(place + 1, window or place + 1)
            for pair_flops, window in formula.attention
        )
        flops += pairs + formula.token_flops + 2 * formula.head.products
        read_bytes += kept_bytes(formula, place) + formula.growth.constant_bytes
        written_bytes += kept_bytes(formula, 1) + formula.growth.constant_bytes
    first = formula.of(prompt_tokens=11, new_tokens=1)
    assert first.decode_flops == first.decode_bytes == 0
    assert whole.weight_bytes_read is not None
    assert first.weight_bytes_read is not None
    weights = whole.weight_bytes_read - first.weight_bytes_read
    assert whole.decode_bytes == weights + read_bytes + written_bytes
    assert whole.prefill_flops == first.prefill_flops
    assert whole.decode_flops == flops
    assert whole.state_bytes_read == read_bytes
    assert whole.state_bytes_written - first.state_bytes_written == written_bytes


def test_what_is_restored_is_not_computed(config: Mapping[str, Any]) -> None:
    """Prefill of a prefix and of what follows it take together what the whole prompt takes."""
    formula = work_formula(config)
    whole = formula.of(prompt_tokens=30, new_tokens=1).prefill_flops
    prefix = formula.of(prompt_tokens=19, new_tokens=1).prefill_flops
    rest = formula.of(prompt_tokens=30, cached_tokens=19, new_tokens=1).prefill_flops
    assert prefix + rest - 2 * formula.head.products == whole


def test_a_restored_prefix_is_read_once(config: Mapping[str, Any]) -> None:
    """A prefill that continues a prefix reads its keys, values and state; any other reads none."""
    formula = work_formula(config)
    assert formula.of(prompt_tokens=30, new_tokens=1).state_bytes_read == 0
    restored = formula.of(prompt_tokens=30, cached_tokens=19, new_tokens=1)
    assert restored.state_bytes_read == kept_bytes(formula, 19) + formula.growth.constant_bytes


def test_scored_prompts_take_the_head_for_every_token() -> None:
    """Where all tokens of a prompt are scored, each needs its logits."""
    formula = work_formula(LLAMA)
    plain = formula.of(prompt_tokens=30, new_tokens=1).prefill_flops
    scored = formula.of(prompt_tokens=30, new_tokens=1, scored=True).prefill_flops
    assert scored - plain == 29 * 2 * 64 * 160


def test_a_dense_pass_reads_each_weight_once_and_a_row_a_token() -> None:
    """Two bytes an element in bfloat16; an untied embedding is read by rows."""
    formula = work_formula(LLAMA)
    attention = 2 * 64 * 64 + 2 * 64 * 32
    layer = attention + 3 * 64 * 96 + 2 * 64
    held = 4 * layer + 64 + 64 * 160
    assert formula.of(prompt_tokens=10, new_tokens=1).weight_bytes_read == 2 * (held + 10 * 64)
    three = formula.of(prompt_tokens=10, new_tokens=4).weight_bytes_read
    assert three == 2 * (4 * held + 13 * 64)


def test_experts_are_read_as_far_as_tokens_can_use_them() -> None:
    """One token of two experts reads two of four; two tokens may need all."""
    weights = Weights(matrices=5, experts=400, active_experts=200)
    assert [weights.read(tokens) for tokens in (1, 2, 3)] == [205, 405, 405]


def test_a_shared_block_is_read_by_every_layer_that_uses_it() -> None:
    """Zamba2's block is held once and read and multiplied in each hybrid layer."""
    zamba = {
        "model_type": "zamba2",
        **SMALL,
        **HEADS,
        "num_key_value_heads": 4,
        "n_mamba_heads": 8,
        "num_mem_blocks": 1,
        "adapter_rank": 8,
    }
    one, two = (
        work_formula(zamba | {"layers_block_type": kinds + ["linear_attention"] * (4 - len(kinds))})
        for kinds in (["hybrid"], ["hybrid", "hybrid"])
    )
    block = 3 * 128 * 128 + 128 * 64 + 3 * 64 * 96
    assert two.weights.matrices - one.weights.matrices > block


def test_quantized_weights_take_fewer_bytes_and_the_same_operations() -> None:
    """Quantization changes the bytes of weights alone; those of GGUF blocks are unknown."""
    plain = work_formula(LLAMA).of(prompt_tokens=10, new_tokens=5)
    packed = work_formula(LLAMA, quantization="int8").of(prompt_tokens=10, new_tokens=5)
    gguf = work_formula(LLAMA, quantization="gguf").of(prompt_tokens=10, new_tokens=5)
    assert plain.weight_bytes_read is not None
    assert packed.weight_bytes_read == pytest.approx(plain.weight_bytes_read / 2 * 1.07, abs=5)
    assert packed.decode_flops == plain.decode_flops
    assert gguf.weight_bytes_read is None
    assert gguf.decode_bytes is None


@pytest.mark.parametrize(
    ("prompt", "cached", "new"), [(0, 0, 1), (5, 5, 1), (5, -1, 1), (5, 0, -1)]
)
def test_counts_that_no_request_has_are_refused(prompt: int, cached: int, new: int) -> None:
    """At least one token of every prompt is computed."""
    with pytest.raises(ValueError, match="no request has"):
        work_formula(LLAMA).of(prompt_tokens=prompt, cached_tokens=cached, new_tokens=new)


# Recurrences, computed with numbers that count what is done with them.


class Number(float):
    """A number that counts multiplications and additions."""

    operations = 0

    def __add__(self, other: float) -> "Number":
        Number.operations += 1
        return Number(float(self) + float(other))

    def __mul__(self, other: float) -> "Number":
        Number.operations += 1
        return Number(float(self) * float(other))


@pytest.fixture(autouse=True)
def from_zero() -> None:
    """Count the operations of one test."""
    Number.operations = 0


def dot(left: list[Number], right: list[Number]) -> Number:
    """A sum that begins with 0, as a multiply-add into an accumulator does."""
    total = Number(0)
    for one, other in zip(left, right, strict=True):
        total = total + one * other
    return total


ONE = Number(0.5)


def test_operations_of_the_selective_scan() -> None:
    """The update exp(ΔA)·h + (Δx)·B and C·h take six operations for each element of h."""
    channels, states = 3, 4
    a, h = ([[ONE] * states for _ in range(channels)] for _ in range(2))
    b = c = [ONE] * states
    for channel in range(channels):
        step, entering = ONE, ONE  # Δ, and Δ times x: once a channel
        for n in range(states):
            decay = step * a[channel][n]  # its exponential is no product
            h[channel][n] = decay * h[channel][n] + entering * b[n]
        dot(c, h[channel])
    assert Number.operations == mixers.MAMBA1_FLOPS * channels * states


def test_operations_of_the_state_space_dual() -> None:
    """The update a·H + (Δx)Bᵀ and HC take five for each element: the decay is a head's."""
    width, states = 3, 4
    h = [[ONE] * states for _ in range(width)]
    b = c = [ONE] * states
    for row in range(width):
        for n in range(states):
            h[row][n] = ONE * h[row][n] + ONE * b[n]
        dot(c, h[row])
    assert Number.operations == mixers.MAMBA2_FLOPS * width * states


def test_operations_of_the_gated_delta_rule() -> None:
    """S ← a·S, u = β(v − Sᵀk), S ← S + k uᵀ and o = Sᵀq take seven for each element."""
    keys, values = 3, 4
    s = [[ONE] * values for _ in range(keys)]
    k = q = [ONE] * keys
    s = [[ONE * element for element in row] for row in s]
    seen = [dot(k, [row[v] for row in s]) for v in range(values)]
    update = [Number(0.25)] * len(seen)  # once a value, not an element
    s = [[s[i][v] + k[i] * update[v] for v in range(values)] for i in range(keys)]
    for v in range(values):
        dot(q, [row[v] for row in s])
    assert Number.operations == mixers.DELTA_RULE_FLOPS * keys * values
