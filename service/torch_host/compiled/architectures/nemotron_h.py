"""Nemotron-H: one mixer per layer, of Mamba-2, attention without positions, an MLP or experts."""

from typing import Any

from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.blocks.attention import add_attention
from service.torch_host.compiled.blocks.experts import add_experts, mixed_experts
from service.torch_host.compiled.blocks.mamba2 import add_mamba2
from service.torch_host.compiled.kernel import Buffer
from service.torch_host.compiled.ops.activations import Activation, act_and_mul, activation_named
from service.torch_host.compiled.ops.experts import Routing, Scoring
from service.torch_host.compiled.ops.rows import as_operand


def assemble_nemotron_h(network: Any, a: Assembly) -> None:  # noqa: ANN401 - transformers' modules
    """Nemotron-H, Nemotron 3."""
    config, model = a.config, network.model
    eps = config.layer_norm_epsilon
    function = activation_named(config.mlp_hidden_act)
    head = a.begin(model.embeddings, network.lm_head)
    for layer in model.layers:
        x = a.normed(layer.norm.weight, eps)
        mixer = layer.mixer
        if hasattr(mixer, "A_log"):
            add_mamba2(a, x, mixer)
        elif hasattr(mixer, "q_proj"):
            add_attention(a, x, mixer, angles=None)
        elif hasattr(mixer, "experts"):
            _add_experts(a, x, mixer, function)
        else:
            _add_mlp(a, x, mixer, function)
    a.finish(model.norm_f.weight, eps, head)


def _add_mlp(a: Assembly, x: Buffer, mlp: Any, function: Activation) -> None:  # noqa: ANN401
    """Add an MLP without gates."""
    width = mlp.down_proj.in_features
    hidden = a.project(x, a.pack(mlp.up_proj), "hidden")
    activated = a.program.operand_buffer("activated", width)
    act_and_mul(a.program, hidden.columns(0, width), None, activated, function)
    a.add(activated, a.pack(mlp.down_proj))


def _add_experts(a: Assembly, x: Buffer, moe: Any, function: Activation) -> None:  # noqa: ANN401
    """Add experts, which may work in a narrower space, and the MLP that every token shares."""
    router = moe.gate
    routing = Routing(
        router.num_experts,
        router.top_k,
        Scoring.SIGMOID,
        normalized=bool(router.norm_topk_prob),
        scale=float(router.routed_scaling_factor),
        groups=router.num_group,
        top_groups=router.topk_group,
        correction=router.e_score_correction_bias,
    )
    if a.config.moe_latent_size is None:
        add_experts(a, x, router, moe.experts, routing, function)
    else:
        latent = a.project(x, a.pack(moe.fc1_latent_proj), "latent")
        inputs = as_operand(a.program, latent, "latent inputs")
        mixed = mixed_experts(a, x, router, moe.experts, routing, function, inputs=inputs)
        a.add(mixed, a.pack(moe.fc2_latent_proj))
    _add_mlp(a, x, moe.shared_experts, function)
