"""Predicted memory of several models at several lengths: rows, table, JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from model_registry.errors import UnsupportedArchitecture
from model_registry.footprint import Footprint, predict
from model_registry.spec import Dtype, Family
from service.cli.models.context_lengths import human_tokens, read_tokens
from service.cli.models.location import CatalogPlace
from service.cli.models.view import UNVERIFIED_NOTE, mark
from service.core.sizes import human_bytes

BEYOND_MARK = "†"
_PARTS = (
    "weights_bytes",
    "attention_kv_bytes",
    "window_kv_bytes",
    "ssm_state_bytes",
    "conv_state_bytes",
)
_HEADINGS = ("weights", "attention KV", "window KV", "SSM state", "conv state")


def read_contexts(text: str) -> tuple[int, ...]:
    """`1k,8k` → lengths in tokens, ascending, each once. Raises ValueError."""
    return tuple(sorted({read_tokens(word) for word in text.split(",")}))


class SizedModel(Struct, frozen=True, kw_only=True):
    """A model whose footprint can be predicted at any length."""

    name: str
    """As it is addressed: `model` or `model:variant`."""
    family: Family
    dtype: Dtype
    architecture: Mapping[str, Any]
    limit_tokens: int
    """The model's context length."""
    mark: str
    """`*` if its numbers are not verified."""

    def at(self, context_tokens: int) -> Footprint:
        """Predicted bytes at a length."""
        return predict(self.architecture, context_tokens=context_tokens, dtype=self.dtype)


class MemoryReport(Struct, frozen=True, kw_only=True):
    """Models and the lengths they are sized at."""

    models: tuple[SizedModel, ...]
    context_tokens: tuple[int, ...]

    @classmethod
    def of(
        cls, place: CatalogPlace, names: Sequence[str], context_tokens: tuple[int, ...]
    ) -> "MemoryReport":
        """Look the models up. Raises RegistryError: unknown, without numbers, or quantized."""
        catalog = place.catalog()
        models = []
        for name in dict.fromkeys(names):
            entry, variant = catalog.find(name)
            chosen = entry.spec.variants[variant] if variant else None
            if chosen is not None and chosen.quantization:
                raise UnsupportedArchitecture(
                    f"{name} is quantized ({chosen.quantization}); bytes are predicted for plain "
                    f"weights only, name {entry.spec.id} instead"
                )
            models.append(
                SizedModel(
                    name=name,
                    family=entry.spec.family,
                    dtype=(chosen.dtype if chosen else None) or entry.spec.dtype,
                    architecture=place.architecture(entry),
                    limit_tokens=entry.spec.context_tokens,
                    mark=mark(entry),
                )
            )
        return cls(models=tuple(models), context_tokens=context_tokens)

    def to_json(self) -> dict[str, Any]:
        """Rows of bytes, with caveats."""
        rows = []
        for model in self.models:
            for length in self.context_tokens:
                footprint = model.at(length)
                row = {"model": model.name, "context_tokens": length}
                rows.append(row | {part: getattr(footprint, part) for part in _PARTS})
        return {
            "rows": rows,
            "unverified": [model.name for model in self.models if model.mark],
            "limits_tokens": {model.name: model.limit_tokens for model in self.models},
        }

    def table(self) -> RenderableType:
        """One line per model and length, with marks explained below."""
        table = Table(header_style="bold")
        table.add_column("model", no_wrap=True)
        for heading in ("context", *_HEADINGS, "one sequence"):
            table.add_column(heading, justify="right", no_wrap=True)
        for model in self.models:
            for length in self.context_tokens:
                footprint = model.at(length)
                beyond = BEYOND_MARK if length > model.limit_tokens else ""
                first = length == self.context_tokens[0]
                table.add_row(
                    model.name + model.mark if first else "",
                    human_tokens(length) + beyond,
                    *(_bytes(getattr(footprint, part)) for part in _PARTS),
                    _bytes(footprint.state_bytes),
                    end_section=length == self.context_tokens[-1],
                )
        return Group(table, *(Text(note, style="dim") for note in self.notes()))

    def notes(self) -> list[str]:
        """Notes on what is counted, and on the marks."""
        notes = ["one sequence: all that a running request adds to the weights"]
        if any(model.mark for model in self.models):
            notes.append(UNVERIFIED_NOTE)
        limits = [
            f"{model.name} {human_tokens(model.limit_tokens)}"
            for model in self.models
            if model.limit_tokens < self.context_tokens[-1]
        ]
        if limits:
            notes.append(f"{BEYOND_MARK} longer than the model's context: {', '.join(limits)}")
        return notes


def _bytes(count: int) -> str:
    return human_bytes(count) if count else "0"
