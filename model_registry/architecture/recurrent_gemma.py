"""RecurrentGemma: RG-LRU layers with window attention; sized for planning, served by no engine."""

from model_registry.architecture.config_reader import ConfigReader
from model_registry.architecture.layers import Layer, LayerMix, Recurrent, Weights
from model_registry.architecture.modules import (
    AttentionHeads,
    attention_layer,
    embeddings,
    gated_mlp,
    linear,
)


def read_recurrent_gemma(config: ConfigReader) -> LayerMix:
    """RG-LRU layers (arXiv 2402.19427) with window attention every third; for planning only."""
    heads = AttentionHeads.of(config)
    hidden = heads.hidden
    width = config.size("lru_width", default=hidden)
    columns = config.size("conv1d_width", default=4)
    inner = config.quotient(config.size("intermediate_size"), 2, "intermediate_size")
    outside = gated_mlp(hidden, inner, bias=True) + 2 * hidden
    gates = 2 * Weights(matrices=width * (width // heads.heads), vectors=width)
    recurrent = Layer(
        kinds=("ssm",),
        weights=outside
        + 2 * linear(hidden, width, bias=True)
        + linear(width, hidden, bias=True)
        + width * columns
        + width
        + width
        + gates,
        recurrent=Recurrent(
            conv_channels=width,
            conv_columns=columns - 1,
            conv_taps=columns,
            state_shape=(width,),
            element_flops=3,  # decay·h, the input's gate times its value, their sum (equation 4)
        ),
    )
    attention = attention_layer(
        heads.cache(config.size("attention_window_size", "sliding_window", default=2048)),
        outside
        + heads.weights(bias=config.flag("attention_bias", default=False), output_bias=True),
    )
    pattern = config.words("block_types") or ["recurrent", "recurrent", "attention"]
    return LayerMix(
        model_type=config.model_type,
        layers=tuple(
            attention if pattern[index % len(pattern)] == "attention" else recurrent
            for index in range(config.layers())
        ),
        embeddings=embeddings(config, tied=True),
        norm=hidden,
        servable=False,
        refusal=(
            "recurrent_gemma cannot be served: transformers keeps its recurrent state on the "
            "module, so one model holds one sequence"
        ),
    )
