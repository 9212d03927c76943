"""A training run: its schedule, and its continuation from a checkpoint."""

import pytest
import torch

from model_registry.reference.batches import BATCH_TOKENS
from model_registry.reference.trainer import (
    Trainer,
    learning_rate_scale,
    load_checkpoint,
    save_checkpoint,
    split_parameters,
)

BUDGET_TOKENS = 100 * BATCH_TOKENS


def token_blocks(count):
    """Small seeded batches [2, 24]; a step takes any shape."""
    random = torch.Generator().manual_seed(0)
    return [torch.randint(0, 2048, (2, 24), generator=random) for _ in range(count)]


@pytest.mark.parametrize("architecture", ["transformer", "hybrid"])
def test_resumed_run_equals_an_uninterrupted_one(architecture, tmp_path):
    """Two steps, a checkpoint and two more give the losses of four steps."""
    blocks = token_blocks(4)
    whole = Trainer(architecture, BUDGET_TOKENS, seed=0)
    expected = [whole.step(block, block) for block in blocks]

    interrupted = Trainer(architecture, BUDGET_TOKENS, seed=0)
    for block in blocks[:2]:
        interrupted.step(block, block)
    save_checkpoint(interrupted, tmp_path / "run.pt")
    resumed = Trainer(architecture, BUDGET_TOKENS, seed=0)
    load_checkpoint(resumed, tmp_path / "run.pt")
    for block in blocks[2:]:
        resumed.step(block, block)

    assert resumed.losses == expected
    assert resumed.tokens == 4 * BATCH_TOKENS


def test_steps_lower_the_loss():
    """Training on one batch again and again learns it."""
    trainer = Trainer("ssm", BUDGET_TOKENS, seed=0)
    (block,) = token_blocks(1)
    losses = [trainer.step(block, block) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.5


def test_checkpoint_of_another_run_is_refused(tmp_path):
    """A checkpoint says which architecture and seed it continues."""
    save_checkpoint(Trainer("transformer", BUDGET_TOKENS, seed=1), tmp_path / "run.pt")
    with pytest.raises(ValueError, match="the checkpoint's seed is 1, not 2"):
        load_checkpoint(Trainer("transformer", BUDGET_TOKENS, seed=2), tmp_path / "run.pt")


def test_budgets_agree_until_their_decay():
    """A longer run is the same run until the shorter one starts to decay."""
    short, long = 10_000_000, 20_000_000
    scales = [[learning_rate_scale(t, b) for t in (0, 100_000, 6_000_000)] for b in (short, long)]
    assert scales[0] == scales[1]
    assert learning_rate_scale(8_000_000, short) == pytest.approx(0.5)
    assert learning_rate_scale(short, short) == 0


def test_every_parameter_has_one_optimizer():
    """Muon takes the blocks' matrices, AdamW the rest, none is forgotten."""
    trainer = Trainer("hybrid", BUDGET_TOKENS, seed=0)
    matrices, rest = split_parameters(trainer.model)
    assert len(matrices) + len(rest) == len(list(trainer.model.parameters()))
    assert all(parameter.ndim == 2 for parameter in matrices)
    assert any(parameter is trainer.model.get_input_embeddings().weight for parameter in rest)
