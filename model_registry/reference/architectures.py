"""The three reference architectures: same vocabulary, width and budget, different mixers."""

import math
from collections.abc import Callable
from typing import Any, Final, Literal

import torch
from torch import nn
from transformers import (
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

VOCABULARY_SIZE: Final = 2048
HIDDEN_SIZE: Final = 192
MAX_POSITIONS: Final = 2048
PAD_TOKEN_ID: Final = 0
EOS_TOKEN_ID: Final = 2

#: Heads of the transformer; more and smaller ones learn recall in fewer tokens than 3 of 64.
ATTENTION_HEADS: Final = 6
ROPE_BASE: Final = 10_000.0

HEAD_DIM: Final = 64
SSM_STATE_SIZE: Final = 64
SSM_HEADS: Final = 2 * HIDDEN_SIZE // HEAD_DIM


def transformer_config() -> LlamaConfig:
    """Llama: four blocks of full attention (RoPE, 6 heads) and SwiGLU."""
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=400,
        num_hidden_layers=4,
        num_attention_heads=ATTENTION_HEADS,
        num_key_value_heads=ATTENTION_HEADS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=PAD_TOKEN_ID,
        bos_token_id=None,
        eos_token_id=EOS_TOKEN_ID,
    )


def ssm_config() -> Mamba2Config:
    """Mamba-2: six blocks without attention or MLP, one group of B and C."""
    return Mamba2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=HIDDEN_SIZE,
        state_size=SSM_STATE_SIZE,
        num_hidden_layers=6,
        num_heads=SSM_HEADS,
        head_dim=HEAD_DIM,
        n_groups=1,
        expand=2,
        conv_kernel=4,
        chunk_size=64,
        residual_in_fp32=True,
        tie_word_embeddings=True,
        pad_token_id=PAD_TOKEN_ID,
        bos_token_id=None,
        eos_token_id=EOS_TOKEN_ID,
    )


def hybrid_config() -> GraniteMoeHybridConfig:
    """Granite 4 style, dense: Mamba-2 blocks and one attention block without positions (NoPE)."""
    return GraniteMoeHybridConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=288,
        shared_intermediate_size=288,
        num_hidden_layers=4,
        layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        num_attention_heads=3,
        num_key_value_heads=1,
        attention_multiplier=HEAD_DIM**-0.5,
        position_embedding_type="nope",
        num_local_experts=0,
        num_experts_per_tok=0,
        mamba_n_heads=SSM_HEADS,
        mamba_d_head=HEAD_DIM,
        mamba_d_state=SSM_STATE_SIZE,
        mamba_n_groups=1,
        mamba_expand=2,
        mamba_d_conv=4,
        mamba_chunk_size=64,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=PAD_TOKEN_ID,
        bos_token_id=None,
        eos_token_id=EOS_TOKEN_ID,
    )


Architecture = Literal["transformer", "ssm", "hybrid"]

CONFIGS: Final[dict[Architecture, Callable[[], PreTrainedConfig]]] = {
    "transformer": transformer_config,
    "ssm": ssm_config,
    "hybrid": hybrid_config,
}
CLASSES: Final[dict[Architecture, Any]] = {
    "transformer": LlamaForCausalLM,
    "ssm": Mamba2ForCausalLM,
    "hybrid": GraniteMoeHybridForCausalLM,
}
# The last projection of each residual branch, by the names the modelling code gives them.
RESIDUAL_OUTPUTS: Final = ("o_proj", "down_proj", "out_proj", "output_linear")
DT_RANGE_S: Final = (0.001, 0.1)
DECAY_RANGE: Final = (1.0, 16.0)
#: Heads of the transformer's first layer that start by attending to the previous token.
PREVIOUS_TOKEN_HEADS: Final = 3
PREVIOUS_TOKEN_FREQUENCIES: Final = 4
PREVIOUS_TOKEN_GAIN: Final = 0.55
PREVIOUS_TOKEN_NOISE: Final = 0.25


def new_model(architecture: Architecture, seed: int) -> PreTrainedModel:
    """A float32 model with seeded weights, initialised by the same rules for all three."""
    model: PreTrainedModel = CLASSES[architecture](CONFIGS[architecture]())
    initialize(model, seed)
    return model


@torch.no_grad()
def initialize(model: PreTrainedModel, seed: int) -> None:
    """Normal matrices of deviation fan_in^-0.5 (residual outputs smaller), Mamba-2's own dt and A.

    Every embedding has a common direction, which a tied output layer's softmax ignores: it lets a
    projection without bias do the same at every token. On it rest the transformer's heads that
    start on the previous token; Mamba-2's convolution sees that token from the start.

    dt and A are drawn as in the Mamba-2 paper (arXiv:2405.21060) and its code; transformers'
    classes start with dt of one, which forgets within a few tokens.
    """
    random = torch.Generator().manual_seed(seed)
    branches = sum(
        isinstance(m, nn.Linear) and is_residual_output(n) for n, m in model.named_modules()
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, module.embedding_dim**-0.5, generator=random)
            common = torch.randn(module.embedding_dim, generator=random)
            common /= common.norm()
            module.weight += common
        elif isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            deviation = module.in_features**-0.5
            deviation *= branches**-0.5 if is_residual_output(name) else 1.0
            module.weight.normal_(0.0, deviation, generator=random)
        elif isinstance(module, nn.Conv1d):
            module.weight.uniform_(-0.5, 0.5, generator=random)
            if module.bias is not None:
                module.bias.zero_()
    if isinstance(model, LlamaForCausalLM):
        attention = model.model.layers[0].self_attn
        attend_to_previous_token(attention.q_proj.weight, attention.k_proj.weight, common)
    for name, parameter in model.named_parameters():
        if name.endswith("dt_bias"):
            low, high = (math.log(bound) for bound in DT_RANGE_S)
            dt = parameter.uniform_(low, high, generator=random).exp()
            parameter.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        elif name.endswith("A_log"):
            parameter.uniform_(*DECAY_RANGE, generator=random).log_()


def attend_to_previous_token(query: torch.Tensor, key: torch.Tensor, common: torch.Tensor) -> None:
    """Make PREVIOUS_TOKEN_HEADS heads attend to the previous token through the common direction.

    Query and key are constant vectors in the dimensions of RoPE's highest frequencies (dimension i
    turns with i + half a head); the query is turned back by one position, so that their product is
    greatest one token back.
    """
    head_dim = HIDDEN_SIZE // ATTENTION_HEADS
    half = head_dim // 2
    for head in range(PREVIOUS_TOKEN_HEADS):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        query[rows] *= PREVIOUS_TOKEN_NOISE
        key[rows] *= PREVIOUS_TOKEN_NOISE
        for index in range(PREVIOUS_TOKEN_FREQUENCIES):
            frequency = ROPE_BASE ** (-index / half)
            row = head * head_dim + index
            query[row] = PREVIOUS_TOKEN_GAIN * math.cos(frequency) * common
            query[row + half] = -PREVIOUS_TOKEN_GAIN * math.sin(frequency) * common
            key[row] = PREVIOUS_TOKEN_GAIN * common
            key[row + half] = 0.0


def is_residual_output(name: str) -> bool:
    """True if the module of that name writes into the residual stream."""
    return name.endswith(RESIDUAL_OUTPUTS)


def parameter_count(model: PreTrainedModel) -> int:
    """Number of parameters, the tied embedding counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
