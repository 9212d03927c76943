"""Readers of the types that have attention in every layer."""

from collections.abc import Callable

from model_registry.architecture.layers import Attention, Layer, LayerKind, LayerMix
from model_registry.architecture.modules import AttentionHeads, embeddings, gated_experts, gated_mlp
from model_registry.architecture.numbers import Numbers


def attention_layer(attention: Attention, parameters: int) -> Layer:
    """A layer of full or window attention."""
    kind: LayerKind = "full_attention" if attention.window_tokens is None else "window_attention"
    return Layer(kinds=(kind,), parameters=parameters, attention=attention)


def _window(numbers: Numbers) -> int | None:
    """The sliding window; one as long as the context never slides and counts as full attention."""
    window = numbers.optional("sliding_window")
    context = numbers.optional("max_position_embeddings")
    return None if window is None or (context is not None and window >= context) else window


def _uniform(numbers: Numbers, heads: AttentionHeads, parameters: int, shared: int) -> LayerMix:
    layer = attention_layer(heads.cache(_window(numbers)), parameters)
    return LayerMix(
        model_type=numbers.model_type,
        layers=(layer,) * numbers.whole("num_hidden_layers"),
        shared_parameters=shared,
    )


def _by_layer_types(
    numbers: Numbers,
    kinds: list[str],
    heads: AttentionHeads,
    parameters: int,
    shared: int,
) -> LayerMix:
    window = numbers.optional("sliding_window")
    return LayerMix(
        model_type=numbers.model_type,
        layers=tuple(
            attention_layer(
                heads.cache(window if kind == "sliding_attention" else None), parameters
            )
            for kind in kinds
        ),
        shared_parameters=shared,
    )


def read_llama(numbers: Numbers) -> LayerMix:
    """Attention and gated MLP, two norms; no window."""
    heads = AttentionHeads.of(numbers)
    parameters = (
        heads.parameters(bias=numbers.flag("attention_bias", default=False))
        + gated_mlp(
            heads.hidden,
            numbers.whole("intermediate_size"),
            bias=numbers.flag("mlp_bias", default=False),
        )
        + 2 * heads.hidden
    )
    return LayerMix(
        model_type=numbers.model_type,
        layers=(attention_layer(heads.cache(), parameters),) * numbers.whole("num_hidden_layers"),
        shared_parameters=embeddings(numbers, tied=False) + heads.hidden,
    )


def read_phi3(numbers: Numbers) -> LayerMix:
    """As Llama with joined projections, which count the same; possibly a window in all layers."""
    heads = AttentionHeads.of(numbers)
    parameters = (
        heads.parameters()
        + gated_mlp(heads.hidden, numbers.whole("intermediate_size"))
        + 2 * heads.hidden
    )
    return _uniform(numbers, heads, parameters, embeddings(numbers, tied=False) + heads.hidden)


def read_phimoe(numbers: Numbers) -> LayerMix:
    """Experts in place of the MLP; layer norms with bias."""
    heads = AttentionHeads.of(numbers)
    parameters = (
        heads.parameters(bias=numbers.flag("attention_bias", default=False))
        + gated_experts(
            heads.hidden, numbers.whole("intermediate_size"), numbers.whole("num_local_experts")
        )
        + 4 * heads.hidden
    )
    shared = embeddings(numbers, tied=False, head_bias=numbers.flag("lm_head_bias", default=False))
    return _uniform(numbers, heads, parameters, shared + 2 * heads.hidden)


def read_gemma3(numbers: Numbers) -> LayerMix:
    """Window attention, every sixth layer full by default; four norms, Q and K normed."""
    heads = AttentionHeads.of(numbers)
    period = numbers.whole("sliding_window_pattern", "_sliding_window_pattern", default=6)
    kinds = numbers.kinds("layer_types") or [
        "sliding_attention" if (index + 1) % period else "full_attention"
        for index in range(numbers.whole("num_hidden_layers"))
    ]
    parameters = (
        heads.parameters(bias=numbers.flag("attention_bias", default=False))
        + 2 * heads.head_dim
        + gated_mlp(heads.hidden, numbers.whole("intermediate_size"))
        + 4 * heads.hidden
    )
    shared = embeddings(numbers, tied=True) + heads.hidden
    return _by_layer_types(numbers, kinds, heads, parameters, shared)


def _qwen_kinds(numbers: Numbers) -> list[str]:
    """A window from layer `max_window_layers` on, if `use_sliding_window`."""
    if not numbers.flag("use_sliding_window", default=False):
        return ["full_attention"] * numbers.whole("num_hidden_layers")
    first = numbers.whole("max_window_layers", default=28)
    return numbers.kinds("layer_types") or [
        "sliding_attention" if index >= first else "full_attention"
        for index in range(numbers.whole("num_hidden_layers"))
    ]


def read_qwen2(numbers: Numbers) -> LayerMix:
    """As Llama, with biases on Q, K and V."""
    heads = AttentionHeads.of(numbers)
    parameters = (
        heads.parameters(bias=True, output_bias=False)
        + gated_mlp(heads.hidden, numbers.whole("intermediate_size"))
        + 2 * heads.hidden
    )
    shared = embeddings(numbers, tied=False) + heads.hidden
    return _by_layer_types(numbers, _qwen_kinds(numbers), heads, parameters, shared)


def read_qwen3(numbers: Numbers) -> LayerMix:
    """As Llama, with Q and K normed; heads of 128 unless told otherwise."""
    heads = AttentionHeads.of(numbers, head_dim=numbers.whole("head_dim", default=128))
    parameters = (
        heads.parameters(bias=numbers.flag("attention_bias", default=False))
        + 2 * heads.head_dim
        + gated_mlp(heads.hidden, numbers.whole("intermediate_size"))
        + 2 * heads.hidden
    )
    shared = embeddings(numbers, tied=False) + heads.hidden
    return _by_layer_types(numbers, _qwen_kinds(numbers), heads, parameters, shared)


READERS: dict[str, Callable[[Numbers], LayerMix]] = {
    "llama": read_llama,
    "phi3": read_phi3,
    "phimoe": read_phimoe,
    "gemma3_text": read_gemma3,
    "qwen2": read_qwen2,
    "qwen3": read_qwen3,
}
