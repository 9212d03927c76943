"""Predicted memory of a request's state, by the registry's formulas, beside what was measured."""

from collections.abc import Sequence
from pathlib import Path

from model_registry.errors import RegistryError
from model_registry.footprint import StateGrowth, state_growth
from model_registry.sources.model_files import read_config
from model_registry.spec import ResolvedModel
from service.core.experiments.plan import Plan
from service.core.experiments.trial import Trial
from service.serving.models.pool import Pool


def predicted_bytes(pool: Pool, plan: Plan, trials: Sequence[Trial]) -> dict[str, dict[int, float]]:
    """By model, bytes of a request's state by its context. Blocking: it reads configs.

    The last token of an answer is sampled and never fed back, so that the state is of
    prompt + answer − 1 tokens. Models without a config that is understood here are left out, and
    conversations too, whose lengths depend on the arms' own words.
    """
    found: dict[str, dict[int, float]] = {}
    growths: dict[str, StateGrowth | None] = {}
    for trial in trials:
        length = (trial.prompt_tokens or 0) + (trial.completion_tokens or 0) - 1
        if trial.warmup or trial.context_tokens is None or not trial.completion_tokens:
            continue
        model = plan.arms[trial.arm].model
        if model not in growths:
            growths[model] = _growth(pool, model)
        growth = growths[model]
        if growth is not None:
            whole = growth.constant_bytes + growth.kv_bytes(length)
            found.setdefault(model, {})[trial.context_tokens] = whole
    return found


def _growth(pool: Pool, model: str) -> StateGrowth | None:
    hosted = pool.models.get(model)
    resolved = hosted.files.look() if hosted is not None else None
    if not isinstance(resolved, ResolvedModel) or not resolved.path:
        return None
    try:
        return state_growth(read_config(Path(resolved.path)), dtype=resolved.dtype)
    except RegistryError:
        return None
