"""`python -m model_registry.reference.card`: write the card's tables and plot from results."""

from pathlib import Path
from typing import Final

import click
import msgspec

from model_registry.reference.architectures import Architecture
from model_registry.reference.recall_plot import PANELS, draw, recall_chance
from model_registry.reference.results import Cell, Results

HERE: Final = Path(__file__).parent
TITLES: Final[dict[Architecture, str]] = {
    "transformer": "transformer",
    "ssm": "SSM",
    "hybrid": "hybrid",
}
MEASURES: Final = {
    "dialogue_bits_per_byte": ("bits per byte, held-out dialogues", ""),
    "wikitext2_bits_per_byte": ("bits per byte, WikiText-2", ""),
    "blimp_accuracy": ("BLiMP accuracy", "0.500"),
}


def table(results: Results) -> str:
    """Markdown: a row a measure, a column a model, the row's chance last."""
    models = results.models.values()
    titles = [TITLES[name] for name in results.models]
    rows = [["", *titles, "chance"], ["---", *("--:" for _ in titles), "--:"]]
    rows.append(["parameters", *(f"{model.parameters:,}" for model in models), ""])
    for name, (title, chance) in MEASURES.items():
        rows.append([title, *(f"{getattr(model, name):.3f}" for model in models), chance])
    for cells in zip(*(model.probes for model in models), strict=True):
        shares = [f"{cell.accuracy:.3f}" for cell in cells]
        rows.append([label(cells[0]), *shares, chance_of(cells[0])])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def label(cell: Cell) -> str:
    """What a probe's row is called; distances beyond the trained ones say so."""
    if cell.task in PANELS:
        what, trained = PANELS[cell.task]
        beyond = " (not trained for)" if (cell.size or 0) > trained else ""
        return f"recall past {cell.size} {what}{beyond}"
    if cell.task == "copy":
        return f"copy {cell.size} word{'' if cell.size == 1 else 's'}"
    return cell.task.replace("_", " ")


def chance_of(cell: Cell) -> str:
    """Share of blind guesses that are right; nothing where it is next to zero or unknown."""
    if cell.task in PANELS:
        return f"{recall_chance(cell.task, cell.size or 0):.3f}"
    return "0.100" if cell.task == "count_occurrences" else ""


def replies(results: Results) -> str:
    """Markdown: a row a request, a column a model's greedy reply to it."""
    models = list(results.models.values())
    rows = [["request", *(TITLES[name] for name in results.models)], ["---"] * (1 + len(models))]
    rows += [[text, *(model.replies[text] for model in models)] for text in models[0].replies]
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def with_section(card: str, name: str, text: str) -> str:
    """The card with the text between the section's markers. Raises ValueError without them."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    head, begun, rest = card.partition(begin)
    _, ended, tail = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"the card has no {begin.strip()} … {end.strip()}")
    return f"{head}{begin}\n{text}\n{end}{tail}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=HERE)
def main(folder: Path) -> None:
    """Rewrite README.md and recall.svg in FOLDER by its results.json. Needs the extra `plot`."""
    results = msgspec.json.decode((folder / "results.json").read_bytes(), type=Results)
    card = folder / "README.md"
    text = with_section(card.read_text(), "results", table(results))
    card.write_text(with_section(text, "replies", replies(results)))
    draw(results, folder / "recall.svg")


if __name__ == "__main__":
    main()
