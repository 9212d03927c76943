"""Planning: checks a plan against the models there are, and turns it into trials and prompts."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from service.core.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelUnusable,
    NotFound,
    TriptychError,
)
from service.core.experiments.plan import (
    FilePrompts,
    InlinePrompts,
    Plan,
    RecordPrompts,
    SyntheticPrompts,
)
from service.core.experiments.schedule import schedule, timed_measure
from service.core.experiments.trial import Trial
from service.core.ports import RecordFilter
from service.core.record import RequestRecord
from service.serving.experiments.probes import planned_probes
from service.serving.experiments.prompts import GivenPrompt, inline_prompts
from service.serving.experiments.recorded import recorded_prompt
from service.serving.experiments.sampling import sampling_of
from service.serving.models.pool import Pool
from service.serving.records.report import Reports

MOST_TRIALS: Final = 100_000
#: Records that are read for prompts of a filter before their search is given up.
_MOST_READ: Final = 100_000
_PAGE: Final = 500


class Chosen(Struct, frozen=True, kw_only=True):
    """Records whose prompts are used."""

    record_ids: tuple[str, ...] = ()
    unusable: dict[str, int] = {}
    """Records that were read and left out, by the reason; see `recorded.Unusable`."""


class Planning:
    """What has to be known before an experiment runs, and again when it is continued."""

    def __init__(
        self,
        pool: Pool,
        *,
        routes: Sequence[str],
        max_answer_tokens: int,
        records: Reports,
    ) -> None:
        self._pool = pool
        self._routes = frozenset(routes)
        self._max_answer_tokens = max_answer_tokens
        self._records = records

    async def records(self, plan: Plan, where: RecordFilter | None) -> Chosen:
        """Check the plan, and choose the records whose prompts it uses, newest first.

        Raises InvalidRequest or ModelNotFound naming the field.
        """
        await self._check(plan)
        if not isinstance(plan.prompts, RecordPrompts):
            return Chosen()
        found: list[str] = []
        unusable: Counter[str] = Counter()
        cursor, read = None, 0
        while len(found) < plan.prompts.limit and read < _MOST_READ:
            page = await self._records.page(where or RecordFilter(), limit=_PAGE, cursor=cursor)
            for record in page.data:
                prompt = recorded_prompt(record, plan.prompts)
                if isinstance(prompt, GivenPrompt):
                    found.append(prompt.id)
                else:
                    unusable[prompt] += 1
                read += 1
                if len(found) == plan.prompts.limit:
                    break
            cursor = page.next_cursor
            if cursor is None:
                break
        if not found:
            reasons = ", ".join(f"{name}: {count}" for name, count in unusable.most_common())
            raise InvalidRequest(
                f"None of the {read} records that `prompts.filter` matches has a prompt that can "
                f"be asked again ({reasons or 'none matches'}): prompts are kept with "
                '`store_content = "full"` alone, and prompts of token ids are of one model.',
                param="prompts.filter",
            )
        return Chosen(record_ids=tuple(found), unusable=dict(unusable))

    async def prompts(self, plan: Plan, record_ids: Sequence[str]) -> dict[str, GivenPrompt]:
        """Prompts by their id; those of records that are gone are left out."""
        match plan.prompts:
            case InlinePrompts():
                return inline_prompts(plan.prompts)
            case RecordPrompts() as asked:
                records = [await self._record(each) for each in record_ids]
                found = (recorded_prompt(each, asked) for each in records if each)
                return {prompt.id: prompt for prompt in found if isinstance(prompt, GivenPrompt)}
            case _:
                return {}

    async def trials(self, plan: Plan, record_ids: Sequence[str]) -> tuple[Trial, ...]:
        """All trials in order. Raises InvalidRequest for too many."""
        prompts = await self.prompts(plan, record_ids)
        slots = [prompt.slot for prompt in prompts.values()]
        planned = schedule(plan, slots, [probe.slot for probe in planned_probes(plan).values()])
        if len(planned) > MOST_TRIALS:
            raise InvalidRequest(
                f"The plan has {len(planned)} trials; {MOST_TRIALS} are the most. Use fewer "
                "prompts, repetitions or arms.",
                param="repetitions",
            )
        return planned

    async def _record(self, request_id: str) -> RequestRecord | None:
        with contextlib.suppress(NotFound):
            return await self._records.record(request_id)
        return None

    async def _check(self, plan: Plan) -> None:
        if "score" in plan.measures and isinstance(plan.prompts, SyntheticPrompts):
            raise InvalidRequest(
                "The measure `score` needs texts of which a score says something: prompts of kind "
                "`inline`, `file` or `records`, not `synthetic`.",
                param="measures",
            )
        if isinstance(plan.prompts, FilePrompts):
            raise InvalidRequest(
                "The service opens no files: send their prompts with `kind: inline`, as "
                "`triptych experiment run` does.",
                param="prompts.kind",
            )
        planned_probes(plan)
        for index, arm in enumerate(plan.arms):
            await self._check_model(arm.model, index)
            sampling_of(arm, index, seed=plan.seed, max_tokens=None, exact=False)
        self._check_lengths(plan)

    async def _check_model(self, name: str, index: int) -> None:
        where = f"arms[{index}].model"
        if name in self._routes:
            raise InvalidRequest(
                f"`{name}` is a route; name one of its models in `{where}`.", param=where
            )
        if name not in self._pool.models:
            raise ModelNotFound(
                f"The model `{name}` of `{where}` does not exist; see GET /v1/models.", param=where
            )
        found = await asyncio.to_thread(self._pool.models[name].files.look)
        if isinstance(found, TriptychError):
            raise ModelUnusable(f"`{where}` cannot be served here: {found}", param=where)

    def _check_lengths(self, plan: Plan) -> None:
        new_tokens = plan.prompts.new_tokens
        for where, tokens in (
            ("prompts.new_tokens", new_tokens),
            ("conversation.new_tokens", plan.conversation.new_tokens),
        ):
            if tokens is not None and tokens > self._max_answer_tokens:
                raise InvalidRequest(
                    f"`{where}` is too large: {tokens}. An answer has at most "
                    f"{self._max_answer_tokens} tokens here.",
                    param=where,
                )
        if not isinstance(plan.prompts, SyntheticPrompts) or timed_measure(plan) is None:
            return
        longest = max(plan.prompts.context_tokens) + plan.prompts.new_tokens
        for arm in plan.arms:
            context_tokens = self._pool.models[arm.model].entry.spec.context_tokens
            if longest > context_tokens:
                raise InvalidRequest(
                    f"`prompts.context_tokens` and `new_tokens` add up to {longest} tokens, and "
                    f"{arm.model} has a context of {context_tokens}.",
                    param="prompts.context_tokens",
                )
