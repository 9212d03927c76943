"""The work of each request, by its model's architecture: formulas once a model, then arithmetic."""

import asyncio
from pathlib import Path
from typing import Final

from msgspec import structs

from model_registry.errors import RegistryError
from model_registry.sources.model_files import read_config
from model_registry.spec import ResolvedModel
from model_registry.work import WorkFormula, work_formula
from service.core.ports import Engine
from service.core.record import RequestRecord
from service.core.work import Work

LARGEST_COUNT: Final = 2**63 - 1
"""Records hold 64-bit integers; another server can report any number of tokens."""


class WorkFormulas:
    """The formula of every model that answered, built before its first answer."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str | None], WorkFormula | None] = {}

    async def of(self, engine: Engine) -> WorkFormula | None:
        """The formula of an engine's model; None if its architecture is not known here."""
        model = engine.model
        key = model.id, model.path, model.weights_sha256
        if key not in self._known:
            # Without files nothing is read: only what blocks is worth a thread.
            formula = await asyncio.to_thread(_formula, model) if model.path else _formula(model)
            if formula is not None and model.quantization is not None:
                formula = _as_held(formula, engine.memory().weights_bytes)
            self._known[key] = formula
        return self._known[key]


def _formula(model: ResolvedModel) -> WorkFormula | None:
    """Blocking: read the config of a model's files, else the numbers of its catalogue entry."""
    try:
        config = read_config(Path(model.path)) if model.path else model.spec.architecture
        return work_formula(config, dtype=model.dtype, quantization=model.quantization)
    except RegistryError:
        return None


def _as_held(formula: WorkFormula, weights_bytes: int | None) -> WorkFormula:
    """The formula with the mean bytes of an element that were measured, where they were."""
    if weights_bytes is None:
        return formula
    return structs.replace(formula, weight_bytes=weights_bytes / formula.parameters)


def work_of(
    formula: WorkFormula | None, record: RequestRecord, *, scored: bool, tells_reuse: bool = False
) -> Work:
    """Work of a request that has ended, as far as it is known.

    A request that sampled nothing may have been ended anywhere in its prefill, unless it is `ok`.
    Where nothing was told of reused tokens, an engine that *tells_reuse* computed the whole prompt;
    of any other only the decode steps are known then. *scored*: all tokens of the prompt are.
    """
    prompt_tokens, new_tokens = record.prompt_tokens, record.completion_tokens
    if formula is None or not prompt_tokens or new_tokens is None:
        return Work()
    if not new_tokens and record.status != "ok":
        return Work()
    told = tells_reuse or record.cached_tokens is not None
    cached_tokens = record.cached_tokens or 0
    if cached_tokens >= prompt_tokens:
        return Work()
    found = formula.of(
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        new_tokens=new_tokens,
        scored=scored,
    )
    counts = {
        name: count if count is not None and count <= LARGEST_COUNT else None
        for name, count in structs.asdict(found).items()
    }
    if told:
        return Work(**counts)
    return Work(decode_flops=counts["decode_flops"], decode_bytes=counts["decode_bytes"])
