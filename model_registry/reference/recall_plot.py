"""The card's plot: recall against distance with Wilson intervals, one curve an architecture."""

import math
from pathlib import Path
from statistics import NormalDist
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from model_registry.reference.architectures import Architecture
from model_registry.reference.probes import PAIRS_ASIDE, TOKENS_PER_PAIR
from model_registry.reference.results import Results
from model_registry.reference.synthetic import FULL

CONFIDENCE: Final = 0.95
#: Told apart also by those who see few colours (Okabe and Ito 2008).
STYLES: Final[dict[Architecture, tuple[str, str]]] = {
    "transformer": ("#0072b2", "o"),
    "ssm": ("#d55e00", "s"),
    "hybrid": ("#009e73", "^"),
}
GUIDE: Final = "#999999"
PANELS: Final = {
    "recall_past_pairs": ("tokens of other pairs", (FULL.pairs - 1) * TOKENS_PER_PAIR),
    "recall_past_tasks": ("tokens of other tasks", FULL.distance_tokens),
}


def wilson_interval(
    share: float, questions: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bounds of the true share behind an observed one (Wilson 1927, without correction)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    spread = z * math.sqrt(share * (1 - share) / questions + (z / (2 * questions)) ** 2)
    centre = share + z * z / (2 * questions)
    scale = 1 + z * z / questions
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def recall_chance(task: str, size_tokens: int) -> float:
    """Share of right answers of who names one of the chat's own values blindly."""
    return (
        1 / PAIRS_ASIDE if task == "recall_past_tasks" else 1 / (1 + size_tokens / TOKENS_PER_PAIR)
    )


def chart(results: Results) -> Figure:
    """A panel for what lies between: other pairs, other tasks."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, task in zip(panels.flat, PANELS, strict=True):
        _panel(axes, results, task)
    panels.flat[0].set_ylabel("questions answered exactly")
    panels.flat[-1].legend(frameon=False)
    return figure


def _panel(axes: Axes, results: Results, task: str) -> None:
    for name, model in results.models.items():
        cells = [(cell.size or 0, cell.accuracy) for cell in model.probes if cell.task == task]
        shares = [share for _, share in cells]
        bounds = [wilson_interval(share, results.questions_per_probe) for share in shares]
        colour, marker = STYLES[name]
        axes.errorbar(
            [size for size, _ in cells],
            shares,
            yerr=[
                [max(0.0, share - low) for share, (low, _) in zip(shares, bounds, strict=True)],
                [max(0.0, high - share) for share, (_, high) in zip(shares, bounds, strict=True)],
            ],
            color=colour,
            marker=marker,
            capsize=3,
            label=name,
        )
    label, trained = PANELS[task]
    sizes = sorted({cell.size or 0 for m in results.models.values() for cell in m.probes
                    if cell.task == task})  # fmt: skip
    axes.axvline(trained, color=GUIDE, linestyle="--", linewidth=1)
    axes.annotate("longest\ntrained", (trained, 0.5), color=GUIDE, fontsize=8)
    chances = [recall_chance(task, size) for size in sizes]
    axes.plot(sizes, chances, color=GUIDE, linestyle=":", linewidth=1)
    # Linear below the first distance of note, for the logarithm has no zero.
    axes.set_xscale("symlog", base=2, linthresh=next(size for size in sizes if size > 0))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(f"{label} between (dotted: a stated value drawn blindly)")
    axes.spines[["top", "right"]].set_visible(False)


def draw(results: Results, file: Path) -> None:
    """Write the chart as SVG, the same bytes for the same results."""
    with mpl.rc_context({"svg.hashsalt": "recall", "svg.fonttype": "none"}):
        chart(results).savefig(file, format="svg", metadata={"Date": None})
