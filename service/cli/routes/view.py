"""Terminal views of routes, explanations and statistics."""

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def listing(routes: list[dict[str, Any]]) -> Table:
    """Tabulate routes."""
    table = Table(box=None)
    for column in ("route", "policy", "models", "from", ""):
        table.add_column(column)
    for route in routes:
        table.add_row(
            Text(route["id"], style="bold"),
            route["policy"],
            ", ".join(route["models"]),
            route["source"],
            Text(route["error"] or "", style="red"),
        )
    return table


def explanation(found: dict[str, Any]) -> list[RenderableType]:
    """A decision, its arms with what was known of each, and the same computed again."""
    head = Table.grid(padding=(0, 2))
    for name, value in (
        ("asked for", found["requested_model"]),
        ("policy", found["policy"]),
        ("served by", found["served_by"] or "no model"),
        ("to be tried", ", ".join(found["arms"])),
        ("reason", found["reason"] or "–"),
    ):
        head.add_row(Text(name, style="dim"), Text(value))
    facts = found["facts"]
    if facts is None:
        return [head]
    same = (
        "The same decision is computed from the record."
        if found["same"]
        else f"Computed now: {', '.join(found['recomputed_arms'])} ({found['recomputed_reason']})."
    )
    return [head, _facts_table(facts), Text(same, style="green" if found["same"] else "red")]


def _facts_table(facts: dict[str, Any]) -> Table:
    table = Table(title="arms at that moment", title_justify="left", box=None)
    columns = ("arm", "prompt tokens", "context", "requests", "loaded", "down", "predicted")
    for column in columns:
        table.add_column(column)
    for arm in facts["arms"]:
        table.add_row(
            arm["model"],
            f"{arm['prompt_tokens']:,}",
            f"{arm['context_tokens']:,}",
            f"{arm.get('requests', 0)} of {arm['requests_limit']}",
            "yes" if arm.get("loaded") else "no",
            arm.get("down") or "–",
            _prediction(arm.get("prediction")),
        )
    return table


def _prediction(predicted: dict[str, Any] | None) -> str:
    if predicted is None:
        return "–"
    parts = {
        "wait": ("wait_ms", "ms"),
        "prefill": ("prefill_ms", "ms"),
        "TPOT": ("tpot_ms", "ms"),
        "state": ("state_bytes", "bytes"),
        "energy": ("energy_uj", "µJ"),
    }
    known = [
        f"{name} {predicted[field]:,.4g} {unit}"
        for name, (field, unit) in parts.items()
        if predicted.get(field) is not None
    ]
    return ", ".join([*known, f"by {predicted['near']} near"])


def arms_table(arms: list[dict[str, Any]]) -> Table:
    """Tabulate what each arm's requests cost."""
    table = Table(box=None)
    table.add_column("arm")
    for column in (
        "requests", "errors", "tokens", "TTFT p50", "p95", "p99", "TPOT p50", "e2e p50", "p95",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for arm in arms:
        ttft, tpot, e2e = arm["ttft_ms"], arm["tpot_ms"], arm["e2e_ms"]
        errors = ", ".join(f"{count} {code}" for code, count in sorted(arm["errors"].items()))
        tokens = arm["completion_tokens"]
        table.add_row(
            arm["model"] or "no model",
            f"{arm['requests']:,}",
            errors or "0",
            "–" if tokens is None else f"{tokens:,}",
            *(_ms(value) for value in (ttft["p50"], ttft["p95"], ttft["p99"])),
            *(_ms(value) for value in (tpot["p50"], e2e["p50"], e2e["p95"])),
        )
    return table


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f} ms"


def comparisons_table(comparisons: list[dict[str, Any]]) -> Table:
    """Tabulate how the arms relate, by intervals that may be looked at any time."""
    table = Table(title="arm against base, 95 % intervals", title_justify="left", box=None)
    for column in ("arm", "base", "metric", "estimate", "interval", ""):
        table.add_column(column)
    for pair in comparisons:
        for metric in pair["metrics"]:
            table.add_row(pair["arm"], pair["base"], metric["metric"], *_interval(metric))
    return table


def _interval(metric: dict[str, Any]) -> tuple[str, str, str]:
    share = metric["metric"] == "failed"

    def written(value: float | None) -> str:
        if value is None:
            return "–"
        return f"{value:+.1%}" if share else f"{value:.3f}×"

    if metric["low"] is None:
        return written(metric["estimate"]), "–", metric["reason"] or ""
    interval = f"{written(metric['low'])} to {written(metric['high'])}"
    return written(metric["estimate"]), interval, "differs" if metric["decided"] else "undecided"
