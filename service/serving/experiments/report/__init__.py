"""Reports of experiments, from their trials to a page; scipy and plotly are imported when used."""

from collections.abc import Mapping, Sequence

from service.core.experiments.plan import Plan
from service.core.experiments.report import Report
from service.core.experiments.trial import Trial

__all__ = ["build_report", "render_html", "render_json", "render_markdown"]


def build_report(
    plan: Plan,
    trials: Sequence[Trial],
    environment: Mapping[str, object],
    *,
    name: str | None = None,
    prompts: Mapping[str, str] | None = None,
    predicted_bytes: Mapping[str, Mapping[int, float]] | None = None,
) -> Report:
    """Return the report on an experiment, whatever part of its trials has ended.

    Args:
        plan: what was to be done.
        trials: its trials; warm-ups and cold ones are left out of every number.
        environment: facts of machine and service, shown as they are.
        name: of the report; the plan's where None.
        prompts: texts by prompt id, to be shown where arms differ most.
        predicted_bytes: by model, the state's bytes by context in tokens, of the planning formula.
    """
    from service.serving.experiments.report.builder import build

    return build(
        plan,
        trials,
        environment,
        name=name or plan.name,
        prompts=prompts or {},
        predicted_bytes=predicted_bytes or {},
    )


def render_json(report: Report) -> bytes:
    """Return the report as JSON."""
    import msgspec

    return msgspec.json.encode(report)


def render_markdown(report: Report) -> str:
    """Return the report as Markdown: answers first."""
    from service.serving.experiments.report.markdown import markdown

    return markdown(report)


def render_html(report: Report) -> str:
    """Return the report as one HTML page that needs no network."""
    from service.serving.experiments.report.page import page

    return page(report)
