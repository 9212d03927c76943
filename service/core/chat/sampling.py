"""Sampling parameters: types, bounds, defaults, and names on the wire.

The API's schema, the checks of engines and the requests to other servers are derived from this
module. To add a parameter, declare it here in `Sampling` and `PARAMETERS`, as a field of
`service.api.openai.schema.SamplingFields`, and obey it in `service.torch_host.sampling`.
"""

import math
from typing import Annotated, Any, Final, Literal

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
LogitBias = Annotated[dict[TokenId, Bias], Meta(max_length=MOST_BIASES)]
StopStrings = Annotated[list[StopString], Meta(max_length=MOST_STOPS)]
TokenCount = Annotated[int, Meta(ge=0)]


class Sampling(Struct, frozen=True, kw_only=True):
    """Choice of the next token and end of the answer; the defaults change no probability.

    Engines check the bounds, not the decoder of the frames that carry requests to them: a value out
    of bounds fails its own request there, and no other.
    """

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    """Applied after top-k and top-p, as in transformers; vLLM applies it before them."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen in prompt or answer (CTRL)."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """The same seed gives the same text, alone or in a batch."""
    max_tokens: int | None = None
    """None: until the context is full. 0 only scores the prompt; the API asks for 1 at least."""
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """Alternatives to report per token; 0 reports the chosen token alone, None nothing."""


ServerKind = Literal["vllm", "triptych", "llama.cpp", "openai"]
"""Kinds of servers of the OpenAI API; `openai` knows that API and nothing beyond it."""


_EVERYWHERE: Final = ("vllm", "triptych", "llama.cpp", "openai")
_BEYOND_OPENAI: Final = ("vllm", "triptych", "llama.cpp")


def _known(name: str, *kinds: ServerKind) -> dict[ServerKind, str]:
    return dict.fromkeys(kinds, name)


class Parameter(Struct, frozen=True, kw_only=True):
    """Row of the table of parameters."""

    type: Any
    """Type with bounds."""
    servers: dict[ServerKind, str]
    """Name by kind of server; a kind that is left out does not know the parameter."""


#: `max_tokens` and `logprobs` also depend on the endpoint: see `service.engines.openai.dialects`.
PARAMETERS: Final[dict[str, Parameter]] = {
    "temperature": Parameter(type=Temperature, servers=_known("temperature", *_EVERYWHERE)),
    "top_p": Parameter(type=TopP, servers=_known("top_p", *_EVERYWHERE)),
    "top_k": Parameter(type=TopK, servers=_known("top_k", *_BEYOND_OPENAI)),
    "min_p": Parameter(type=MinP, servers=_known("min_p", *_BEYOND_OPENAI)),
    "repetition_penalty": Parameter(
        type=RepetitionPenalty,
        servers=_known("repetition_penalty", "vllm", "triptych")
        | _known("repeat_penalty", "llama.cpp"),
    ),
    "presence_penalty": Parameter(type=Penalty, servers=_known("presence_penalty", *_EVERYWHERE)),
    "frequency_penalty": Parameter(type=Penalty, servers=_known("frequency_penalty", *_EVERYWHERE)),
    "logit_bias": Parameter(type=LogitBias, servers=_known("logit_bias", *_EVERYWHERE)),
    "seed": Parameter(type=Seed, servers=_known("seed", *_EVERYWHERE)),
    "max_tokens": Parameter(type=TokenCount, servers=_known("max_tokens", *_EVERYWHERE)),
    "min_tokens": Parameter(type=TokenCount, servers=_known("min_tokens", "vllm", "triptych")),
    "stop": Parameter(type=StopStrings, servers=_known("stop", *_EVERYWHERE)),
    "ignore_eos": Parameter(type=bool, servers=_known("ignore_eos", *_BEYOND_OPENAI)),
    "logprobs": Parameter(type=Logprobs, servers=_known("logprobs", *_EVERYWHERE)),
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
        """The interval, formatted for an error message."""
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
    name: bounds
    for name, parameter in PARAMETERS.items()
    if (bounds := bounds_of(msgspec.inspect.type_info(parameter.type))) is not None
}
