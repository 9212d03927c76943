"""Work of a request to several models at several prompt lengths: rows, table, JSON."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from model_registry.work import WorkFormula, work_formula
from service.cli.models.context_lengths import human_tokens
from service.cli.models.location import CatalogPlace
from service.cli.models.view import UNVERIFIED_NOTE, mark
from service.core.sizes import human_bytes, human_flops

_HEADINGS = (
    "prefill",
    "decode",
    "decode/token",
    "weights read",
    "state read",
    "state written",
)


class WorkingModel(Struct, frozen=True, kw_only=True):
    """A model and the formula of its work."""

    name: str
    """As it is addressed: `model` or `model:variant`."""
    formula: WorkFormula
    mark: str
    """`*` if its numbers are not verified."""


class WorkReport(Struct, frozen=True, kw_only=True):
    """Models, the lengths of their prompts, and the length of each answer."""

    models: tuple[WorkingModel, ...]
    context_tokens: tuple[int, ...]
    new_tokens: int

    @classmethod
    def of(
        cls,
        place: CatalogPlace,
        names: Sequence[str],
        context_tokens: tuple[int, ...],
        *,
        new_tokens: int,
    ) -> "WorkReport":
        """Look the models up. Raises RegistryError: unknown, or without numbers."""
        catalog = place.catalog()
        models = []
        for name in dict.fromkeys(names):
            entry, variant = catalog.find(name)
            chosen = entry.spec.variants[variant] if variant else None
            formula = work_formula(
                place.architecture(entry),
                dtype=(chosen.dtype if chosen else None) or entry.spec.dtype,
                quantization=chosen.quantization if chosen else None,
            )
            models.append(WorkingModel(name=name, formula=formula, mark=mark(entry)))
        return cls(models=tuple(models), context_tokens=context_tokens, new_tokens=new_tokens)

    def to_json(self) -> dict[str, Any]:
        """Rows of operations and bytes, with caveats."""
        rows: list[dict[str, Any]] = []
        for model in self.models:
            for length in self.context_tokens:
                work = model.formula.of(prompt_tokens=length, new_tokens=self.new_tokens)
                row = {
                    "model": model.name,
                    "context_tokens": length,
                    "new_tokens": self.new_tokens,
                }
                rows.append(row | structs.asdict(work))
        return {
            "rows": rows,
            "unverified": [model.name for model in self.models if model.mark],
        }

    def table(self) -> RenderableType:
        """One line per model and length."""
        table = Table(header_style="bold")
        table.add_column("model", no_wrap=True)
        for heading in ("prompt", *_HEADINGS):
            table.add_column(heading, justify="right", no_wrap=True)
        for model in self.models:
            for length in self.context_tokens:
                first = length == self.context_tokens[0]
                table.add_row(
                    model.name + model.mark if first else "",
                    human_tokens(length),
                    *self._cells(model.formula, length),
                    end_section=length == self.context_tokens[-1],
                )
        return Group(table, *(Text(note, style="dim") for note in self.notes()))

    def _cells(self, formula: WorkFormula, length: int) -> tuple[str, ...]:
        work = formula.of(prompt_tokens=length, new_tokens=self.new_tokens)
        steps = self.new_tokens - 1
        weights = work.weight_bytes_read
        return (
            human_flops(work.prefill_flops),
            human_flops(work.decode_flops),
            human_flops(work.decode_flops / steps) if steps else "–",
            "–" if weights is None else human_bytes(weights),
            human_bytes(work.state_bytes_read),
            human_bytes(work.state_bytes_written),
        )

    def notes(self) -> list[str]:
        """Notes on what is counted, and on the marks."""
        counted = (
            f"one request alone that answers {self.new_tokens} tokens: the prompt in one pass, "
            f"then {self.new_tokens - 1} steps; a multiply-add is two operations"
        )
        notes = [counted]
        if any(model.formula.weight_bytes is None for model in self.models):
            notes.append("–: GGUF blocks have many sizes; a loaded model's records tell")
        if any(model.mark for model in self.models):
            notes.append(UNVERIFIED_NOTE)
        return notes
