"""Prefixes: restores what a sequence shares with earlier ones, and stores its own state."""

import logging
import time
from collections import Counter
from typing import Final

import torch
from torch import Tensor

from service import __version__
from service.core.events import PrefixReuse
from service.core.runtime import PrefixCacheUse
from service.torch_host.faults import log_fault
from service.torch_host.prefix.cache import Kind, PrefixCache
from service.torch_host.prefix.copies import StateCopies
from service.torch_host.prefix.hashing import Chain, root_key
from service.torch_host.prefix.positions import LEAST_TOKENS, snapshot_positions
from service.torch_host.prefix.reuse import Miss, miss
from service.torch_host.sequence import Sequence
from service.torch_host.slot_model import SlotModel

KEPT: Final = 0.8
"""Weight that a measured prefill keeps with each later one."""

TYPICAL_TOKENS: Final = 64
"""Chunks from this size on tell the prefill time of a token; smaller ones mostly read weights."""

log = logging.getLogger(__name__)


class Prefixes:
    """The prefix cache of all models of a loop, and when it is read and written.

    A fault of a copy costs the request its shortcut and is logged; the request goes on.
    """

    def __init__(self, cache: PrefixCache | None = None) -> None:
        self.cache = cache or PrefixCache()
        self.counted: Counter[str] = Counter()
        """Tokens that were looked for, `queries`, and of these the ones restored, `hits`."""
        self._copied_ns = 0
        self._token_ns: dict[str, tuple[int, float]] = {}
        """Tokens of a typical chunk of each model, and the prefill time of one."""

    def __repr__(self) -> str:
        return f"<Prefixes of {self.cache!r}>"

    @property
    def use(self) -> PrefixCacheUse:
        """Bytes and counts, as they are reported."""
        return PrefixCacheUse(
            max_bytes=self.cache.max_bytes,
            held_bytes=self.cache.held_bytes,
            entries=self.cache.entries,
            query_tokens=self.counted["queries"],
            hit_tokens=self.counted["hits"],
            stores=dict(self.cache.stores),
            evictions=dict(self.cache.evictions),
        )

    def take_copied_ns(self) -> int:
        """Time spent on copies since the last call: no part of a step's prefill or decode."""
        copied_ns, self._copied_ns = self._copied_ns, 0
        return copied_ns

    def begin(self, sequence: Sequence, model: SlotModel) -> int:
        """Restore the longest known beginning of a prompt into its new slot; return its tokens."""
        reuse = sequence.reuse
        reason = self._bypass(sequence, model)
        if reason is not None:
            reuse.told = PrefixReuse(cache_miss=reason)
            return 0
        began_ns = time.monotonic_ns()
        try:
            self._restore(sequence, model)
        except Exception as error:  # noqa: BLE001 - memory may be short; the prompt can be computed
            log_fault(log, "a restore", error, model_id=sequence.model_id)
            assert sequence.slot is not None
            model.restart(sequence.slot, sequence_tokens=len(sequence.prompt_ids))
            reuse.chain, reuse.cached_tokens = None, 0
            reuse.told = PrefixReuse(cache_miss="failed")
        self._copied_ns += time.monotonic_ns() - began_ns
        self.counted["queries"] += len(sequence.prompt_ids)
        self.counted["hits"] += reuse.cached_tokens
        sequence.read_tokens = reuse.cached_tokens
        return reuse.cached_tokens

    def prefill(
        self, sequence: Sequence, model: SlotModel, tokens: int, *, every_logit: bool
    ) -> Tensor:
        """Prefill a sequence's next tokens, with pauses where its state is stored.

        Returns logits as `SlotModel.prefill` does; with pauses, of the last part.
        """
        assert sequence.slot is not None
        reuse, end = sequence.reuse, sequence.read_tokens + tokens
        while True:
            begin = sequence.read_tokens
            pauses = reuse.cuts and reuse.cuts[0] <= end
            stop = reuse.cuts.pop(0) if pauses else end
            if stop > begin:
                began_ns = time.monotonic_ns()
                part = sequence.to_read[begin:stop]
                logits = model.prefill(sequence.slot, part, every_logit=every_logit)
                self._observe(sequence.model_id, stop - begin, time.monotonic_ns() - began_ns)
                sequence.read_tokens = stop
            if reuse.chain is not None and (pauses or not _by_snapshot(model)):
                self._store(sequence, model, sequence.prompt_ids[:stop])
            if stop == end:
                return logits

    def finish(self, sequence: Sequence, model: SlotModel) -> None:
        """Store the state behind an answer, which lacks its last token."""
        if sequence.reuse.chain is None or sequence.slot is None or model.copies is None:
            return
        length = model.length_tokens(sequence.slot)
        decoded = length - len(sequence.prompt_ids)
        if length - sequence.reuse.cached_tokens < LEAST_TOKENS:
            return
        if model.copies.by_snapshot and (decoded < LEAST_TOKENS or model.copies.decode_differs):
            return  # what the prompt left is enough, or all that is exact
        self._store(sequence, model, [*sequence.prompt_ids, *sequence.token_ids[: max(0, decoded)]])

    def forget(self, model_id: str) -> None:
        """Drop all that a model stored: it is being unloaded."""
        self.cache.drop_model(model_id)
        self._token_ns.pop(model_id, None)

    def _bypass(self, sequence: Sequence, model: SlotModel) -> Miss | None:
        """Why a sequence takes no part; None if it does."""
        if not self.cache.max_bytes:
            return "disabled"
        if model.copies is None:
            return "not supported on this path"
        if model.rotates_by_length:
            return "rotary factors depend on length"
        if not sequence.request.prefix_cache:
            return "bypassed"
        return "prompt is scored" if sequence.scores_prompt else None

    def _restore(self, sequence: Sequence, model: SlotModel) -> None:
        copies, reuse, prompt = model.copies, sequence.reuse, sequence.prompt_ids
        assert copies is not None
        assert sequence.slot is not None
        chain = Chain(_root(model, sequence.request.cache_salt))
        match = self.cache.find(chain, prompt, most_tokens=len(prompt) - 1)
        restore_ns = None
        if match.tokens:
            began_ns = time.monotonic_ns()
            with torch.inference_mode():
                copies.restore(sequence.slot, match.tokens, match.blocks, match.snapshot)
            restore_ns = time.monotonic_ns() - began_ns
        reuse.chain, reuse.cached_tokens = chain, match.tokens
        if copies.by_snapshot:
            reuse.cuts = snapshot_positions(
                len(prompt),
                restored_tokens=match.tokens,
                matched_tokens=match.matched_tokens,
                message_start=reuse.message_start,
            )
        token_ns = self._prefill_token_ns(sequence.model_id)
        reuse.told = PrefixReuse(
            matched_tokens=match.matched_tokens,
            restored_from=_restored_from(match.tokens, by_snapshot=copies.by_snapshot),
            restore_ns=restore_ns,
            saved_prefill_ns=None if token_ns is None else round(match.tokens * token_ns),
            cache_miss=miss(match, len(prompt), by_snapshot=copies.by_snapshot),
        )

    def _store(self, sequence: Sequence, model: SlotModel, token_ids: list[int]) -> None:
        """Keep the state after these tokens, which is the slot's."""
        copies, slot, chain = model.copies, sequence.slot, sequence.reuse.chain
        assert copies is not None
        assert slot is not None
        assert chain is not None
        began_ns = time.monotonic_ns()
        token_ns = self._prefill_token_ns(sequence.model_id) or 1.0
        kind = Kind(sequence.model_id, copies.block_bytes, copies.by_snapshot, token_ns)
        try:
            sequence.reuse.snapshot_bytes += self._put(chain, token_ids, kind, copies, slot)
        except Exception as error:  # noqa: BLE001 - as above
            log_fault(log, "a copy of state", error, model_id=sequence.model_id)
            sequence.reuse.chain = None
            sequence.reuse.cuts.clear()
        self._copied_ns += time.monotonic_ns() - began_ns

    def _put(
        self, chain: Chain, token_ids: list[int], kind: Kind, copies: StateCopies, slot: int
    ) -> int:
        def block(index: int) -> object:
            return copies.copy_block(slot, index)

        with torch.inference_mode():
            if not kind.by_snapshot:
                return self.cache.store_blocks(chain, token_ids, kind, block)
            return self.cache.store_snapshot(
                chain,
                token_ids,
                kind,
                block,
                lambda: copies.copy_snapshot(slot),
                copies.snapshot_bytes(slot),
            )

    def _observe(self, model_id: str, tokens: int, duration_ns: int) -> None:
        """Learn the prefill time of a token, from the largest chunks that come."""
        size, mean_ns = self._token_ns.get(model_id, (0, 0.0))
        tokens_ns = duration_ns / tokens
        if min(tokens, TYPICAL_TOKENS) > size:
            self._token_ns[model_id] = min(tokens, TYPICAL_TOKENS), tokens_ns
        elif tokens >= size:
            self._token_ns[model_id] = size, KEPT * mean_ns + (1 - KEPT) * tokens_ns

    def _prefill_token_ns(self, model_id: str) -> float | None:
        return self._token_ns[model_id][1] if model_id in self._token_ns else None


def _by_snapshot(model: SlotModel) -> bool:
    return model.copies is not None and model.copies.by_snapshot


def _restored_from(tokens: int, *, by_snapshot: bool) -> str | None:
    if not tokens:
        return None
    return "snapshot" if by_snapshot else "kv"


def _root(model: SlotModel, salt: str | None) -> bytes:
    """Key of all that a state depends on besides its tokens."""
    build = model.build
    return root_key(
        (
            model.resolved.id,
            build.weights_sha256,
            build.dtype,
            build.quantization,
            build.engine_version,
            build.device,
            build.kernel_path,
            __version__,
            salt,
        )
    )
