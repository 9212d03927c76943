"""Results of the model card, as values, JSON and tables."""

from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from model_registry.reference.architectures import Architecture


class Cell(msgspec.Struct, frozen=True):
    """Accuracy on one probe."""

    task: str
    size: int | None
    """Distance in tokens (recall) or words (copy)."""
    accuracy: float


class Result(msgspec.Struct, frozen=True):
    """Measures of a model; bits per byte count the bytes of the messages or the raw text."""

    parameters: int
    dialogue_bits_per_byte: float
    wikitext2_bits_per_byte: float
    blimp_accuracy: float
    blimp_by_phenomenon: dict[str, float]
    probes: tuple[Cell, ...]
    replies: dict[str, str]
    """Greedy answers to a few plain requests."""


class Results(msgspec.Struct, frozen=True):
    """Measures of all models, and the sample sizes behind them."""

    dialogues: int
    dialogue_bytes: int
    wikitext2_bytes: int
    blimp_pairs: int
    questions_per_probe: int
    models: dict[Architecture, Result]


def write_results(results: Results, path: Path) -> None:
    """Write JSON with four decimals: more is noise on samples of this size."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rounded(results)), indent=2) + b"\n")


def rounded(value: object) -> object:
    """Convert to plain types, floats rounded to four decimals."""
    if isinstance(value, msgspec.Struct):
        return rounded(msgspec.to_builtins(value))
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def print_results(results: Results, console: Console) -> None:
    """The measures side by side, one column a model."""
    table = Table("measure", *results.models, title="Reference models")
    models = results.models.values()
    table.add_row("parameters", *(f"{model.parameters:,}" for model in models))
    for name in ("dialogue_bits_per_byte", "wikitext2_bits_per_byte", "blimp_accuracy"):
        table.add_row(name.replace("_", " "), *(f"{getattr(m, name):.3f}" for m in models))
    for cells in zip(*(model.probes for model in models), strict=True):
        size = "" if cells[0].size is None else f" {cells[0].size}"
        label = cells[0].task.replace("_", " ") + size
        table.add_row(label, *(f"{cell.accuracy:.3f}" for cell in cells))
    console.print(table)
