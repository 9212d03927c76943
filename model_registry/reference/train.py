"""`python -m model_registry.reference.train`: train the reference models on the CPU."""

import signal
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import Final, Self

import click
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from tokenizers import Tokenizer

from model_registry.reference.architectures import CONFIGS, Architecture
from model_registry.reference.batches import (
    BATCH_TOKENS,
    PHASES,
    batches,
    document_text,
    epochs,
    mixed_dialogues,
)
from model_registry.reference.checkpoint import save_pretrained
from model_registry.reference.corpus import Dialogue, read_dialogues
from model_registry.reference.download import download
from model_registry.reference.synthetic import WORDS
from model_registry.reference.tokenizer import train_tokenizer
from model_registry.reference.trainer import Trainer, load_checkpoint, save_checkpoint

#: What the shipped weights were trained with.
SHIPPED_TOKENS: Final = 4_096_000
SHIPPED_SEED: Final = 0

CHECKPOINT_STEPS: Final = 100
WORD_REPETITIONS: Final = 500
LOSS_WINDOW_STEPS: Final = 20
INTERRUPTED_STATUS: Final = 130


def tokenizer_for(dialogues: list[Dialogue], seed: int) -> Tokenizer:
    """The tokenizer of a corpus and seed: trained on about an epoch of the last phase's documents.

    The tasks' words stand alone on lines too, so that each is one token wherever it occurs.
    """
    shuffled = epochs(dialogues, seed)
    documents = islice(mixed_dialogues(shuffled, PHASES[-1], seed), 2 * len(dialogues))
    words = (f"{word}\n" * WORD_REPETITIONS for word in WORDS)
    return train_tokenizer(chain(words, (document_text(dialogue) for dialogue in documents)))


class Interrupt:
    """Context that defers Ctrl-C, so that a run stops between two steps."""

    requested = False

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True


class LossColumn(ProgressColumn):
    """Mean loss of the last steps, in nats per token."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer = trainer

    def render(self, _task: Task) -> Text:
        """Return an empty text before the first step."""
        recent = self.trainer.losses[-LOSS_WINDOW_STEPS:]
        return Text(f"loss {sum(recent) / len(recent):.3f}" if recent else "")


class SpeedColumn(ProgressColumn):
    """Training speed in tokens per second."""

    def render(self, task: Task) -> Text:
        """Return an empty text until rich has an estimate."""
        return Text(f"{task.speed * BATCH_TOKENS:,.0f} tokens/s" if task.speed else "")


def train(
    trainer: Trainer,
    stream: Iterator[tuple[torch.Tensor, torch.Tensor]],
    checkpoint: Path,
    interrupt: Interrupt,
) -> None:
    """Train to the budget or Ctrl-C; the state is saved every CHECKPOINT_STEPS and at the end."""
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        LossColumn(trainer),
        SpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(
            trainer.architecture, total=trainer.total_steps, completed=trainer.steps
        )
        for input_ids, labels in islice(stream, trainer.steps, trainer.total_steps):
            trainer.step(input_ids, labels)
            progress.advance(task)
            if trainer.steps % CHECKPOINT_STEPS == 0:
                save_checkpoint(trainer, checkpoint)
            if interrupt.requested:
                progress.console.print(f"saving {checkpoint}; continue with --resume")
                break
        save_checkpoint(trainer, checkpoint)


@click.command()
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with sgd-train.jsonl.gz; without it the dialogues are downloaded into OUT.",
)
@click.option("--arch", type=click.Choice(list(CONFIGS)), multiple=True, help="Default: all.")
@click.option("--tokens", default=SHIPPED_TOKENS, show_default=True, help="Training tokens each.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("reference-run"))
@click.option("--seed", default=SHIPPED_SEED, show_default=True)
@click.option("--resume", is_flag=True, help="Continue from the checkpoints in OUT.")
def main(
    corpus: Path | None,
    arch: tuple[Architecture, ...],
    tokens: int,
    out: Path,
    seed: int,
    resume: bool,
) -> None:
    """Train the reference models on one CPU core each and write a folder for each into OUT."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    path = corpus / "sgd-train.jsonl.gz" if corpus else download("train", out)
    dialogues = list(read_dialogues(path))
    tokenizer = tokenizer_for(dialogues, seed)
    for architecture in arch or tuple(CONFIGS):
        trainer = Trainer(architecture, tokens, seed)
        checkpoint = out / f"{architecture}.checkpoint.pt"
        if resume and checkpoint.exists():
            load_checkpoint(trainer, checkpoint)
        with Interrupt() as interrupt:
            train(trainer, batches(dialogues, tokenizer, seed), checkpoint, interrupt)
        if interrupt.requested:
            raise click.exceptions.Exit(INTERRUPTED_STATUS)
        save_pretrained(trainer.model, tokenizer, out / architecture)


if __name__ == "__main__":
    main()
