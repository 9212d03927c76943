"""A training run: model, optimizers, schedule and checkpoints, step by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from model_registry.reference.architectures import Architecture, new_model
from model_registry.reference.batches import BATCH_TOKENS, IGNORED_LABEL
from model_registry.reference.ssd import fast_mamba2

MUON_LEARNING_RATE: Final = 0.02
ADAM_LEARNING_RATE: Final = 0.003
WEIGHT_DECAY: Final = 0.02
MATRIX: Final = 2
GRADIENT_NORM: Final = 1.0
WARMUP_TOKENS: Final = 160_000
DECAY_SHARE: Final = 0.4


def learning_rate_scale(tokens: int, budget_tokens: int) -> float:
    """Warm-up, then constant, then linear to zero over the last DECAY_SHARE of the budget.

    Runs with different budgets are equal until their decay starts, so a run can be shortened or
    prolonged from a checkpoint (the WSD schedule of Hu et al., arXiv:2404.06395).
    """
    warmup = min(1.0, (tokens + BATCH_TOKENS) / WARMUP_TOKENS)
    decay = min(1.0, (budget_tokens - tokens) / (DECAY_SHARE * budget_tokens))
    return max(0.0, min(warmup, decay))


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split parameters: matrices of blocks for Muon; embedding, convolutions, vectors for AdamW."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == MATRIX and "embed" not in name and "lm_head" not in name
        (matrices if hidden else rest).append(parameter)
    return matrices, rest


class Trainer:
    """Steps a model over batches; `state` and `restore` make a run continue as if uninterrupted."""

    def __init__(self, architecture: Architecture, budget_tokens: int, seed: int) -> None:
        self.architecture = architecture
        self.budget_tokens = budget_tokens
        self.seed = seed
        self.steps = 0
        self.losses: list[float] = []
        self.model: PreTrainedModel = new_model(architecture, seed).train()
        matrices, rest = split_parameters(self.model)
        self.optimizers: Sequence[torch.optim.Optimizer] = (
            torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=WEIGHT_DECAY),
            torch.optim.AdamW(rest, lr=ADAM_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self._peaks = [group["lr"] for o in self.optimizers for group in o.param_groups]

    @property
    def tokens(self) -> int:
        """Training tokens seen so far."""
        return self.steps * BATCH_TOKENS

    @property
    def total_steps(self) -> int:
        """Steps of the whole budget."""
        return self.budget_tokens // BATCH_TOKENS

    def step(self, input_ids: Tensor, labels: Tensor) -> float:
        """Take an optimizer step on [sequences, tokens] int64; return the loss, nats per token."""
        scale = learning_rate_scale(self.tokens, self.budget_tokens)
        groups = [group for o in self.optimizers for group in o.param_groups]
        for group, peak in zip(groups, self._peaks, strict=True):
            group["lr"] = peak * scale
        loss = self._loss(input_ids, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def _loss(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        with fast_mamba2(), torch.autocast("cpu", torch.bfloat16):
            logits = self.model(input_ids=input_ids, use_cache=False).logits
        return functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1),
            labels[:, 1:].flatten(),
            ignore_index=IGNORED_LABEL,
        )

    def state(self) -> dict[str, Any]:
        """All state that resuming needs, apart from the data."""
        return {
            "architecture": self.architecture,
            "seed": self.seed,
            "steps": self.steps,
            "losses": self.losses,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state` of the same architecture and seed."""
        for name in ("architecture", "seed"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the checkpoint's {name} is {state[name]}, not {getattr(self, name)}"
                )
        self.steps = state["steps"]
        self.losses = list(state["losses"])
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write the trainer's state, and its losses as JSON beside it, each atomically."""
    partial = path.with_suffix(".partial")
    torch.save(trainer.state(), partial)
    partial.replace(path)
    path.with_suffix(".losses.json").write_bytes(msgspec.json.encode(trainer.losses))


def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Restore the trainer from a file of `save_checkpoint`; loads tensors and plain values only."""
    trainer.restore(torch.load(path, map_location="cpu", weights_only=True))
