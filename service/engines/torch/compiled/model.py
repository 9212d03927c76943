"""A hosted model that runs as a program of compiled kernels."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np
import torch
from transformers import PreTrainedModel

from model_registry.spec import ResolvedModel
from service.core.events import ModelBuild, ModelMemory, StateBytes
from service.engines.torch.compiled.architectures import ASSEMBLERS
from service.engines.torch.compiled.blocks import Assembly
from service.engines.torch.compiled.ops.attention import QUERY_TOKENS, SPLIT_TOKENS
from service.engines.torch.compiled.program import Field, Kind, Program
from service.engines.torch.compiled.states import Slots
from service.engines.torch.rope import long_rope

#: Most tokens of one pass: longer prompts take several.
PASS_TOKENS: Final = 512


class CompiledModel:
    """One loaded model and its slots. Not thread-safe: one loop owns it.

    A token's logits are the same to the bit whatever shares its pass and however its prompt was
    divided, because every sum is taken in an order that depends on the token alone.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        resolved: ResolvedModel,
        build: ModelBuild,
        *,
        slots: int,
        threads: int,
    ) -> None:
        text = network.config.get_text_config(decoder=True)
        self.resolved = resolved
        self.build = build
        self.context_tokens = resolved.spec.context_tokens
        self.vocabulary_tokens = int(text.vocab_size)
        self.slots_total = slots
        self._pass_tokens = max(slots, PASS_TOKENS)
        kind = Kind.FLOAT32 if network.dtype is torch.float32 else Kind.BFLOAT16
        matrices = Kind.INT8 if resolved.quantization == "int8" else kind
        self._program = Program(
            kind, matrices=matrices, max_tokens=self._pass_tokens, threads=threads
        )
        self._slots = Slots(self._program, slots=slots, limit_tokens=self.context_tokens)
        self._long_rope = long_rope(text, slots)
        with torch.inference_mode():
            ASSEMBLERS[text.model_type](network, Assembly(self._program, self._slots, text))
        self._logits_width = -(-self.vocabulary_tokens // 16) * 16
        self._arrays = {
            field: np.zeros(self._pass_tokens + 1, dtype=np.int64)
            for field in (
                Field.TOKEN_IDS,
                Field.POSITIONS,
                Field.SEGMENT_OF_TOKENS,
                Field.FIRST_TOKENS,
                Field.ROWS,
                Field.LOGITS_TOKENS,
                Field.LONG_ROPES,
                Field.BLOCK_FIRSTS,
                Field.BLOCK_TOKENS,
            )
        }
        for field, array in self._arrays.items():
            self._program.head[field] = array.ctypes.data
        self._alone = True
        self._try_out()
        self._alone = False

    def take(self) -> int | None:
        """A free slot, its state cleared; None if all are taken."""
        slot = self._slots.take()
        if slot is not None and self._long_rope is not None:
            self._long_rope.clear(slot)
        return slot

    def release(self, slot: int) -> None:
        """Free a slot at once."""
        self._slots.release(slot)

    def prefill(
        self, slot: int, token_ids: Sequence[int], *, every_logit: bool = False
    ) -> torch.Tensor:
        """Append a chunk of tokens to a slot's state.

        Returns float32 logits of the last token, shape (vocabulary,), or of every token, shape
        (tokens, vocabulary).
        """
        wanted = len(token_ids)
        if self._long_rope is not None:
            crosses = self._long_rope.crosses(slot, len(token_ids))
            everything = self._long_rope.append(slot, token_ids)
            if crosses:
                self._slots.clear(slot)
                token_ids = everything
        self._program.head[Field.PREFILLING] = 1
        passes = [
            self._forward([slot], [token_ids[first : first + self._pass_tokens]], every_logit)
            for first in range(0, len(token_ids), self._pass_tokens)
        ]
        return torch.cat(passes)[-wanted:] if every_logit else passes[-1][0]

    def decode(self, slots: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        """Append one token to each slot; float32 logits, shape (slots, vocabulary)."""
        self._program.head[Field.PREFILLING] = 0
        if self._long_rope is None:
            return self._forward(slots, [(token,) for token in token_ids])
        crossing = [self._long_rope.crosses(slot, 1) for slot in slots]
        tokens = list(zip(slots, token_ids, strict=True))
        rows: dict[int, torch.Tensor] = {
            slot: self.prefill(slot, (token,))
            for (slot, token), crosses in zip(tokens, crossing, strict=True)
            if crosses
        }
        others = [pair for pair, crosses in zip(tokens, crossing, strict=True) if not crosses]
        if others:
            self._program.head[Field.PREFILLING] = 0
            for slot, token in others:
                self._long_rope.append(slot, (token,))
            logits = self._forward([slot for slot, _ in others], [(token,) for _, token in others])
            rows |= zip((slot for slot, _ in others), logits, strict=True)
        return torch.stack([rows[slot] for slot in slots])

    def length_tokens(self, slot: int) -> int:
        """Tokens that a slot's state has seen."""
        return self._slots.lengths[slot]

    def state_bytes(self, slot: int) -> StateBytes:
        """Bytes of a slot's state."""
        return self._slots.state_bytes(slot)

    def memory(self) -> ModelMemory:
        """Bytes held now."""
        return ModelMemory(
            weights_bytes=self._program.weights_bytes,
            slots_bytes=self._slots.reserved_bytes,
            slots_total=self.slots_total,
            slots_used=self._slots.taken,
            workspace_bytes=self._program.workspace_bytes,
        )

    def close(self) -> None:
        """Drop weights and slots."""
        del self._program, self._slots

    def poison(self) -> None:
        """Overwrite all memory that no live token owns with NaN, for tests."""
        self._slots.poison()

    def _try_out(self) -> None:
        """Begin, continue and step a sequence, so that what cannot run fails at load.

        Alone, because the thread that loads is not the engine's: see `compute_alone`.
        """
        slot = self.take()
        assert slot is not None
        self.prefill(slot, [0, 0])
        self.prefill(slot, [0, 0])
        self.decode([slot], [0])
        self.release(slot)

    def _forward(
        self,
        slots: Sequence[int],
        token_ids: Sequence[Sequence[int]],
        every_logit: bool = False,
    ) -> torch.Tensor:
        """Advance slots by their tokens; float32 logits of the last or of every token."""
        largest = max(map(max, token_ids))
        if largest >= self.vocabulary_tokens or min(map(min, token_ids)) < 0:
            # Kernels read where an id points to: beyond the embeddings the process would die.
            raise IndexError(f"token {largest} is not one of {self.vocabulary_tokens}")
        counts = [len(ids) for ids in token_ids]
        total = sum(counts)
        self._slots.reserve(list(slots), counts)
        arrays, head = self._arrays, self._program.head
        firsts = [0, *accumulate(counts)]
        arrays[Field.FIRST_TOKENS][: len(firsts)] = firsts
        arrays[Field.ROWS][: len(slots)] = slots
        longest, blocks, lengths = 0, [], []
        for segment, (slot, ids) in enumerate(zip(slots, token_ids, strict=True)):
            first, count, start = firsts[segment], counts[segment], self._slots.lengths[slot]
            here = slice(first, first + count)
            arrays[Field.TOKEN_IDS][here] = ids
            arrays[Field.POSITIONS][here] = range(start, start + count)
            arrays[Field.SEGMENT_OF_TOKENS][here] = segment
            if self._long_rope is not None:
                arrays[Field.LONG_ROPES][here] = self._long_rope.is_long_after(slot)
            longest = max(longest, start + count)
            for block in range(0, count, QUERY_TOKENS):
                blocks.append(first + block)
                lengths.append(min(QUERY_TOKENS, count - block))
        arrays[Field.BLOCK_FIRSTS][: len(blocks)] = blocks
        arrays[Field.BLOCK_TOKENS][: len(blocks)] = lengths
        wanted = range(total) if every_logit else [first - 1 for first in firsts[1:]]
        arrays[Field.LOGITS_TOKENS][: len(wanted)] = wanted
        logits = torch.empty(len(wanted), self._logits_width, dtype=torch.float32)
        splits = -(-longest // SPLIT_TOKENS)
        head[Field.TOKENS] = total
        head[Field.SEGMENTS] = len(slots)
        head[Field.LOGITS_ROWS] = len(wanted)
        head[Field.LOGITS] = logits.data_ptr()
        head[Field.BLOCKS] = len(blocks)
        # A prefill has queries enough for every thread.
        head[Field.SPLITS] = splits if splits * total <= self._pass_tokens // 4 else 1
        self._program.run(alone=self._alone)
        self._slots.advance(list(slots), counts)
        return logits[:, : self.vocabulary_tokens]
