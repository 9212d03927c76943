"""Answers of `transformers.generate`, and the same prompts run on a model with slots."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from service.torch_host.slot_model import SlotModel

#: Logits may differ by this much (their standard deviation is about 1.5): rounding, no more.
TOLERANCE = 2e-3
#: Prompt lengths and numbers of new tokens: within, across and beyond windows and length switches.
LENGTHS = ((5, 12), (23, 20), (40, 6), (11, 15), (17, 9), (2, 18))


@dataclass(frozen=True)
class Answer:
    """A prompt with its greedy continuation and the logits, (new tokens, vocabulary), behind it."""

    prompt: list[int]
    tokens: list[int]
    logits: torch.Tensor


@torch.inference_mode()
def answers(folder: Path) -> list[Answer]:
    """Answers of transformers' own generate to prompts that leave no two tokens nearly tied."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [_clear_answer(model, *lengths) for lengths in LENGTHS]


def _clear_answer(model: torch.nn.Module, prompt_tokens: int, new_tokens: int) -> Answer:
    vocabulary = model.config.get_text_config().vocab_size
    for seed in range(100):
        drawn = random.Random(f"{seed} {prompt_tokens}")
        prompt = [drawn.randrange(3, vocabulary) for _ in range(prompt_tokens)]
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, prompt_tokens, dtype=torch.long),
            do_sample=False,
            max_new_tokens=new_tokens,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        logits = torch.cat(output.logits)
        best = logits.topk(2).values
        if float((best[:, 0] - best[:, 1]).min()) > 4 * TOLERANCE:
            return Answer(prompt, output.sequences[0, prompt_tokens:].tolist(), logits)
    raise AssertionError("every prompt has two tokens that are nearly tied")


@dataclass
class Asked:
    """A question on its way through a slot."""

    slot: int
    prompt: list[int]
    chosen: int
    """Where its answer goes; -1 if it will be cancelled."""
    restarted_tokens: int = 0
    """Tokens of the answer that are prefilled again after the prompt."""
    done_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)

    @property
    def to_read(self) -> list[int]:
        """Tokens that are prefilled before the next one is sampled."""
        return self.prompt + self.tokens[: self.restarted_tokens]

    @property
    def prefilling(self) -> bool:
        """True while tokens remain to be prefilled."""
        return self.done_tokens < len(self.to_read)

    def prefill(self, model: SlotModel, chunk: int) -> None:
        """Feed the next chunk."""
        part = self.to_read[self.done_tokens : self.done_tokens + chunk]
        logits = model.prefill(self.slot, part)
        self.done_tokens += len(part)
        if not self.prefilling:
            self.choose(logits)
            self.restart_if_due(model)

    def restart_if_due(self, model: SlotModel) -> None:
        """Begin to prefill again a sequence that its LongRoPE factors no longer hold for."""
        if model.must_restart(self.slot):
            self.restarted_tokens, self.done_tokens = len(self.tokens), 0
            model.restart(self.slot, sequence_tokens=len(self.to_read))

    def choose(self, logits: torch.Tensor) -> None:
        """Take the most likely token."""
        self.logits.append(logits)
        self.tokens.append(int(logits.argmax()))


def alone(model: SlotModel, answer: Answer, *, chunk: int = 10_000) -> Answer:
    """Ask one question with nothing else in the model."""
    slot = model.take(prompt_tokens=len(answer.prompt))
    assert slot is not None
    asked = Asked(slot, answer.prompt, 0)
    while len(asked.tokens) < len(answer.tokens):
        if asked.prefilling:
            asked.prefill(model, chunk)
        else:
            asked.choose(model.decode([slot], [asked.tokens[-1]])[0])
            asked.restart_if_due(model)
    model.release(slot)
    return Answer(answer.prompt, asked.tokens, torch.stack(asked.logits))


def crowded(
    model: SlotModel,
    expected: Sequence[Answer],
    *,
    seed: int,
    between_steps: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Ask all at once; they join and leave at random, beside others that are cancelled."""
    drawn = random.Random(seed)
    waiting = [(answer.prompt, index) for index, answer in enumerate(expected)]
    waiting += [(drawn.choices(range(3, 100), k=drawn.randint(1, 45)), -1) for _ in expected]
    drawn.shuffle(waiting)
    live: list[Asked] = []
    found: dict[int, Answer] = {}
    while waiting or live:
        between_steps()
        if waiting and drawn.random() < 0.6:
            slot = model.take(prompt_tokens=len(waiting[-1][0]))
            if slot is not None:
                live.append(Asked(slot, *waiting.pop()))
        for asked in live:
            if asked.prefilling and drawn.random() < 0.7:
                asked.prefill(model, drawn.randint(1, 12))
        ready = [asked for asked in live if not asked.prefilling and drawn.random() < 0.9]
        drawn.shuffle(ready)
        _decode(model, ready)
        for asked in list(live):
            wanted = len(expected[asked.chosen].tokens)
            if asked.chosen >= 0 and len(asked.tokens) >= wanted:
                logits = torch.stack(asked.logits[:wanted])
                found[asked.chosen] = Answer(asked.prompt, asked.tokens[:wanted], logits)
            if asked.chosen in found or (asked.chosen < 0 and drawn.random() < 0.15):
                model.release(asked.slot)
                live.remove(asked)
    return [found[index] for index in range(len(expected))]


def _decode(model: SlotModel, ready: Sequence[Asked]) -> None:
    if not ready:
        return
    logits = model.decode([asked.slot for asked in ready], [asked.tokens[-1] for asked in ready])
    for asked, row in zip(ready, logits, strict=True):
        asked.choose(row)
        asked.restart_if_due(model)


def assert_same(found: Answer, expected: Answer) -> None:
    """Equal tokens, and logits that differ by rounding only."""
    assert found.tokens == expected.tokens
    torch.testing.assert_close(found.logits, expected.logits, atol=TOLERANCE, rtol=0)
