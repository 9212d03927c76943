"""Sampling parameters: types, bounds, defaults, and names on the wire.

The API's schema, the checks of engines and the requests to other servers are derived from this
module. To add a parameter, declare it here in `Sampling` and `SERVER_NAMES`, as a field of
`service.api.openai.schema.SamplingFields`, and obey it in `service.torch_host.sampling`.
"""

import math
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

MOST_BIASES: Final = 300
MOST_STOPS: Final = 16
LONGEST_STOP: Final = 256

#: OpenAI's bound; above it answers are noise, and OpenAI's servers refuse it.
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=1, le=1_000_000)]
MinP = Annotated[float, Meta(ge=0, le=1)]
#: Scales a logit by a factor of ten at most either way, which keeps it finite in every dtype.
RepetitionPenalty = Annotated[float, Meta(ge=0.1, le=10)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
#: The largest integer that every JSON reader keeps exactly.
TokenId = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
StopString = Annotated[str, Meta(min_length=1, max_length=LONGEST_STOP)]
Logprobs = Annotated[int, Meta(ge=0, le=20)]


class Sampling(Struct, frozen=True, kw_only=True):
    """Choice of the next token and end of the answer; the defaults change no probability."""

    temperature: Temperature = 1.0
    """0 is greedy."""
    top_p: TopP = 1.0
    top_k: TopK | None = None
    min_p: MinP = 0.0
    """Applied after top-k and top-p, as in transformers; vLLM applies it before them."""
    repetition_penalty: RepetitionPenalty = 1.0
    """Divides positive and multiplies negative logits of tokens seen in prompt or answer (CTRL)."""
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=MOST_BIASES)] = {}
    seed: Seed | None = None
    """The same seed gives the same text, alone or in a batch."""
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    """None: until the context is full. 0 only scores the prompt; the API asks for 1 at least."""
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    stop: Annotated[tuple[StopString, ...], Meta(max_length=MOST_STOPS)] = ()
    ignore_eos: bool = False
    logprobs: Logprobs | None = None
    """Alternatives to report per token; 0 reports the chosen token alone, None nothing."""


ServerKind = Literal["vllm", "triptych", "llama.cpp", "openai"]
"""Kinds of servers of the OpenAI API; `openai` knows that API and nothing beyond it."""


_EVERYWHERE: Final = ("vllm", "triptych", "llama.cpp", "openai")
_BEYOND_OPENAI: Final = ("vllm", "triptych", "llama.cpp")


def _known(name: str, *kinds: ServerKind) -> dict[ServerKind, str]:
    return dict.fromkeys(kinds, name)


#: What each kind of server calls a parameter; a kind that is left out does not know it.
#: `max_tokens` and `logprobs` also depend on the endpoint: see `service.engines.openai.dialects`.
SERVER_NAMES: Final[dict[str, dict[ServerKind, str]]] = {
    "temperature": _known("temperature", *_EVERYWHERE),
    "top_p": _known("top_p", *_EVERYWHERE),
    "top_k": _known("top_k", *_BEYOND_OPENAI),
    "min_p": _known("min_p", *_BEYOND_OPENAI),
    "repetition_penalty": _known("repetition_penalty", "vllm", "triptych")
    | _known("repeat_penalty", "llama.cpp"),
    "presence_penalty": _known("presence_penalty", *_EVERYWHERE),
    "frequency_penalty": _known("frequency_penalty", *_EVERYWHERE),
    "logit_bias": _known("logit_bias", *_EVERYWHERE),
    "seed": _known("seed", *_EVERYWHERE),
    "max_tokens": _known("max_tokens", *_EVERYWHERE),
    "min_tokens": _known("min_tokens", "vllm", "triptych"),
    "stop": _known("stop", *_EVERYWHERE),
    "ignore_eos": _known("ignore_eos", *_BEYOND_OPENAI),
    "logprobs": _known("logprobs", *_EVERYWHERE),
}


class Bounds(Struct, frozen=True, kw_only=True):
    """Interval of the values that a parameter may have."""

    lowest: float = -math.inf
    highest: float = math.inf
    above_lowest: bool = False
    """The lowest value itself is excluded."""

    def __contains__(self, value: float) -> bool:
        """NaN lies in no interval."""
        above = self.lowest < value if self.above_lowest else self.lowest <= value
        return above and value <= self.highest

    def __str__(self) -> str:
        """The interval in the words of an error message."""
        if self.above_lowest:
            return f"above {self.lowest:.15g} and at most {self.highest:.15g}"
        if math.isinf(self.highest):
            return f"at least {self.lowest:.15g}"
        return f"between {self.lowest:.15g} and {self.highest:.15g}"


def bounds_of(kind: msgspec.inspect.Type) -> Bounds | None:
    """Bounds of a numeric type, of a dictionary's values, or of what may also be None."""
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return next((found for each in types if (found := bounds_of(each))), None)
        case msgspec.inspect.DictType(value_type=values):
            return bounds_of(values)
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            lowest = kind.gt if kind.ge is None else kind.ge
            return Bounds(
                lowest=-math.inf if lowest is None else lowest,
                highest=math.inf if kind.le is None else kind.le,
                above_lowest=kind.gt is not None,
            )
    return None


#: Bounds of the numeric parameters, by name.
BOUNDS: Final[dict[str, Bounds]] = {
    field.name: bounds
    for field in msgspec.inspect.type_info(Sampling).fields  # type: ignore[attr-defined]
    if (bounds := bounds_of(field.type)) is not None
}
