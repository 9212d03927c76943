"""Mamba-1's scan against its recurrence, written out."""

import torch
from torch.nn import functional

from service.torch_host.eager.mamba1 import selective_scan


def operands(batch: int, tokens: int) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=drawn)

    return {
        "hidden_states": draw(batch, 6, tokens),
        "dt": draw(batch, 6, tokens),
        "decay": -draw(6, 4).exp(),
        "inputs": draw(batch, 4, tokens),
        "outputs": draw(batch, 4, tokens),
        "skip": draw(6),
        "gate": draw(batch, 6, tokens),
        "dt_bias": draw(6),
        "state": draw(batch, 6, 4),
    }


def recurrence(given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Advance a token at a time: h ← exp(ΔA)h + ΔBu; y = (Ch + Du) silu(z)."""
    state, out = given["state"], []
    for t in range(given["dt"].shape[-1]):
        hidden = given["hidden_states"][..., t]
        step = functional.softplus(given["dt"][..., t] + given["dt_bias"])[..., None]
        driven = step * given["inputs"][:, None, :, t] * hidden[..., None]
        state = (step * given["decay"]).exp() * state + driven
        mixed = (state * given["outputs"][:, None, :, t]).sum(-1) + given["skip"] * hidden
        out.append(mixed * functional.silu(given["gate"][..., t]))
    return torch.stack(out, -1), state


def test_scan_equals_recurrence():
    """A scan over several chunks, from a state that is not zero, is the recurrence."""
    given = operands(batch=2, tokens=150)

    mixed, state = selective_scan(**given)

    expected, expected_state = recurrence(given)
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, expected_state, atol=1e-4, rtol=1e-4)


def test_given_state_is_not_written():
    """The state that was handed over stays what it was: the cache writes it, not the scan."""
    given = operands(batch=1, tokens=3)
    before = given["state"].clone()

    selective_scan(**given)

    assert torch.equal(given["state"], before)
