"""Trials of an experiment as if they had been measured: known truths with seeded noise."""

import random
from collections.abc import Sequence

from service.core.experiments.plan import Arm, Measure, Plan, SyntheticPrompts
from service.core.experiments.trial import Trial

CONTEXTS = (64, 128, 256, 512, 1024, 1536)
#: By model: state bytes, ms of TPOT and ms of TTFT as (at no context, per token).
TRUTH = {
    "attention": ((0, 3072), (8.0, 0.004), (20.0, 0.30)),
    "ssm": ((917_504, 0), (10.0, 0.0), (40.0, 0.20)),
    "hybrid": ((400_000, 768), (9.0, 0.001), (25.0, 0.25)),
}


def plan_of(*models: str, measures: Sequence[Measure] = ("speed", "memory"), **more) -> Plan:
    """Return a plan of synthetic prompts for these models."""
    prompts = SyntheticPrompts(context_tokens=CONTEXTS)
    arms = tuple(Arm(model=model) for model in models)
    return Plan(name="Test", arms=arms, measures=tuple(measures), **{"prompts": prompts, **more})


def timed_trials(
    plan: Plan, *, repetitions: int = 10, noise: float = 0.03, seed: int = 0, **more
) -> list[Trial]:
    """Return done trials of speed and memory; `more` are fields that all of them have."""
    rng = random.Random(seed)
    trials: list[Trial] = []
    for repetition in range(repetitions):
        for context in CONTEXTS:
            for arm, chosen in enumerate(plan.arms):
                memory, tpot, ttft = TRUTH.get(chosen.model, TRUTH["attention"])
                ttft_ms = (ttft[0] + ttft[1] * context) * rng.lognormvariate(0, noise)
                values = {
                    "memory_bytes": float(memory[0] + memory[1] * context),
                    "tpot_ms": (tpot[0] + tpot[1] * context) * rng.lognormvariate(0, noise),
                    "ttft_ms": ttft_ms,
                    "prefill_ms": ttft_ms * 0.95,
                    "energy_j": None,
                }
                trials.append(
                    Trial(
                        number=len(trials),
                        arm=arm,
                        measure="speed",
                        prompt_id=f"text-{repetition}",
                        repetition=repetition,
                        context_tokens=context,
                        **{
                            "state": "done",
                            "values": values,
                            "kernel_path": "compiled",
                            "build_sha256": chosen.model,
                            **more,
                        },
                    )
                )
    return trials


def probed_trials(plan: Plan, shares: Sequence[float], *, items: int = 60) -> list[Trial]:
    """Return probe trials on which arm i answered the share `shares[i]` right."""
    rng = random.Random(1)
    return [
        Trial(
            number=item,
            arm=arm,
            measure="probes",
            prompt_id=f"recall-{level}-{item}",
            repetition=0,
            probe="recall",
            level=level,
            state="done",
            values={"recall": float(rng.random() < share)},
        )
        for level in (4, 16)
        for item in range(items)
        for arm, share in enumerate(shares)
    ]


def turn_trials(plan: Plan, later_ms: Sequence[float], *, conversations: int = 10) -> list[Trial]:
    """Return trials of four turns; from the second on arm i needs about `later_ms[i]`."""
    rng = random.Random(2)
    return [
        Trial(
            number=conversation * 100 + turn * 10 + arm,
            arm=arm,
            measure="turns",
            prompt_id=f"conversation-{conversation}",
            repetition=conversation,
            turn=turn,
            state="done",
            values={
                "ttft_ms": (100.0 if turn == 1 else later) * rng.lognormvariate(0, 0.02),
                "memory_bytes": 1000.0 * turn,
                "cached_tokens": 50.0 * (turn - 1),
            },
        )
        for conversation in range(conversations)
        for arm, later in enumerate(later_ms)
        for turn in range(1, 5)
    ]
