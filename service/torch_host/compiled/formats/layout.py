"""The order of a packed matrix's bytes, which is that of a product's reading.

A matrix (outputs, inputs) is cut into panels of 16 outputs, whose lanes lie side by side; four
panels are interleaved, so that a product reads the whole matrix as one stream. A step of a panel is
64 bytes of it, 32 bits per lane.
"""

from typing import Final

import torch
from torch.nn import functional

from service.torch_host.compiled.codegen.lanes import LANES
from service.torch_host.compiled.memory import aligned_bytes

_INTERLEAVED: Final = 4


def padded(weight: torch.Tensor, inputs: int) -> torch.Tensor:
    """Pad with zeros to the given inputs and to whole panels of outputs."""
    return functional.pad(weight, (0, inputs - weight.shape[1], 0, -weight.shape[0] % LANES))


def interleaved(weight: torch.Tensor) -> torch.Tensor:
    """(outputs, elements), the outputs whole panels, as the bytes of a stream."""
    outputs, elements = weight.shape
    depth = 4 // weight.element_size()
    storage = aligned_bytes(weight.nbytes)
    target = storage.view(weight.dtype)
    whole = outputs // (LANES * _INTERLEAVED) * LANES * _INTERLEAVED
    for rows in (slice(0, whole), slice(whole, outputs)):
        part = weight[rows]
        if part.shape[0]:
            panels = min(_INTERLEAVED, part.shape[0] // LANES)
            cut = part.view(-1, panels, LANES, elements // depth, depth).permute(0, 3, 1, 2, 4)
            target[rows.start * elements : rows.stop * elements].view(cut.shape).copy_(cut)
    return storage
