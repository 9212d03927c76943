"""Side by side: the answers of a comparison as one message, and each arm's part of it again."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, structs

from service.core.chat import Message
from service.core.compare.comparison import live_state_bytes
from service.core.metrics import RequestMetrics
from service.core.record import RequestRecord
from service.core.sizes import human_bytes

UNKNOWN: Final = "–"
_COLUMNS: Final = ("model", "first token", "tokens/s", "prompt", "answer", "total", "state")
#: Begins the table of costs; what follows it is no arm's.
TABLE_HEAD: Final = f"| {' | '.join(_COLUMNS)} |"
_RULE: Final = "|---" + "|--:" * (len(_COLUMNS) - 1) + "|"
_NO_ANSWER: Final = "*No answer"


class Cost(Struct, frozen=True, kw_only=True):
    """What an arm's answer cost; None for an arm that was not accepted."""

    model: str
    record: RequestRecord | None
    metrics: RequestMetrics | None


def heading(model: str) -> str:
    """The line before an arm's answer."""
    return f"### {model}"


def no_answer(code: str, message: str) -> str:
    """The line in place of an answer, or after one that was cut short."""
    return f"{_NO_ANSWER} ({code}): {' '.join(message.split())}*"


def cost_table(costs: Sequence[Cost], caveats: Sequence[str]) -> str:
    """A Markdown table, a row an arm, with what to know before believing it."""
    rows = [f"| {' | '.join(_row(cost))} |" for cost in costs]
    notes = "; ".join(caveats)
    return "\n".join(
        [TABLE_HEAD, _RULE, *rows, "", f"*One run each, which is no measurement: {notes}.*"]
    )


def _row(cost: Cost) -> tuple[str, ...]:
    record, times = cost.record, cost.metrics
    if record is None or times is None:
        return (cost.model, *[UNKNOWN] * (len(_COLUMNS) - 1))
    state_bytes = live_state_bytes(record.state)
    return (
        cost.model,
        _milliseconds(times.ttft_ms),
        UNKNOWN if times.tokens_per_s is None else f"{times.tokens_per_s:.1f}",
        _tokens(record.prompt_tokens),
        _tokens(record.completion_tokens),
        _milliseconds(times.e2e_ms),
        UNKNOWN if state_bytes is None else human_bytes(state_bytes),
    )


def _milliseconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f} ms"


def _tokens(count: int | None) -> str:
    return UNKNOWN if count is None else f"{count} tokens"


def sections(content: str, models: Sequence[str]) -> Mapping[str, str] | None:
    """Answers by model of a message that was made here; None for any other message."""
    headings = {heading(model): model for model in models}
    lines = content.strip().splitlines()
    if not lines or lines[0].rstrip() not in headings:
        return None
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if (model := headings.get(line.rstrip())) is not None and model not in found:
            current = found[model] = []
        elif line.rstrip() == TABLE_HEAD:
            break
        else:
            current.append(line)
    return {model: _without_error(part) for model, part in found.items()}


def _without_error(lines: Sequence[str]) -> str:
    text = "\n".join(lines).strip()
    before, found, _ = text.rpartition(_NO_ANSWER)
    return before.rstrip() if found and (not before or before.endswith("\n")) else text


def own_conversation(
    messages: Sequence[Message], model: str, models: Sequence[str]
) -> tuple[Message, ...]:
    """The conversation as one arm had it: of earlier comparisons only its own answers.

    Messages of other making stay as they are.
    """
    return tuple(
        structs.replace(message, content=parts.get(model, ""))
        if message.role == "assistant" and (parts := sections(message.content, models)) is not None
        else message
        for message in messages
    )
