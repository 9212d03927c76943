"""Schedule: a plan as its trials, in an order that the seed decides.

Blocks of one repetition follow each other, so that what drifts meets all arms alike; inside a block
arms and prompts are shuffled. Turns of a conversation stay together.
"""

import random
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from service.core.experiments.plan import Measure, Plan, SyntheticPrompts
from service.core.experiments.trial import Trial

#: Prompt of warm-up trials on synthetic texts.
WARM_UP = "warm-up"


class Slot(Struct, frozen=True, kw_only=True):
    """A prompt that every arm is given once a repetition."""

    prompt_id: str
    size: int
    """Length class: arms are warmed up once for each."""
    context_tokens: int | None = None


class ProbeSlot(Struct, frozen=True, kw_only=True):
    """A probe that every arm is given once, in one repetition."""

    prompt_id: str
    probe: str
    level: int
    repetition: int


def size_class(text: str) -> int:
    """Class of a text by its length: of the next power of two of its bytes."""
    return len(text.encode()).bit_length()


def synthetic_id(repetition: int) -> str:
    """Prompt of a repetition: each has a text of its own, of which longer contexts take more."""
    return f"text-{repetition + 1}"


def conversation_id(repetition: int) -> str:
    """Conversation of a repetition."""
    return f"conversation-{repetition + 1}"


def schedule(
    plan: Plan, slots: Sequence[Slot] = (), probes: Sequence[ProbeSlot] = ()
) -> tuple[Trial, ...]:
    """Order all trials. *slots* are the prompts of a plan that are not synthetic.

    The same arguments give the same trials, so that a continued run is the run that was begun.
    """
    shuffled = random.Random(plan.seed).shuffle  # noqa: S311 (an order to be repeated, no secret)
    order: list[Trial] = []
    warm_ups = list(_warm_ups(plan, slots))
    shuffled(warm_ups)
    for unit in warm_ups:
        order += unit
    for repetition in range(plan.repetitions):
        block = list(_block(plan, slots, probes, repetition))
        shuffled(block)
        for unit in block:
            order += unit
    return tuple(
        msgspec.structs.replace(trial, number=number) for number, trial in enumerate(order)
    )


def timed_measure(plan: Plan) -> Measure | None:
    """Measure of the trials that are timed and weighed at once; None if the plan has neither."""
    return next((each for each in ("speed", "memory") if each in plan.measures), None)


def _slots(plan: Plan, slots: Sequence[Slot], prompt_id: str) -> Sequence[Slot]:
    if not isinstance(plan.prompts, SyntheticPrompts):
        return slots
    return [
        Slot(prompt_id=prompt_id, size=tokens, context_tokens=tokens)
        for tokens in dict.fromkeys(plan.prompts.context_tokens)
    ]


def _warm_ups(plan: Plan, slots: Sequence[Slot]) -> Iterator[list[Trial]]:
    """One of each size for each arm; an arm of another measure alone is warmed up by one more."""
    measure = timed_measure(plan)
    if measure is not None:
        sizes = {slot.size: slot for slot in reversed(_slots(plan, slots, WARM_UP))}
        for slot in sizes.values():
            for arm in range(len(plan.arms)):
                yield [_timed(measure, arm, slot, repetition=0, warmup=True)]
    if "turns" in plan.measures:
        for arm in range(len(plan.arms)):
            yield _conversation(plan, arm, WARM_UP, repetition=0, warmup=True)


def _block(
    plan: Plan, slots: Sequence[Slot], probes: Sequence[ProbeSlot], repetition: int
) -> Iterator[list[Trial]]:
    """Units of a repetition; the trials of a unit stay together."""
    measure = timed_measure(plan)
    for arm in range(len(plan.arms)):
        if measure is not None:
            for slot in _slots(plan, slots, synthetic_id(repetition)):
                yield [_timed(measure, arm, slot, repetition=repetition)]
        if "turns" in plan.measures:
            yield _conversation(plan, arm, conversation_id(repetition), repetition=repetition)
        if "score" in plan.measures and repetition == 0:  # it is the same each time
            for slot in slots:
                yield [_timed("score", arm, slot, repetition=repetition)]
        for probe in probes:
            if probe.repetition == repetition:
                yield [_probed(arm, probe)]


def _timed(
    measure: Measure, arm: int, slot: Slot, *, repetition: int, warmup: bool = False
) -> Trial:
    return Trial(
        number=0,
        arm=arm,
        measure=measure,
        prompt_id=slot.prompt_id,
        repetition=repetition,
        context_tokens=slot.context_tokens,
        warmup=warmup,
    )


def _probed(arm: int, probe: ProbeSlot) -> Trial:
    return Trial(
        number=0,
        arm=arm,
        measure="probes",
        prompt_id=probe.prompt_id,
        repetition=probe.repetition,
        probe=probe.probe,
        level=probe.level,
    )


def _conversation(
    plan: Plan, arm: int, prompt_id: str, *, repetition: int, warmup: bool = False
) -> list[Trial]:
    turns = 2 if warmup else plan.conversation.turns
    return [
        Trial(
            number=0,
            arm=arm,
            measure="turns",
            prompt_id=prompt_id,
            repetition=repetition,
            turn=turn,
            warmup=warmup,
        )
        for turn in range(1, turns + 1)
    ]
