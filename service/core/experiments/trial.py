"""Trial: one request of an experiment, planned, then measured."""

from typing import Literal

from msgspec import Struct, field

from service.core.experiments.plan import Measure

TrialState = Literal["planned", "done", "failed"]


class Trial(Struct, frozen=True, kw_only=True):
    """One arm on one prompt. Trials with the same pairing key are compared with each other."""

    number: int
    """Position in the order of the run."""
    arm: int
    """Index in the plan."""
    measure: Measure
    prompt_id: str
    """Same for all arms that were given this prompt."""
    repetition: int
    context_tokens: int | None = None
    """Tokens that the plan asked for; None where the prompt decides."""
    turn: int | None = None
    """Of a conversation, from 1; None outside the `turns` measure."""
    probe: str | None = None
    """Kind of probe, e.g. `recall`; its accuracy is `values[probe]`, 0 or 1."""
    level: int | None = None
    """What the probe varies: pairs, distance in tokens, words to copy."""
    warmup: bool = False
    """Left out of every number."""

    state: TrialState = "planned"
    request_id: str | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    """By metric: `ttft_ms`, `tpot_ms`, `prefill_ms`, `memory_bytes`, `bits_per_byte`, `energy_j`,
    and the probe's own; None where unknown."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    text_sha256: str | None = None
    cold: bool = False
    disturbances: tuple[str, ...] = ()
    """What ran beside it although the machine was to be quiet."""
    kernel_path: str | None = None
    build_sha256: str | None = None
    """Of model, variant and build: unlike builds are not compared over time."""
    error: str | None = None

    @property
    def pairing(self) -> tuple[str, int, int | None, int]:
        """Key by which arms are paired: prompt, context, turn and repetition."""
        return (self.prompt_id, self.context_tokens or 0, self.turn, self.repetition)
