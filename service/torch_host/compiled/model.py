"""A hosted model that runs as a program of compiled kernels."""

from collections.abc import Sequence
from itertools import accumulate, chain
from operator import add
from typing import Final

import numpy as np
import torch
from transformers import PreTrainedModel

from model_registry.spec import ResolvedModel
from service.core.events import ModelBuild
from service.torch_host.compiled import batch
from service.torch_host.compiled.architectures import ASSEMBLERS
from service.torch_host.compiled.blocks.assembly import Assembly
from service.torch_host.compiled.formats.floats import BFLOAT16, FLOAT32
from service.torch_host.compiled.formats.format import Matrix
from service.torch_host.compiled.formats.registry import VARIANTS
from service.torch_host.compiled.heads import QUERY_TOKENS, SPLIT_TOKENS
from service.torch_host.compiled.program import Program
from service.torch_host.compiled.state_copies import CompiledStateCopies
from service.torch_host.compiled.states import Slots
from service.torch_host.slot_model import SlotModel

#: Most tokens of one pass: longer prompts take several.
PASS_TOKENS: Final = 512


class CompiledModel(SlotModel):
    """A loaded model and its slots. Not thread-safe: one loop owns it.

    A token's logits are the same to the bit whatever shares its pass and however its prompt was
    divided, because every sum is taken in an order that depends on the token alone. With `stored`
    matrices the network's own need no values.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        resolved: ResolvedModel,
        build: ModelBuild,
        *,
        slots: int,
        threads: int,
        stored: Sequence[Matrix] | None = None,
    ) -> None:
        text = network.config.get_text_config(decoder=True)
        super().__init__(text, resolved, build, slots=slots)
        self._pass_tokens = max(slots, PASS_TOKENS)
        kind = FLOAT32 if network.dtype is torch.float32 else BFLOAT16
        matrices = VARIANTS.get(resolved.quantization or "")
        self._program = Program(
            kind,
            matrices=matrices,
            max_tokens=self._pass_tokens,
            threads=threads,
            stored=stored,
        )
        self._slots: Slots = Slots(self._program, slots=slots, limit_tokens=self.context_tokens)
        with torch.inference_mode():
            ASSEMBLERS[text.model_type](network, Assembly(self._program, self._slots, text))
        self.copies = CompiledStateCopies(self._slots)
        self._weights_bytes = self._program.weights_bytes
        self._workspace_bytes = self._program.workspace_bytes
        self._logits_width = -(-self.vocabulary_tokens // 16) * 16
        self._arrays = {
            field: np.zeros(self._pass_tokens + 1, dtype=np.int64)
            for field in (
                batch.TOKEN_IDS,
                batch.POSITIONS,
                batch.SEGMENT_OF_TOKENS,
                batch.FIRST_TOKENS,
                batch.ROWS,
                batch.LOGITS_TOKENS,
                batch.LONG_ROPES,
                batch.BLOCK_FIRSTS,
                batch.BLOCK_TOKENS,
            )
        }
        for field, array in self._arrays.items():
            self._program.head[field] = array.ctypes.data
        self._program.reaches(self._arrays.values)
        # The thread that loads is not the engine's, and only that may have a team.
        self._alone = True
        self._try_out()
        self._alone = False

    @property
    def packed(self) -> Sequence[Matrix]:
        """The program's matrices, to be passed as `stored` to an equal model."""
        return self._program.packed

    def close(self) -> None:
        """Drop weights and slots."""
        self.copies = None
        del self._program, self._slots

    def _prefill(self, slot: int, token_ids: Sequence[int], *, logits: int) -> torch.Tensor:
        passes = [
            self._forward(
                [slot],
                [token_ids[first : first + self._pass_tokens]],
                every_logit=logits > 1,
                prefilling=True,
            )
            for first in range(0, len(token_ids), self._pass_tokens)
        ]
        return torch.cat(passes)[-logits:]

    def _decode(self, slots: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        return self._forward(slots, [(token,) for token in token_ids])

    def _forward(
        self,
        slots: Sequence[int],
        token_ids: Sequence[Sequence[int]],
        *,
        every_logit: bool = False,
        prefilling: bool = False,
    ) -> torch.Tensor:
        """Advance slots by their tokens; float32 logits of the last or of every token."""
        ids = list(chain.from_iterable(token_ids))
        if max(ids) >= self.vocabulary_tokens or min(ids) < 0:
            # Kernels read where an id points to: beyond the embeddings the process would die.
            raise IndexError(f"a token is not one of {self.vocabulary_tokens}: {max(ids)}")
        counts = [len(part) for part in token_ids]
        firsts = [0, *accumulate(counts)]
        starts = [self._slots.lengths[slot] for slot in slots]
        self._slots.reserve(slots, counts)
        longs = [0] * len(slots)
        if self._long_rope is not None:
            longs = [int(self._long_rope.is_long(slot)) for slot in slots]
        blocks = [
            (first + begin, min(QUERY_TOKENS, count - begin))
            for first, count in zip(firsts, counts, strict=False)
            for begin in range(0, count, QUERY_TOKENS)
        ]
        wanted = range(len(ids)) if every_logit else [end - 1 for end in firsts[1:]]
        self._fill(batch.TOKEN_IDS, ids)
        self._fill(batch.POSITIONS, np.arange(len(ids)) - np.repeat(firsts[:-1], counts))
        self._arrays[batch.POSITIONS][: len(ids)] += np.repeat(starts, counts)
        self._fill(batch.SEGMENT_OF_TOKENS, np.repeat(np.arange(len(slots)), counts))
        self._fill(batch.LONG_ROPES, np.repeat(longs, counts))
        self._fill(batch.FIRST_TOKENS, firsts)
        self._fill(batch.ROWS, slots)
        self._fill(batch.BLOCK_FIRSTS, [first for first, _ in blocks])
        self._fill(batch.BLOCK_TOKENS, [tokens for _, tokens in blocks])
        self._fill(batch.LOGITS_TOKENS, wanted)
        logits = torch.empty(len(wanted), self._logits_width, dtype=torch.float32)
        longest = max(map(add, starts, counts))
        splits = -(-longest // SPLIT_TOKENS)
        head = self._program.head
        head[batch.TOKENS] = len(ids)
        head[batch.SEGMENTS] = len(slots)
        head[batch.PREFILLING] = prefilling
        head[batch.LOGITS_ROWS] = len(wanted)
        head[batch.LOGITS] = logits.data_ptr()
        head[batch.BLOCKS] = len(blocks)
        # A prefill has queries enough for every thread.
        head[batch.SPLITS] = splits if splits * len(ids) <= self._pass_tokens // 4 else 1
        self._program.run(alone=self._alone, result=logits)
        self._slots.advance(slots, counts)
        return logits[:, : self.vocabulary_tokens]

    def _fill(self, field: int, values: Sequence[int] | np.ndarray) -> None:
        """Write the first values of an array that the batch's head points to."""
        self._arrays[field][: len(values)] = values
