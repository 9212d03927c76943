"""`python -m model_registry.reference.evaluate`: measure the shipped weights for the model card."""

import gzip
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Final

import click
import msgspec
import torch
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from model_registry.reference.architectures import CONFIGS, Architecture, parameter_count
from model_registry.reference.checkpoint import WEIGHTS
from model_registry.reference.corpus import MESSAGE_START, Message, read_dialogues, render_chat
from model_registry.reference.generation import greedy_reply
from model_registry.reference.probes import QUESTIONS, Probe, probes
from model_registry.reference.results import Cell, Result, Results, print_results, write_results
from model_registry.reference.scoring import bits_per_byte, greedy_accuracy, log_probabilities

WINDOW_TOKENS: Final = 512
PROBE_SEED: Final = 0
#: Text is scored as what a user says, for that is where the models have seen text.
USER_TURN: Final = f"{MESSAGE_START}user\n"
REQUESTS: Final = (
    "I am looking for a restaurant in San Jose.",
    "I need a flight from New York to Los Angeles next Friday.",
    "What is the weather like in Chicago tomorrow?",
    "Can you find me a hotel in London?",
    "Count from 7 to 15.",
)


class MinimalPair(msgspec.Struct, frozen=True):
    """Two sentences that differ in grammaticality alone."""

    good: str
    bad: str
    phenomenon: str


class Material(msgspec.Struct, frozen=True):
    """Held-out texts of the evaluation."""

    dialogues: tuple[tuple[Message, ...], ...]
    wikitext: str
    pairs: tuple[MinimalPair, ...]
    probes: tuple[Probe, ...]

    @property
    def dialogue_bytes(self) -> int:
        """UTF-8 bytes of the messages, without ChatML's markers."""
        return sum(len(m.content.encode()) for dialogue in self.dialogues for m in dialogue)


def read_material(
    corpus: Path, asked: tuple[Probe, ...], dialogues: int | None, wikitext_characters: int | None
) -> Material:
    """Load the held-out texts of a corpus folder, or the first part of them."""
    held_out = islice(read_dialogues(corpus / "sgd-test.jsonl.gz"), dialogues)
    decoder = msgspec.json.Decoder(MinimalPair)
    with gzip.open(corpus / "blimp-60-each.jsonl.gz", "rb") as lines:
        pairs = tuple(decoder.decode(line) for line in lines)
    wikitext = gzip.decompress((corpus / "wikitext2-test.txt.gz").read_bytes()).decode()
    return Material(
        dialogues=tuple(dialogue.messages for dialogue in held_out),
        wikitext=wikitext[:wikitext_characters],
        pairs=pairs,
        probes=asked,
    )


def dialogue_bits_per_byte(
    model: PreTrainedModel, tokenizer: Tokenizer, material: Material
) -> float:
    """Bits per byte of whole chats; the markers' bits are counted, their bytes are not."""
    encodings = tokenizer.encode_batch_fast([render_chat(chat) for chat in material.dialogues])
    total = sum(log_probabilities(model, [encoding.ids for encoding in encodings]))
    return bits_per_byte(total, material.dialogue_bytes)


def wikitext_bits_per_byte(model: PreTrainedModel, tokenizer: Tokenizer, text: str) -> float:
    """Bits per byte over non-overlapping windows of WINDOW_TOKENS, each opened as a user turn."""
    prefix = tokenizer.encode(USER_TURN).ids
    ids = tokenizer.encode(text).ids
    step = WINDOW_TOKENS - len(prefix)
    rows = [[*prefix, *ids[start : start + step]] for start in range(0, len(ids), step)]
    return bits_per_byte(sum(log_probabilities(model, rows, len(prefix))), len(text.encode()))


def blimp_accuracy(
    model: PreTrainedModel, tokenizer: Tokenizer, pairs: tuple[MinimalPair, ...]
) -> dict[str, float]:
    """Share of pairs whose good sentence is likelier, by phenomenon; the mean of all under ""."""
    prefix = len(tokenizer.encode(USER_TURN).ids)
    texts = [USER_TURN + sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    scores = log_probabilities(model, rows, prefix)
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for pair, good, bad in zip(pairs, scores[::2], scores[1::2], strict=True):
        verdicts[pair.phenomenon].append(good > bad)
        verdicts[""].append(good > bad)
    return {name: sum(right) / len(right) for name, right in sorted(verdicts.items())}


def measure(model: PreTrainedModel, tokenizer: Tokenizer, material: Material) -> Result:
    """Every measure of the card on one model."""
    by_phenomenon = blimp_accuracy(model, tokenizer, material.pairs)
    return Result(
        parameters=parameter_count(model),
        dialogue_bits_per_byte=dialogue_bits_per_byte(model, tokenizer, material),
        wikitext2_bits_per_byte=wikitext_bits_per_byte(model, tokenizer, material.wikitext),
        blimp_accuracy=by_phenomenon.pop(""),
        blimp_by_phenomenon=by_phenomenon,
        probes=tuple(
            Cell(probe.task, probe.size, greedy_accuracy(model, *probe.rows(tokenizer)))
            for probe in track(material.probes, description="probes")
        ),
        replies={
            text: greedy_reply(model, tokenizer, (Message("user", text),)) for text in REQUESTS
        },
    )


def with_others(results: Results, file: Path) -> Results:
    """The results, and those of other architectures that a file has on the same samples."""
    if not file.exists():
        return results
    earlier = msgspec.json.decode(file.read_bytes(), type=Results)
    if msgspec.structs.replace(earlier, models=results.models) != results:
        return results
    models = earlier.models | results.models
    return msgspec.structs.replace(
        results, models={name: models[name] for name in CONFIGS if name in models}
    )


@click.command()
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder with sgd-test.jsonl.gz, wikitext2-test.txt.gz and blimp-60-each.jsonl.gz.",
)
@click.option("--weights", type=click.Path(path_type=Path, exists=True), default=WEIGHTS)
@click.option("--arch", type=click.Choice(list(CONFIGS)), multiple=True, help="Default: all.")
@click.option("--dialogues", type=int, help="Measure on only the first N dialogues.")
@click.option("--wikitext-characters", type=int, help="Measure on only the first N characters.")
@click.option("--questions", default=QUESTIONS, show_default=True, help="Questions a probe.")
@click.option("--out", type=click.Path(path_type=Path), default=WEIGHTS.parent / "results.json")
def main(
    corpus: Path,
    weights: Path,
    arch: tuple[Architecture, ...],
    dialogues: int | None,
    wikitext_characters: int | None,
    questions: int,
    out: Path,
) -> None:
    """Measure the bf16 weights as they are shipped and write the results as JSON.

    Results that OUT has of other architectures are kept if they were measured on the same samples.
    """
    torch.set_num_threads(1)
    console = Console()
    architectures = arch or tuple(CONFIGS)
    tokenizer = Tokenizer.from_file(str(weights / architectures[0] / "tokenizer.json"))
    asked = tuple(probes(tokenizer, PROBE_SEED, questions))
    material = read_material(corpus, asked, dialogues, wikitext_characters)
    models: dict[Architecture, Result] = {}
    for architecture in architectures:
        console.print(f"measuring {architecture}")
        model = AutoModelForCausalLM.from_pretrained(weights / architecture, dtype="auto").eval()
        models[architecture] = measure(model, tokenizer, material)
    results = Results(
        dialogues=len(material.dialogues),
        dialogue_bytes=material.dialogue_bytes,
        wikitext2_bytes=len(material.wikitext.encode()),
        blimp_pairs=len(material.pairs),
        questions_per_probe=questions,
        models=models,
    )
    results = with_others(results, out)
    write_results(results, out)
    print_results(results, console)


if __name__ == "__main__":
    main()
