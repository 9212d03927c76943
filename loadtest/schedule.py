"""Schedule of a test: the same prompts at the same offsets for every model, block by block.

Within a block the models take turns in an order drawn anew, so that a machine that slows down
or warms up during the test favours none of them.
"""

from random import Random

from msgspec import Struct

from loadtest.arrivals import offsets_s
from loadtest.plan import Plan


class Send(Struct, frozen=True, kw_only=True):
    """A planned request."""

    number: int
    """Index among all requests of the test."""
    prompt: int
    """Index into the prompts."""
    offset_s: float
    """From the start of its turn."""


class Turn(Struct, frozen=True, kw_only=True):
    """Requests to one model; the next turn begins when all of them are answered."""

    block: int
    model: str
    sends: tuple[Send, ...]

    @property
    def duration_s(self) -> float:
        """From the start of the turn to its last request."""
        return self.sends[-1].offset_s


def schedule(plan: Plan, prompt_count: int) -> tuple[Turn, ...]:
    """All turns of a test in order; equal arguments give equal turns."""
    random = Random(plan.seed)  # noqa: S311 - reproducible, not secret
    prompts = random.sample(range(prompt_count), prompt_count)
    turns: list[Turn] = []
    number = 0
    for block, begin in enumerate(range(0, plan.requests_per_model, plan.block_requests)):
        end = min(begin + plan.block_requests, plan.requests_per_model)
        offsets = offsets_s(plan.arrivals, end - begin, random)
        for model in random.sample(plan.models, len(plan.models)):
            sends = tuple(
                Send(number=number + n, prompt=prompts[(begin + n) % prompt_count], offset_s=at_s)
                for n, at_s in enumerate(offsets)
            )
            number += len(sends)
            turns.append(Turn(block=block, model=model, sends=sends))
    return tuple(turns)
