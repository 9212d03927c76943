"""Conformance probe: an engine answers a prompt the same way alone and in a batch.

Faults that this finds are real: vLLM 0.32 on a CPU answered eight equal prompts to LFM2 with six
different texts, and a scan that restarts at zero changes an answer with the size of its chunks.
"""

import asyncio
import math
import time
from collections.abc import Sequence

from msgspec import Struct

from service.core.chat import ChatRequest, Sampling, TextPrompt
from service.core.errors import TriptychError, UnsupportedField
from service.core.events import Delta, TokenLogprob
from service.core.ids import new_request_id
from service.core.ports import Engine

PROMPTS = (
    "The capital of France is",
    "One, two, three, four, five, six, seven, eight,",
    "Hello! Could you tell me how I get from here to the station? You walk straight ahead until",
    "a b c a b c a b",
)
ANSWER_TOKENS = 12
COPIES = 8
#: A probe takes a second; beside other models that load, many times that.
LIMIT_S = 120.0

#: Largest gap between the two best log-probabilities that rounding may turn around. A bfloat16 has
#: 8 significant bits: logits of 16 to 32 lie 0.125 apart, and each of two may be off by one step.
TIE_NATS = {"bfloat16": 0.25, "float16": 0.05, "float32": 0.01}


class Conformance(Struct, frozen=True, kw_only=True):
    """Outcome of a probe."""

    passed: bool | None
    """None if the engine cannot be probed."""
    reason: str
    duration_ns: int


class _Probed(Struct, frozen=True):
    token_ids: tuple[int, ...] | str
    """The text, of an engine that does not tell its tokens."""
    logprobs: tuple[TokenLogprob, ...]


async def probe(engine: Engine, *, timeout_s: float = LIMIT_S) -> Conformance:
    """Ask a few greedy prompts alone, together, and one of them eight times at once.

    Copies must agree token by token. Alone and together must agree up to the first position where
    the two best candidates were as good as tied.
    """
    started_ns = time.monotonic_ns()
    passed: bool | None = None
    try:
        async with asyncio.timeout(timeout_s):
            fault = await _fault(engine, TIE_NATS[engine.model.dtype])
            passed = fault is None
    except TimeoutError:
        passed, fault = False, f"probe timed out after {timeout_s:g} s"
    except UnsupportedField as error:
        fault = f"cannot be probed: {error}"
    except TriptychError as error:
        passed, fault = False, f"probe failed: {error}"
    return Conformance(
        passed=passed,
        reason=fault or "copies agree; alone and together agree",
        duration_ns=time.monotonic_ns() - started_ns,
    )


async def _fault(engine: Engine, tie_nats: float) -> str | None:
    alone = [await _ask(engine, prompt) for prompt in PROMPTS]
    together = await _ask_all(engine, PROMPTS)
    copies = await _ask_all(engine, [PROMPTS[0]] * COPIES)
    if not all(answer.token_ids for answer in alone):
        return "a prompt was answered with no token"
    if any(_not_a_number(answer) for answer in (*alone, *together, *copies)):
        return "a log-probability is not finite"
    texts = len({copy.token_ids for copy in copies})
    if texts > 1:
        return f"{COPIES} equal prompts at once got {texts} different answers"
    for number, (one, other) in enumerate(zip(alone, together, strict=True), start=1):
        if isinstance(one.token_ids, str) or isinstance(other.token_ids, str):
            continue  # without tokens nobody can tell a fault from a tie
        position = first_difference(one.token_ids, other.token_ids)
        if position is not None and not _tied(one, position, tie_nats):
            return f"prompt {number}, alone and in a batch, differs at token {position + 1}"
    return None


async def _ask_all(engine: Engine, prompts: Sequence[str]) -> list[_Probed]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_ask(engine, prompt)) for prompt in prompts]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _ask(engine: Engine, prompt: str) -> _Probed:
    request = ChatRequest(
        request_id=f"probe-{new_request_id()}",
        model=engine.model.id,
        prompt=TextPrompt(prompt),
        sampling=Sampling(temperature=0.0, max_tokens=ANSWER_TOKENS, ignore_eos=True, logprobs=2),
        endpoint="completion",
        prefix_cache=False,
        accepted_ns=time.monotonic_ns(),
        accepted_at_ns=time.time_ns(),
    )
    deltas = [event async for event in engine.generate(request) if isinstance(event, Delta)]
    logprobs = tuple(token for delta in deltas for token in delta.logprobs or ())
    if any(delta.token_ids is None for delta in deltas):
        return _Probed("".join(delta.text for delta in deltas), logprobs)
    return _Probed(tuple(id_ for delta in deltas for id_ in delta.token_ids or ()), logprobs)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Index of the first position where two sequences differ, None if they are equal."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def _tied(answer: _Probed, position: int, tie_nats: float) -> bool:
    """The two best candidates of a position are within *tie_nats* of each other."""
    if position >= len(answer.logprobs):
        return False
    top = answer.logprobs[position].top
    return len(top) > 1 and top[0].logprob - top[1].logprob <= tie_nats


def _not_a_number(answer: _Probed) -> bool:
    return any(token.logprob is not None and math.isnan(token.logprob) for token in answer.logprobs)
