"""Prompts of experiments: of the plan, of records, or synthetic and cut to an arm's tokens."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from service.core.chat import ChatPrompt, Message, Prompt, Sampling, TextPrompt, TokenPrompt
from service.core.errors import InvalidRequest
from service.core.experiments.plan import InlinePrompts, Plan
from service.core.experiments.schedule import Slot, size_class
from service.core.experiments.texts import synthetic_text
from service.core.ports import Tokenizing
from service.serving.gate import Gate
from service.serving.models.pool import Pool

#: A first guess of the words that a token stands for at most; more are made where it falls short.
_WORDS_A_TOKEN = 1.0
#: Most texts whose tokens are kept: those of a few repetitions, for all arms.
_KEPT = 64


class GivenPrompt(Struct, frozen=True, kw_only=True):
    """A prompt that is given, not generated."""

    id: str
    prompt: ChatPrompt | TextPrompt
    new_tokens: int | None
    """Longest answer; None: until the model ends it."""
    sampling: Sampling | None = None
    """Parameters that it was asked with and is to be asked with again; None: those of the arm."""

    @property
    def slot(self) -> Slot:
        """Its place in the schedule."""
        return Slot(prompt_id=self.id, size=size_class(self.text))

    @property
    def text(self) -> str:
        """All that it says."""
        if isinstance(self.prompt, TextPrompt):
            return self.prompt.text
        return "\n".join(message.content for message in self.prompt.messages)


def inline_prompts(prompts: InlinePrompts) -> dict[str, GivenPrompt]:
    """The prompts of a plan, by id. Raises InvalidRequest naming the item."""
    return {
        (id_ := f"item-{number}"): GivenPrompt(
            id=id_, prompt=_inline(item, number - 1), new_tokens=prompts.new_tokens
        )
        for number, item in enumerate(prompts.items, 1)
    }


def _inline(item: str | list[dict[str, str]], index: int) -> ChatPrompt | TextPrompt:
    where = f"prompts.items[{index}]"
    if not item:
        raise InvalidRequest(f"`{where}` is empty.", param=where)
    if isinstance(item, str):
        return TextPrompt(item)
    return ChatPrompt(_messages(item, where))


def _messages(found: Sequence[Mapping[str, str]], where: str) -> tuple[Message, ...]:
    unknown = {name for each in found for name in each} - {"role", "content", "name"}
    if unknown:
        name = min(unknown)
        raise InvalidRequest(f"`{where}` has a field `{name}`, which is unknown.", param=where)
    try:
        return msgspec.convert(found, tuple[Message, ...])
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"`{where}`: {error}.", param=where) from error


class SyntheticTokens:
    """Synthetic texts as the first tokens that each model makes of them."""

    def __init__(self, pool: Pool, gate: Gate, plan: Plan) -> None:
        self._pool = pool
        self._gate = gate
        self._plan = plan
        self._tokens: dict[tuple[str, str], tuple[int, ...]] = {}

    async def prompt(self, model: str, prompt_id: str, tokens: int) -> TokenPrompt:
        """The first *tokens* tokens of a text, its start token included.

        Raises InvalidRequest for an engine that does not expose its tokenizer.
        """
        key = (model, prompt_id)
        known = self._tokens.pop(key, ())
        if len(known) < tokens:
            known = await self._tokenize(model, prompt_id, tokens)
        self._tokens[key] = known
        while len(self._tokens) > _KEPT:
            del self._tokens[next(iter(self._tokens))]
        return TokenPrompt(known[:tokens])

    async def _tokenize(self, model: str, prompt_id: str, tokens: int) -> tuple[int, ...]:
        with self._pool.admit(model) as lease:
            engine = await lease.ready()
            if not isinstance(engine, Tokenizing):
                raise InvalidRequest(
                    f"The engine of {model} does not expose its tokenizer, so that synthetic "
                    'prompts cannot be cut to its tokens; use prompts of kind "inline".'
                )
            words = max(32, int(tokens * _WORDS_A_TOKEN))
            while True:
                prompt: Prompt = TextPrompt(synthetic_text(text_seed(self._plan, prompt_id), words))
                async with self._gate.shared():
                    found = await engine.tokenize(prompt, add_special_tokens=True)
                # The last token could have gone on in a longer text.
                if len(found) > tokens:
                    return found[:-1]
                words *= 2


def text_seed(plan: Plan, prompt_id: str) -> str:
    """Seed of a synthetic text: all arms read the same one."""
    return f"{plan.seed}:{prompt_id}"
