"""Matrices as unsigned whole numbers with scales: rounding to codes, and back."""

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch.nn import functional

from service.torch_host.compiled.codegen.quantized_tiles import SMALL_GROUP

#: By how much a group's range is tried to be narrowed, and how many matrix rows are tried at once.
_SHRINKS: Final = (1.0, 0.92, 0.84)
_CHUNK_ROWS: Final = 1024

_LARGEST_CODE: Final = 15
_ATTRIBUTE: Final = "triptych_groups"


class Rows(NamedTuple):
    """A matrix of 8 bits with a scale for each output: `(codes - 128) * scales`."""

    codes: torch.Tensor
    """uint8 (outputs, inputs)."""
    scales: torch.Tensor
    """float32 (outputs,)."""


class Groups(NamedTuple):
    """A matrix with a scale and a minimum for every 32 inputs: `codes * scales + minima`."""

    codes: torch.Tensor
    """uint8 (outputs, inputs), the inputs whole groups."""
    scales: torch.Tensor
    """float16 (outputs, groups)."""
    minima: torch.Tensor
    """float16 (outputs, groups)."""
    code_bits: int
    """4 or 8."""

    def values(self) -> torch.Tensor:
        """Dequantized values, float32 (outputs, inputs)."""
        codes = _in_groups(self.codes.float())
        return (codes * self.scales.float()[..., None] + self.minima.float()[..., None]).flatten(1)


def by_output(weight: torch.Tensor) -> Rows:
    """8-bit numbers with 128 added, and each output's scale: its largest weight becomes 127."""
    weight = weight.float()
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    whole = (weight / scales[:, None]).round_().clamp_(-127, 127)
    return Rows((whole + 128).to(torch.uint8), scales)


def by_group(weight: torch.Tensor) -> Groups:
    """4-bit codes whose scales and minima have the least squared error of a few that are tried.

    Each try rounds the group's weights within a slightly narrower range and then fits scale and
    minimum to the codes by least squares. Inputs are padded to whole groups with zeros.
    """
    parts = [_rounded(part) for part in torch.split(weight, _CHUNK_ROWS)]
    codes, scales, minima = (torch.cat(column) for column in zip(*parts, strict=True))
    return Groups(codes, scales, minima, 4)


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    groups = _in_groups(functional.pad(weight.float(), (0, -weight.shape[1] % SMALL_GROUP)))
    low, high = groups.amin(-1), groups.amax(-1)
    best: list[torch.Tensor] = []
    for shrink in _SHRINKS:
        scales, minima = (high - low) * (shrink / _LARGEST_CODE), low * shrink
        codes = _codes(groups, scales, minima)
        for fitted in ((scales, minima), _fitted(groups, codes)):
            tried = _tried(groups, *fitted)
            if not best:
                best = tried
                continue
            better = tried[0] < best[0]
            best = [
                torch.where(better if new.dim() == better.dim() else better[..., None], new, old)
                for new, old in zip(tried, best, strict=True)
            ]
    _, codes, scales, minima = best
    return codes.to(torch.uint8).flatten(1), scales, minima


def _tried(groups: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor) -> list[torch.Tensor]:
    """Squared error of each group, its codes, and scales and minima as they are stored."""
    scales, minima = scales.half(), minima.half()
    codes = _codes(groups, scales.float(), minima.float())
    values = codes * scales.float()[..., None] + minima.float()[..., None]
    return [(values - groups).square_().sum(-1), codes, scales, minima]


def _codes(groups: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor) -> torch.Tensor:
    steps = torch.where(scales > 0, 1 / scales, 0)
    return ((groups - minima[..., None]) * steps[..., None]).round_().clamp_(0, _LARGEST_CODE)


def _fitted(groups: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and minima of least squared error for codes."""
    code, value = codes.mean(-1), groups.mean(-1)
    away = codes - code[..., None]
    spread = away.square().sum(-1)
    slope = (away * (groups - value[..., None])).sum(-1)
    scales = torch.where(spread > 0, slope / spread, 0)
    return scales, value - scales * code


def _in_groups(values: torch.Tensor) -> torch.Tensor:
    return values.view(values.shape[0], -1, SMALL_GROUP)


def attach(weight: torch.Tensor, read: Callable[[], Groups]) -> None:
    """Attach groups to a weight, which a program packs instead of its values."""
    setattr(weight, _ATTRIBUTE, read)


def attached(weight: torch.Tensor) -> Callable[[], Groups] | None:
    """The reader of groups that was attached to a weight, None if there is none."""
    read: Callable[[], Groups] | None = getattr(weight, _ATTRIBUTE, None)
    return read
